"""Small models whose inference form must be found: switches, queues, parts. See ``tf_models.py``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


def _random(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).normal(0, 0.3, shape).astype(np.float32)


def _checkpoint(build: Callable[[], None]) -> Callable[[Path], None]:
    """A training graph of ``build`` and its stored variables; ``path`` is the prefix."""

    def write(path: Path) -> None:
        graph = tf.Graph()
        with graph.as_default():
            v1.disable_control_flow_v2()
            build()
            saver = v1.train.Saver()
            with v1.Session() as session:
                session.run(v1.global_variables_initializer())
                saver.save(session, str(path))

    return write


def _trained(logits: Any) -> None:
    labels = v1.placeholder(tf.int32, [None], name="labels")
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    v1.train.GradientDescentOptimizer(0.1).minimize(tf.reduce_mean(losses))


def _noise_unless_told() -> None:
    """Noise is chosen by a Select, and its switch stands at training by default."""
    x = v1.placeholder(tf.float32, [None, 8], name="x")
    training = v1.placeholder_with_default(True, [], name="training")
    noisy = tf.where(training, x + tf.random.normal(tf.shape(x)), x)
    _trained(tf.matmul(noisy, v1.get_variable("w", initializer=_random(8, 3)), name="logits"))


def _rate_by_switch() -> None:
    """Dropout is always there; a switch sets its rate to zero."""
    x = v1.placeholder(tf.float32, [None, 8], name="x")
    training = v1.placeholder_with_default(False, [], name="training")
    dropped = v1.nn.dropout(x, rate=tf.where(training, 0.5, 0.0))
    _trained(tf.matmul(dropped, v1.get_variable("w", initializer=_random(8, 3)), name="logits"))


def _in_parts() -> None:
    """A variable that is stored whole and held in two parts."""
    x = v1.placeholder(tf.float32, [None, 16], name="x")
    with v1.variable_scope("s", partitioner=v1.fixed_size_partitioner(2)):
        w = v1.get_variable("w", [16, 5], initializer=v1.random_normal_initializer(seed=2))
    _trained(tf.matmul(x, tf.convert_to_tensor(w), name="logits"))


def _queued() -> None:
    """Input from a queue that declares its shapes."""
    pictures = v1.train.shuffle_batch([tf.random.uniform([8, 8, 3])], 4, 100, 10)
    hidden = tf.nn.conv2d(pictures, v1.get_variable("k", initializer=_random(3, 3, 3, 4)), 1, "SAME")
    _trained(
        tf.matmul(
            tf.reshape(hidden, [-1, 256]), v1.get_variable("w", initializer=_random(256, 3)), name="logits"
        )
    )


def _training_argument(path: Path) -> None:
    """A signature that takes the switch as an argument."""

    class Net(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec([None, 4], name="x"), tf.TensorSpec([], tf.bool, name="training")]
        )
        def __call__(self, x: Any, training: Any) -> Any:
            return {"y": tf.cond(training, lambda: tf.nn.dropout(x, 0.5), lambda: x * 2.0)}

    net = Net()
    tf.saved_model.save(net, str(path), signatures={"serving_default": net.__call__})


def _same_names(path: Path) -> None:
    """A signature whose output has the name of its input."""

    class Net(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
        def __call__(self, x: Any) -> Any:
            return {"x": tf.tanh(x), "y": x}

    net = Net()
    tf.saved_model.save(net, str(path), signatures={"serving_default": net.__call__})


def _keras_handed_through(path: Path) -> None:
    import keras

    x = keras.Input((4,), name="x")
    keras.Model(x, [x, keras.layers.Dense(2, name="d", kernel_initializer="ones")(x)]).save(path)


def _keras_stateful(path: Path) -> None:
    import keras

    layers = [keras.Input(batch_shape=(2, 7, 5)), keras.layers.LSTM(4, stateful=True, name="remembers")]
    keras.Sequential(layers).save(path)


SWITCHED: dict[str, Callable[[Path], None]] = {
    "noise_unless_told": _checkpoint(_noise_unless_told),
    "rate_by_switch": _checkpoint(_rate_by_switch),
    "in_parts": _checkpoint(_in_parts),
    "queued": _checkpoint(_queued),
    "training_argument": _training_argument,
    "same_names": _same_names,
    "keras_handed_through": _keras_handed_through,
    "keras_stateful": _keras_stateful,
}
