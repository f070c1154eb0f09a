"""TFLite files made by TensorFlow's own converter, in a child process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

_RNG = np.random.default_rng(2)


def _weights(*shape: int) -> Any:
    return tf.constant(_RNG.normal(0.0, 0.4, shape).astype(np.float32))


_KERNEL, _MATRIX = _weights(3, 3, 3, 8), _weights(6, 6)


def _loop(x: Any) -> Any:
    """A loop with a constant matrix, a growing sum and a counter."""
    return tf.while_loop(
        lambda i, a, _: i < 4,
        lambda i, a, total: (i + 1, tf.tanh(tf.matmul(a, _MATRIX)), total + a),
        [0, x, tf.zeros_like(x)],
    )[2]


def _loop_until(x: Any) -> Any:
    """As many rounds as the data need."""
    return tf.while_loop(lambda a: tf.reduce_sum(a * a) < 100.0, lambda a: [a * 1.5 + 0.1], [x])[0]


def _nested(x: Any) -> Any:
    def body(i: Any, a: Any) -> Any:
        return i + 1, tf.cond(tf.reduce_sum(a) > 0.0, lambda: a * 0.5, lambda: tf.matmul(a, _MATRIX) + 1.0)

    return tf.while_loop(lambda i, a: i < 3, body, [0, x])[1]


@functools.cache
def _lstm_layer() -> Any:
    import keras

    layer = keras.layers.LSTM(7, return_sequences=True)
    layer.build((None, 5, 6))
    layer.set_weights([_RNG.normal(0.0, 0.5, weight.shape) for weight in layer.get_weights()])
    return layer


def _lstm(x: Any) -> Any:
    return _lstm_layer()(x)


def _suppressed(x: Any) -> Any:
    boxes = tf.concat([x[:, :2], x[:, :2] + tf.abs(x[:, 2:4]) + 0.1], 1)
    return tf.image.non_max_suppression_padded(
        boxes, tf.linspace(0.9, 0.2, 8), 3, pad_to_max_output_size=True
    )


def _convolved(x: Any) -> Any:
    return tf.nn.relu(tf.nn.conv2d(x, _KERNEL, 1, "SAME"))


_NETWORKS: dict[str, tuple[tuple[int | None, ...], Callable[[Any], Any], str]] = {
    # shape of the input, function, precision
    "loop": ((2, 6), _loop, ""),
    "loop_of_any_batch": ((None, 6), _loop, ""),
    "loop_until": ((2, 6), _loop_until, ""),
    "branches": ((2, 6), lambda x: tf.cond(tf.reduce_sum(x) > 0.0, lambda: x * 2.0, lambda: x - 1.0), ""),
    "branch_in_loop": ((2, 6), _nested, ""),
    "lstm": ((1, 5, 6), _lstm, ""),
    "lstm_8_bit_weights": ((1, 5, 6), _lstm, "weights"),
    "suppressed": ((8, 6), _suppressed, ""),
    "spectrum": ((2, 128), lambda x: tf.abs(tf.signal.rfft(x)), ""),
    "spectrum_filled_up": ((2, 100), lambda x: tf.math.real(tf.signal.rfft(x, [128])), ""),
    "spectrum_2d": ((2, 8, 16), lambda x: tf.math.imag(tf.signal.rfft2d(x)), ""),
    "convolved_16": ((1, 8, 8, 3), _convolved, "16x8"),
    "resized_16": ((1, 8, 8, 3), lambda x: tf.image.resize(_convolved(x), [13, 11]), "16x8"),
    "corners_16": (
        (1, 8, 8, 3),
        lambda x: tf.compat.v1.image.resize_bilinear(_convolved(x), [5, 14], align_corners=True),
        "16x8",
    ),
}


def build(name: str, path: Path, _progress: object) -> None:
    """Write network ``name`` to ``path``."""
    shape, function, precision = _NETWORKS[name]
    if function is _lstm:
        _lstm_layer()  # variables are made outside of what is traced
    traced = tf.function(function).get_concrete_function(tf.TensorSpec(shape, tf.float32))
    if traced.variables:
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        traced = convert_variables_to_constants_v2(traced)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
    if precision:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "16x8":
        rng = np.random.default_rng(5)
        converter.representative_dataset = lambda: (
            [rng.normal(size=shape).astype(np.float32)] for _ in range(10)
        )
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    path.write_bytes(converter.convert())
