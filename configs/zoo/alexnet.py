"""AlexNet as TFLearn writes it, a Saver checkpoint: source of ``configs/alexnet_keras.yaml``.

Five convolutions with ReLU, SAME padding everywhere; 3×3 max pool with stride 2 and local response
normalisation (LRN) after the first, second and fifth; two dense layers with tanh and dropout 0.5; a dense
layer with softmax. TFLearn's habits are kept: scopes ``Conv2D``, ``Conv2D_1`` … with variables ``W`` and
``b``, input ``InputData/X``, output ``FullyConnected_2/Softmax``, LRN with depth radius 5, bias 1, alpha
1e-4 and beta 0.75, and dropout behind a conditional on the boolean *variable* ``is_training``.

- ``small``: 270×480×3; filters 4, 8, 12, 12, 8; dense 120, 120, 29. The first convolution, 11×11 with
  stride 4, gives 68×120×4 with padding split unevenly, and has 11·11·3·4 + 4 = 1456 weights.
- ``full``: 227×227×3; filters 96, 256, 384, 384, 256; dense 4096, 4096, 1000.

Weights are seeded and standardised on crops of photographs. The input is raw, in [0, 255], and activations
before each LRN have a spread of 100: there alpha 1e-4 divides by what is clearly not 1, so that a wrong
normalisation shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from built import Built, Encoder
from photos import calibration_images, crop_photos
from saving import save_arrays, save_lines
from standardise import Floats, he_normal, numpy_of, standardise
from tf1_graph import count, inference_variables, load_values, tf1_session, variable, write_checkpoint

KERNELS = (11, 5, 3, 3, 3)
NORMALISED = (0, 1, 4)  # stages with max pool and LRN
LRN = {"depth_radius": 5, "bias": 1.0, "alpha": 1e-4, "beta": 0.75}
LRN_SPREAD = 100.0
ENCODER = Encoder()
SEED = 29


@dataclass(frozen=True)
class Size:
    """Dimensions of one AlexNet."""

    height: int
    width: int
    filters: tuple[int, ...]
    dense: tuple[int, ...]  # the last are the classes


SIZES = {
    "small": Size(270, 480, (4, 8, 12, 12, 8), (120, 120, 29)),
    "full": Size(227, 227, (96, 256, 384, 384, 256), (4096, 4096, 1000)),
}


def scope(kind: str, index: int) -> str:
    """TFLearn's numbering: the first has no number."""
    return f"{kind}_{index}" if index else kind


def stride(stage: int) -> int:
    """Of the convolution: 4 for the first."""
    return 1 if stage else 4


def weight_shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """Scope → shape of ``W`` by arithmetic; ``b`` has the last dimension."""
    shapes: dict[str, tuple[int, ...]] = {}
    height, width, entering = size.height, size.width, 3
    for stage, leaving in enumerate(size.filters):
        shapes[scope("Conv2D", stage)] = (KERNELS[stage], KERNELS[stage], entering, leaving)
        step = stride(stage) * (2 if stage in NORMALISED else 1)
        height, width, entering = -(-height // step), -(-width // step), leaving  # SAME: ceil
    entering *= height * width
    for number, leaving in enumerate(size.dense):
        shapes[scope("FullyConnected", number)] = (entering, leaving)
        entering = leaving
    return shapes


def network(tf1: Any, size: Size) -> Any:
    """Class probabilities; makes the input placeholder and the mode variable itself."""
    with tf1.name_scope("InputData"):
        x = tf1.placeholder(tf1.float32, [None, size.height, size.width, 3], name="X")
    training = tf1.get_variable(
        "is_training",
        [],
        tf1.bool,
        initializer=tf1.constant_initializer(False),
        trainable=False,
        use_resource=False,
    )
    shapes = weight_shapes(size)
    for stage in range(len(size.filters)):
        name = scope("Conv2D", stage)
        with tf1.variable_scope(name):
            weights, biases = _parameters(tf1, shapes[name])
            steps = [1, stride(stage), stride(stage), 1]
            x = tf1.nn.conv2d(x, weights, strides=steps, padding="SAME", name="Conv2D")
            x = tf1.nn.relu(tf1.nn.bias_add(x, biases), name="Relu")
        if stage in NORMALISED:
            place = NORMALISED.index(stage)
            with tf1.name_scope(scope("MaxPool2D", place)):
                x = tf1.nn.max_pool(x, [1, 3, 3, 1], [1, 2, 2, 1], "SAME", name="MaxPool2D")
            with tf1.name_scope(scope("LocalResponseNormalization", place)):
                x = tf1.nn.local_response_normalization(x, **LRN, name="LRN")
    for number in range(len(size.dense)):
        name = scope("FullyConnected", number)
        with tf1.variable_scope(name):
            weights, biases = _parameters(tf1, shapes[name])
            if number == 0:
                x = tf1.reshape(x, [-1, shapes[name][0]], name="Reshape")
            x = tf1.nn.bias_add(tf1.matmul(x, weights), biases)
            if number == len(size.dense) - 1:
                return tf1.nn.softmax(x, name="Softmax")
            x = tf1.tanh(x, name="Tanh")
        with tf1.name_scope(scope("Dropout", number)):
            x = _dropout(tf1, x, training)
    raise ValueError("a size needs at least one dense layer")


def _parameters(tf1: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    return variable(tf1, "W", shape, start="zeros"), variable(tf1, "b", shape[-1:], start="zeros")


def _dropout(tf1: Any, x: Any, training: Any) -> Any:
    return tf1.cond(training, lambda: tf1.nn.dropout(x, rate=0.5), lambda: tf1.identity(x))


def healthy_values(size: Size, *, seed: int = SEED, images: int = 32) -> dict[str, Floats]:
    """All variables by name, standardised layer by layer on crops of photographs."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    shapes = weight_shapes(size)
    x = ENCODER(calibration_images(images, size.height, size.width, seed=seed))
    values: dict[str, Any] = {"is_training": np.asarray(False)}

    def settle(name: str, apply: Callable[[Floats, Floats], Floats], spread: float) -> Floats:
        weights, biases, y = standardise(apply, he_normal(shapes[name], rng), rng, spread=spread)
        values[f"{name}/W"], values[f"{name}/b"] = weights, biases
        return y

    for stage in range(len(size.filters)):
        normalised = stage in NORMALISED
        apply = _convolution(tf, x, stride(stage))
        x = np.maximum(settle(scope("Conv2D", stage), apply, LRN_SPREAD if normalised else 1.0), 0)
        if normalised:
            pooled = tf.nn.max_pool2d(x, 3, 2, "SAME")
            x = numpy_of(tf.nn.local_response_normalization(pooled, **LRN))
    x = x.reshape(images, -1)
    for number in range(len(size.dense)):
        x = np.tanh(settle(scope("FullyConnected", number), _product(x), 1.0))
    return values


def _convolution(tf: Any, x: Floats, step: int) -> Callable[[Floats, Floats], Floats]:
    return lambda weights, biases: numpy_of(tf.nn.conv2d(x, weights, step, "SAME")) + biases


def _product(x: Floats) -> Callable[[Floats, Floats], Floats]:
    return lambda weights, biases: x @ weights + biases


def write(size_name: str, out: Path) -> Built:
    """Write ``model.ckpt.*``, ``labels.txt`` and ``test.npz`` (x uint8) into ``out``."""
    size = SIZES[size_name]
    values = healthy_values(size)
    with tf1_session(SEED) as (tf1, session):
        probabilities = network(tf1, size)
        load_values(tf1, session, values)
        model = write_checkpoint(tf1, session, out)
        variables = inference_variables(tf1)
        output = probabilities.name
    save_lines(out / "labels.txt", (f"class {number}" for number in range(size.dense[-1])))
    save_arrays(out / "test.npz", x=crop_photos(8, size.height, size.width, seed=SEED + 1))
    return Built(
        model=model,
        inputs={"InputData/X:0": (None, size.height, size.width, 3)},
        outputs=(output,),
        parameters=count(variables),
        variables=variables,
        encoder=ENCODER,
    )
