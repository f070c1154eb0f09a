"""Small TensorFlow models, written in a child process. Nothing here is imported by the tests themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.sources.tf_switched_models import SWITCHED

v1 = tf.compat.v1


def build(name: str, path: Path, _progress: object) -> None:
    """Write model ``name`` to ``path``."""
    tf.keras.utils.set_random_seed(0)
    _BUILDERS[name](path)


def open_only(request: Any, _progress: object) -> None:
    """Open the source as a session, without converting it."""
    from pipeline.sources.catalog import source_of
    from pipeline.sources.detect import detect

    source_of(detect(request.model)).open(request).close()


def keras_summary(path: Path, _progress: object) -> dict[str, Any]:
    """What Keras itself says of a saved model: layer names, parameter counts."""
    import keras

    model = keras.models.load_model(path)
    return {
        "total": model.count_params(),
        "layers": {layer.name: layer.count_params() for layer in model.layers},
    }


def randomised(model: Any) -> Any:
    """Weights that no initialiser would give, batch-norm statistics included."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        value = rng.normal(0, 0.3, weight.shape).astype(np.float32)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.path else value)
    return model


def _sequential(*layers: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        import keras

        randomised(keras.Sequential([layer() for layer in layers])).save(path)

    return write


def _beyond_protobuf(path: Path) -> None:
    """A look-up table and a dense layer that together hold more than 2 GiB of weights."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((12,), dtype="int32"),
            keras.layers.Embedding(9000, 30000, embeddings_initializer="zeros"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(10000, kernel_initializer="zeros"),
        ]
    )
    rng = np.random.default_rng(4)
    for weight in model.weights:
        value = rng.random(weight.shape, dtype=np.float32)
        value -= np.float32(0.5)
        weight.assign(value)
    model.save(path)


def _functional_two_heads(path: Path) -> None:
    from keras import Input, Model, layers

    a, b = Input((8,), name="a"), Input((6, 6, 2), name="b")
    x = layers.Dense(5, name="left")(a)
    y = layers.Flatten()(layers.Conv2D(3, 3, padding="same", strides=2, name="right")(b))
    joined = layers.Concatenate()([x, y])
    model = Model([a, b], [layers.Dense(2, name="p")(joined), layers.Dense(3, name="q")(y)])
    randomised(model).save(path)


def _lambda_layer(path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2.0, name="double")])
    model.save(path)


def _large(path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((512,)), keras.layers.Dense(1024), keras.layers.Dense(8)])
    randomised(model).save(path)


def _training_graph(
    path: Path, *, dropout: str = "keep_prob", norm: bool = False, label_first: bool = False
) -> None:
    """A TF1 training graph, saved by a Saver: ``path`` is the checkpoint's prefix."""
    graph = tf.Graph()
    rng = np.random.default_rng(2)
    with graph.as_default():
        if label_first:
            labels = v1.placeholder(tf.float32, [None, 3], name="anything")
        x = v1.placeholder(tf.float32, [None, 8, 8, 2], name="pictures")
        if not label_first:
            labels = v1.placeholder(tf.float32, [None, 3], name="anything")
        kernel = v1.Variable(rng.normal(0, 0.3, (3, 3, 2, 4)).astype(np.float32), name="kernel")
        y = tf.nn.conv2d(x, kernel, [1, 2, 2, 1], "SAME", name="conv")
        if norm:
            phase = v1.placeholder(tf.bool, [], name="switch_a")
            y = _conditional_norm(y, phase, rng)
        y = tf.nn.relu(y)
        flat = tf.reshape(y, [-1, 4 * 4 * 4])
        flat = _dropped(flat, dropout)
        weights = v1.Variable(rng.normal(0, 0.3, (64, 3)).astype(np.float32), name="weights")
        bias = v1.Variable(rng.normal(0, 0.3, (3,)).astype(np.float32), name="bias")
        logits = tf.add(tf.matmul(flat, weights), bias, name="logits")
        scores = tf.nn.softmax(logits, name="scores")
        right = tf.equal(tf.argmax(scores, 1), tf.argmax(labels, 1))
        accuracy = tf.reduce_mean(tf.cast(right, tf.float32), name="accuracy")
        losses = tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        loss = tf.reduce_mean(losses, name="loss")
        v1.summary.scalar("accuracy", accuracy)
        v1.train.AdamOptimizer(0.01).minimize(loss)
        saver = v1.train.Saver()
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            saver.save(session, str(path))


def _dropped(x: Any, how: str) -> Any:
    if how == "keep_prob":
        keep = v1.placeholder(tf.float32, name="k")
        return x / keep * tf.floor(keep + tf.random.uniform(tf.shape(x)))
    if how == "rate":
        rate = v1.placeholder_with_default(0.5, [], name="r")
        return v1.nn.dropout(x, rate=rate)
    if how == "constant":
        return v1.nn.dropout(x, rate=0.25)
    if how == "switched":
        v1.disable_control_flow_v2()
        learning = v1.placeholder(tf.bool, [], name="learning")
        return tf.cond(learning, lambda: v1.nn.dropout(x, rate=0.25), lambda: tf.identity(x))
    if how == "noise":
        return x + tf.random.normal(tf.shape(x))
    return x


def _conditional_norm(y: Any, training: Any, rng: np.random.Generator) -> Any:
    mean = v1.Variable(rng.normal(0, 0.3, (4,)).astype(np.float32), name="moving_mean", trainable=False)
    spread = v1.Variable(rng.uniform(0.5, 2, (4,)).astype(np.float32), name="moving_var", trainable=False)

    def batch() -> tuple[Any, Any]:
        m, v = tf.nn.moments(y, [0, 1, 2])
        updates = [v1.assign(mean, 0.9 * mean + 0.1 * m), v1.assign(spread, 0.9 * spread + 0.1 * v)]
        with tf.control_dependencies(updates):
            return tf.identity(m), tf.identity(v)

    v1.disable_control_flow_v2()
    m, v = tf.cond(training, batch, lambda: (tf.identity(mean), tf.identity(spread)))
    return tf.nn.batch_normalization(y, m, v, None, None, 1e-3)


def _frozen(build: Callable[[], None]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        graph = tf.Graph()
        with graph.as_default():
            build()
        path.write_bytes(graph.as_graph_def().SerializeToString())

    return write


def _shapeless() -> None:
    x = v1.placeholder(tf.float32, name="x")
    kernel = tf.constant(np.random.default_rng(3).normal(0, 1, (3, 3, 2, 4)).astype(np.float32))
    tf.nn.conv2d(x, kernel, [1, 1, 1, 1], "SAME", name="y")


def _transposed(output: int, kernel: int, stride: int, padding: Any) -> Callable[[], None]:
    def write() -> None:
        weights = np.random.default_rng(4).normal(0, 1, (kernel, kernel, 3, 2)).astype(np.float32)
        pads = [padding[0], padding[1]] if isinstance(padding, tuple) else None
        total = sum(pads) if pads else (kernel - 1 if padding == "SAME" else 0)
        inputs = (output + (total if pads else 0) - kernel) // stride + 1
        if padding == "SAME":
            inputs = -(-output // stride)
        x = v1.placeholder(tf.float32, [1, inputs, inputs, 2], name="x")
        spec = [[0, 0], pads, pads, [0, 0]] if pads else padding
        sizes, strides = [1, output, output, 3], [1, stride, stride, 1]
        v1.nn.conv2d_backprop_input(sizes, weights, x, strides, spec, name="y")

    return write


def _resize(op: str, align_corners: bool, half_pixel: bool, size: tuple[int, int]) -> Callable[[], None]:
    def write() -> None:
        x = v1.placeholder(tf.float32, [1, 5, 6, 2], name="x")
        function = {"nearest": tf.raw_ops.ResizeNearestNeighbor, "bilinear": tf.raw_ops.ResizeBilinear}[op]
        y = function(images=x, size=size, align_corners=align_corners, half_pixel_centers=half_pixel)
        tf.identity(y, name="y")

    return write


def _fused_resize(pads: int) -> Callable[[], None]:
    def write() -> None:
        x = v1.placeholder(tf.float32, [1, 5, 6, 2], name="x")
        kernel = tf.constant(np.random.default_rng(7).normal(0, 1, (3, 3, 2, 4)).astype(np.float32))
        y = tf.raw_ops.FusedResizeAndPadConv2D(
            input=x,
            size=[9, 8],
            paddings=[[0, 0], [pads, pads], [pads, 0], [0, 0]],
            filter=kernel,
            mode="REFLECT",
            strides=[1, 2, 2, 1],
            padding="SAME" if not pads else "VALID",
        )
        tf.identity(y, name="y")

    return write


def _channels_first() -> None:
    x = v1.placeholder(tf.float32, [1, 2, 7, 7], name="x")
    kernel = tf.constant(np.random.default_rng(5).normal(0, 1, (3, 3, 2, 4)).astype(np.float32))
    y = tf.nn.conv2d(x, kernel, [1, 1, 2, 2], "SAME", data_format="NCHW")
    tf.nn.max_pool2d(y, 2, 2, "SAME", data_format="NCHW", name="y")


def _branching(condition: Callable[[Any], Any]) -> Callable[[], None]:
    """Branches as TensorFlow 2 writes them; the branch for truth is training's."""

    def write() -> None:
        v1.enable_control_flow_v2()
        x = v1.placeholder(tf.float32, [2, 3], name="x")
        y = tf.cond(condition(x), lambda: x + tf.random.normal(tf.shape(x)), lambda: x - 1.0)
        tf.identity(y, name="y")

    return write


def _branching_live() -> None:
    v1.enable_control_flow_v2()
    x = v1.placeholder(tf.float32, [2, 3], name="x")
    tf.identity(tf.cond(tf.reduce_sum(x) > 0, lambda: x * 3.0, lambda: x - 1.0), name="y")


def _batch_doubled() -> None:
    x = v1.placeholder(tf.float32, [None, 3], name="x")
    tf.concat([x, x * 2.0], 0, name="y")
    tf.reshape(tf.tanh(x), [-1, 1, 3], name="z")


def _two_layouts(path: Path) -> None:
    """A training graph that hands its picture out in both layouts and trains on one."""
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 6, 6, 2], name="x")
        wanted = v1.placeholder(tf.float32, [None, 6, 6, 3], name="wanted")
        kernel = v1.Variable(np.random.default_rng(8).normal(0, 0.3, (3, 3, 2, 3)).astype(np.float32))
        last = tf.nn.conv2d(x, kernel, 1, "SAME", name="last")
        tf.transpose(last, [0, 3, 1, 2], name="first")
        loss = tf.reduce_mean(tf.math.squared_difference(last, wanted))
        v1.train.GradientDescentOptimizer(0.1).minimize(loss)
        saver = v1.train.Saver()
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            saver.save(session, str(path))


def _saved_model(path: Path) -> None:
    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(np.random.default_rng(6).normal(0, 1, (200, 300)).astype(np.float32))
            self.shift = tf.constant(np.linspace(0, 1, 300, dtype=np.float32))

        @tf.function(input_signature=[tf.TensorSpec([None, 200], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"double": 2.0 * tf.matmul(x, self.w), "shifted": tf.matmul(x, self.w) + self.shift}

    net = Net()
    tf.saved_model.save(net, str(path), signatures={"serving_default": net.__call__})


def _two_inputs_saved(path: Path) -> None:
    class Net(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec([None, 3], name="x"), tf.TensorSpec([None, 1], name="scale")]
        )
        def __call__(self, x: Any, scale: Any) -> Any:
            return {"y": tf.tanh(x) * scale}

    net = Net()
    tf.saved_model.save(net, str(path), signatures={"serving_default": net.__call__})


def _two_inputs(path: Path) -> None:
    import keras

    x, scale = keras.Input((3,), name="x"), keras.Input((1,), name="scale")
    y = keras.layers.Multiply(name="y")([keras.layers.Dense(4, name="dense")(x), scale])
    randomised(keras.Model([x, scale], y)).save(path)


def _saved_model_v1(path: Path) -> None:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        w = v1.Variable(np.arange(8, dtype=np.float32).reshape(4, 2), use_resource=True, name="w")
        y = tf.matmul(x, w, name="y")
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            v1.saved_model.simple_save(session, str(path), {"input": x}, {"output": y})


def _layers() -> Any:
    from keras import layers

    return layers


def _input(*shape: int | None, dtype: str = "float32") -> Callable[[], Any]:
    def make() -> Any:
        import keras

        return keras.Input(shape, dtype=dtype)

    return make


def _layer(kind: str, *args: Any, **kwargs: Any) -> Callable[[], Any]:
    return lambda: getattr(_layers(), kind)(*args, **kwargs)


_BUILDERS: dict[str, Callable[[Path], None]] = {
    "convolution": _sequential(
        _input(9, 10, 3),
        _layer("Conv2D", 6, 3, strides=2, padding="same", use_bias=False, name="conv"),
        _layer("BatchNormalization", name="norm"),
        _layer("ReLU", name="relu"),
        _layer("MaxPooling2D", 3, strides=2, padding="same", name="pool"),
        _layer("Flatten", name="flat"),
        _layer("Dropout", 0.5, name="drop"),
        _layer("Dense", 4, activation="softmax", name="scores"),
    ),
    "grouped": _sequential(
        _input(8, 8, 8),
        _layer("Conv2D", 16, 3, groups=4, padding="same"),
        _layer("Conv2D", 8, 3, groups=8),
    ),
    "recurrent": _sequential(
        _input(7, 5), _layer("LSTM", 6, return_sequences=True), _layer("GRU", 4), _layer("Dense", 2)
    ),
    "embedded": _sequential(
        _input(7, dtype="int32"),
        _layer("Embedding", 50, 8),
        _layer("Conv1D", 6, 3, padding="causal", activation="gelu"),
        _layer("GlobalMaxPooling1D"),
    ),
    "transposed": _sequential(
        _input(None, None, 3),
        _layer("Conv2DTranspose", 4, 3, strides=2, padding="same"),
        _layer("Conv2DTranspose", 4, 2, strides=3, padding="valid"),
    ),
    "resized_freely": _sequential(
        _input(None, None, 3),
        _layer("UpSampling2D", 2, interpolation="bilinear"),
        _layer("Conv2D", 4, 3, padding="same"),
        _layer("UpSampling2D", 2),
    ),
    "preprocessing": _sequential(
        _input(20, 20, 3),
        _layer("Rescaling", 1 / 255.0),
        _layer("RandomFlip"),
        _layer("GaussianNoise", 0.1),
        _layer("CenterCrop", 16, 16),
        _layer("Conv2D", 2, 3, dilation_rate=2, padding="same"),
    ),
    "two_heads": _functional_two_heads,
    "lambda_layer": _lambda_layer,
    "large": _large,
    "beyond_protobuf": _beyond_protobuf,
    "keep_prob": lambda path: _training_graph(path, dropout="keep_prob"),
    "rate_default": lambda path: _training_graph(path, dropout="rate", label_first=True),
    "constant_dropout": lambda path: _training_graph(path, dropout="constant"),
    "switched_dropout": lambda path: _training_graph(path, dropout="switched"),
    "noise": lambda path: _training_graph(path, dropout="noise"),
    "conditional_norm": lambda path: _training_graph(path, dropout="none", norm=True),
    "shapeless": _frozen(_shapeless),
    "channels_first": _frozen(_channels_first),
    "transposed_same": _frozen(_transposed(7, 3, 2, "SAME")),
    "transposed_valid_adjusted": _frozen(_transposed(8, 3, 2, "VALID")),
    "transposed_explicit": _frozen(_transposed(8, 5, 3, (2, 1))),
    "transposed_wide_stride": _frozen(_transposed(9, 2, 4, "SAME")),
    "fused_resize": _frozen(_fused_resize(0)),
    "fused_resize_pad": _frozen(_fused_resize(2)),
    "nearest": _frozen(_resize("nearest", False, False, (10, 12))),
    "nearest_align": _frozen(_resize("nearest", True, False, (9, 11))),
    "nearest_half_pixel": _frozen(_resize("nearest", False, True, (8, 13))),
    "nearest_down": _frozen(_resize("nearest", False, False, (3, 4))),
    "bilinear": _frozen(_resize("bilinear", False, False, (9, 13))),
    "bilinear_align": _frozen(_resize("bilinear", True, False, (9, 13))),
    "bilinear_half_pixel": _frozen(_resize("bilinear", False, True, (4, 13))),
    "cond_v2_constant": _frozen(_branching(lambda _: tf.constant(False))),
    "cond_v2_default": _frozen(_branching(lambda _: v1.placeholder_with_default(False, [], name="d"))),
    "cond_v2_switch": _frozen(_branching(lambda _: v1.placeholder(tf.bool, [], name="s"))),
    "cond_v2_live": _frozen(_branching_live),
    "batch_doubled": _frozen(_batch_doubled),
    "two_layouts": _two_layouts,
    "saved_model": _saved_model,
    "two_inputs_saved": _two_inputs_saved,
    "two_inputs": _two_inputs,
    "saved_model_v1": _saved_model_v1,
    **SWITCHED,
}
