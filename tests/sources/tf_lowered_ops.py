"""Small TF1 graphs of ops that are written out before conversion. See ``tf_ops.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tests.sources.tf_tensor_ops import Shape, weights

raw = tf.raw_ops


def _ordered() -> Any:
    return tf.constant([[-1.0, 0.0, 0.5, 1.0]] * 2)


def _unpooled(x: Any) -> Any:
    """SegNet's unpooling; both pictures write to the same places, and their values add up."""
    pooled, places = tf.nn.max_pool_with_argmax(x, 2, 2, "SAME")
    size = tf.constant([7 * 9 * 4], tf.int64)
    return tf.scatter_nd(tf.reshape(places, [-1, 1]), tf.reshape(pooled, [-1]), size)


def _fake_quant(bits: int, *, narrow: bool) -> Callable[[Any], Any]:
    return lambda x: tf.quantization.fake_quant_with_min_max_vars(
        x, -1.3, 2.1, num_bits=bits, narrow_range=narrow
    )


LOWERED_CASES: dict[str, tuple[Shape, Callable[[Any], Any]]] = {
    "shape_n": (
        (None, 5, 6),
        lambda x: x / tf.cast(tf.reduce_prod(raw.ShapeN(input=[x, x])[1]), tf.float32),
    ),
    "euclidean_norm": ((2, 7, 9, 4), lambda x: tf.math.reduce_euclidean_norm(x, [1, 3], keepdims=True)),
    "multiply_no_nan": ((3, 8), lambda x: tf.math.multiply_no_nan(1.0 / tf.nn.relu(x), tf.nn.relu(x))),
    "where_hides_infinity": (
        (3, 8),
        lambda x: tf.where(x > 0.5, tf.math.log(tf.nn.relu(x)), tf.zeros_like(x) - 1.0),
    ),
    "where_hides_nan_by_rows": (
        (3, 8),
        lambda x: tf.compat.v1.where(tf.reduce_sum(x, 1) > 99.0, tf.sqrt(-tf.abs(x) - 1.0), x),
    ),
    "where_one_truth": (
        (3, 8),
        lambda x: tf.where(tf.reduce_sum(x) > 1e9, 1.0 / tf.zeros_like(x), x),
    ),
    "parallel_concat": (
        (2, 5, 6),
        lambda x: raw.ParallelConcat(values=[x[:1], x[1:] * 2.0], shape=[2, 5, 6]),
    ),
    "in_top_k": ((2, 20), lambda x: tf.math.in_top_k([3, 4], x, 7)),
    "search_left": ((2, 5), lambda x: tf.searchsorted(_ordered(), x)),
    "search_right": ((2, 5), lambda x: tf.searchsorted(_ordered(), x, side="right")),
    "fake_quant_narrow": ((3, 8), _fake_quant(8, narrow=True)),
    "fake_quant_four_bits": ((3, 8), _fake_quant(4, narrow=False)),
    "fake_quant_fixed": (
        (3, 8),
        lambda x: tf.quantization.fake_quant_with_min_max_args(x, -1.0, 2.0, narrow_range=True),
    ),
    "fake_quant_channels": (
        (2, 5, 4),
        lambda x: tf.quantization.fake_quant_with_min_max_vars_per_channel(
            x, -weights(4, low=0.5), weights(4, low=0.7)
        ),
    ),
    "scatter_adds": ((2, 7, 9, 4), _unpooled),
    "confusion": (
        (2, 5, 6),
        lambda x: tf.math.confusion_matrix(tf.argmax(x, 2)[0], tf.argmax(x, 2)[1], 6),
    ),
    "rgb_to_hsv": ((2, 7, 9, 3), lambda x: tf.image.rgb_to_hsv(tf.sigmoid(x))),
    "hsv_to_rgb": ((2, 7, 9, 3), lambda x: tf.image.hsv_to_rgb(tf.sigmoid(x))),
    "adjust_saturation": ((2, 7, 9, 3), lambda x: tf.image.adjust_saturation(tf.sigmoid(x), 1.5)),
    "adjust_hue": ((2, 7, 9, 3), lambda x: tf.image.adjust_hue(tf.sigmoid(x), 0.3)),
    "set_diagonal": ((2, 4, 6), lambda x: tf.linalg.set_diag(x, x[:, :, 0] * 2.0)),
    "set_diagonal_tall": ((2, 6, 4), lambda x: tf.linalg.set_diag(x, x[:, 0, :] * 2.0)),
    "diagonal_wide": ((None, 4, 6), tf.linalg.diag_part),
    "mod_truncates": ((3, 8), lambda x: raw.Mod(x=x, y=0.7)),
}
