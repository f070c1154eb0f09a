"""What a user's own module may hold: functions that make a model or build a graph. Imported in a child."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
_TABLE = np.random.default_rng(5).normal(size=(40, 200)).astype(np.float32)  # large enough to be detached


def _specs(*shape: int | None) -> list[Any]:
    return [tf.TensorSpec(shape, tf.float32, name="x")]


def function() -> Any:
    """A ``tf.function`` that captures a constant and a variable."""
    table = tf.constant(_TABLE)
    shift = tf.Variable(np.linspace(0, 1, 200, dtype=np.float32))

    @tf.function(input_signature=_specs(None, 40))
    def call(x: Any) -> Any:
        return {"scores": tf.nn.relu(tf.matmul(x, table) + shift)}

    return call


def without_signature() -> Any:
    """A ``tf.function`` whose shapes the user must give."""
    return tf.function(lambda x: tf.tanh(x) * 2.0)


def concrete() -> Any:
    """A concrete function, which keeps what it reads alive."""
    net = module()
    made = net.__call__.get_concrete_function()
    made.keep = net
    return made


def forgotten() -> Any:
    """A concrete function whose variable nobody keeps: TensorFlow has deleted it."""
    return function().get_concrete_function()


def module() -> Any:
    """A ``tf.Module`` with a ``__call__``."""

    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(_TABLE)

        @tf.function(input_signature=_specs(2, 40))
        def __call__(self, x: Any) -> Any:
            return tf.matmul(x, self.w)

    return Net()


def keras_model() -> Any:
    """A Keras model."""
    import keras

    return keras.Sequential([keras.Input((40,)), keras.layers.Dense(3, name="scores")])


def random() -> Any:
    """A function whose result differs from call to call."""
    return tf.function(lambda x: x + tf.random.uniform(tf.shape(x)), input_signature=_specs(2, 3))


def number() -> Any:
    """No model."""
    return 7


def failing() -> Any:
    """A factory that fails."""
    raise RuntimeError("the weights are on the other machine")


def training_graph() -> None:
    """The forward graph of the checkpoint that ``tf_models`` writes as ``keep_prob``."""
    x = v1.placeholder(tf.float32, [None, 8, 8, 2], name="pictures")
    kernel = v1.get_variable("kernel", [3, 3, 2, 4])
    y = tf.nn.relu(tf.nn.conv2d(x, kernel, [1, 2, 2, 1], "SAME"))
    weights, bias = v1.get_variable("weights", [64, 3]), v1.get_variable("bias", [3])
    tf.nn.softmax(tf.matmul(tf.reshape(y, [-1, 64]), weights) + bias, name="scores")
