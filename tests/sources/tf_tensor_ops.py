"""Small TF1 graphs of tensor arithmetic: arrangement, products, elementwise. See ``tf_ops.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

v1, raw = tf.compat.v1, tf.raw_ops
Shape = tuple[int | None, ...]


def weights(*shape: int, low: float | None = None) -> Any:
    """Weights of ``shape``: normal, or uniform from ``low`` on."""
    rng = np.random.default_rng(len(shape) * 100 + sum(shape))
    values = rng.normal(0, 0.5, shape) if low is None else rng.uniform(low, low + 1, shape)
    return tf.constant(values.astype(np.float32))


def _sparse_rows(x: Any) -> Any:
    return tf.gather_nd(x, [[[0, 1], [1, 2]], [[1, 0], [0, 6]]])


def _ints(x: Any, depth: int) -> Any:
    return tf.cast(tf.math.floormod(tf.round(x * 3), depth), tf.int32)


TENSOR_CASES: dict[str, tuple[Shape, Callable[[Any], Any]]] = {
    # arrangement
    "unpack_pack": ((3, 4, 5), lambda x: tf.stack(tf.unstack(x, axis=1)[::-1], axis=2)),
    "slice_begin_mask": ((3, 4, 5, 6), lambda x: x[:, 1:, ::2, -3:]),
    "slice_negative": ((3, 4, 5, 6), lambda x: x[::-1, :, 4:0:-2]),
    "slice_ellipsis": ((3, 4, 5, 6), lambda x: x[0, ..., 1:3]),
    "slice_new_axis": ((3, 4, 5), lambda x: x[:, tf.newaxis, 1, ..., tf.newaxis]),
    "slice_free": ((None, 6, 5), lambda x: x[1:, -2, :-1]),
    "slice_size": ((3, 4, 5), lambda x: tf.slice(x, [1, 0, 2], [-1, 3, 2])),
    "split": ((3, 8, 5), lambda x: tf.concat(tf.split(x, 4, axis=1)[::-1], 0)),
    "split_sizes": ((3, 8, 5), lambda x: tf.concat(tf.split(x, [1, 5, 2], axis=1)[::-1], 1)),
    "top_values": ((3, 8), lambda x: tf.math.top_k(x, 3)[0]),
    "top_places": ((3, 8), lambda x: tf.math.top_k(x, 3)[1]),
    "gather_nd": ((2, 7, 3), _sparse_rows),
    "gather_batch": ((2, 7, 3), lambda x: tf.gather(x, [[0, 2], [3, 1]], axis=1, batch_dims=1)),
    "gather_axis": ((2, 7, 3), lambda x: tf.gather(x, [[6, 0], [2, 2]], axis=1)),
    "gather_computed": ((3, 8), lambda x: tf.gather(weights(5, 6), _ints(x, 5))),
    "one_hot": ((3, 8), lambda x: tf.one_hot(_ints(x, 5), 5, on_value=2.0, off_value=-1.0)),
    "one_hot_axis": ((3, 8), lambda x: tf.one_hot(_ints(x, 5), 6, axis=1)),
    "cumsum": ((3, 8), lambda x: tf.cumsum(x, 1)),
    "cumsum_exclusive_reverse": ((3, 8), lambda x: tf.cumsum(x, 1, exclusive=True, reverse=True)),
    "cumprod": ((3, 8), lambda x: tf.math.cumprod(x, 1)),
    "reverse": ((3, 8, 2), lambda x: tf.reverse(x, [0, 2])),
    "reverse_sequence": ((3, 8, 2), lambda x: tf.reverse_sequence(x, [3, 8, 1], seq_axis=1)),
    "space_to_depth": ((2, 6, 8, 4), lambda x: tf.nn.space_to_depth(x, 2)),
    "depth_to_space": ((2, 6, 8, 12), lambda x: tf.nn.depth_to_space(x, 2)),
    "space_to_depth_nchw": ((2, 4, 6, 8), lambda x: tf.nn.space_to_depth(x, 2, data_format="NCHW")),
    "depth_to_space_nchw": ((2, 12, 6, 8), lambda x: tf.nn.depth_to_space(x, 2, data_format="NCHW")),
    "depth_to_space_free": ((None, None, None, 12), lambda x: tf.nn.depth_to_space(x, 2)),
    "tile": ((2, 3, 1), lambda x: tf.tile(x, [1, 2, 4])),
    "tile_shape": ((2, 3, 1), lambda x: tf.tile(x, tf.stack([1, tf.shape(x)[0], 2]))),
    "broadcast_to": ((3, 1), lambda x: tf.broadcast_to(x, [2, 3, 4])),
    "transpose": ((2, 3, 4, 5), lambda x: tf.transpose(x, [3, 0, 2, 1])),
    "squeeze": ((2, 1, 3, 1), lambda x: tf.expand_dims(tf.squeeze(x, [1]), 0)),
    "where": ((3, 8), lambda x: tf.where(x > 0, x, tf.zeros_like(x) - 1.0)),
    "where_rows": ((3, 8), lambda x: v1.where(tf.reduce_sum(x, 1) > 0, x, -x)),
    "where_places": ((3, 8), lambda x: tf.where(x > 0)),
    "range_fill": (
        (3, 8),
        lambda x: x + tf.cast(tf.range(tf.shape(x)[1]), tf.float32) + tf.fill(tf.shape(x), 2.0),
    ),
    "matrix_band_part": ((2, 5, 6), lambda x: tf.linalg.band_part(x, 1, 2)),
    "matrix_diag": ((2, 5), tf.linalg.diag),
    "diag_part": ((2, 5, 5), tf.linalg.diag_part),
    "scatter_nd": ((4, 3), lambda x: tf.scatter_nd([[5], [1], [0], [3]], x, [7, 3])),
    "segment_sum": ((4, 3), lambda x: tf.math.segment_sum(x, [0, 0, 2, 2])),
    "unsorted_segment_sum": ((4, 3), lambda x: tf.math.unsorted_segment_sum(x, [2, 0, 2, 1], 4)),
    "roll": ((3, 8), lambda x: tf.roll(x, [2, -1], [1, 0])),
    "invert_permutation": ((3, 8), lambda x: tf.gather(x, tf.math.invert_permutation([2, 0, 1]))),
    # products
    "einsum_batch": ((2, 3, 4), lambda x: tf.einsum("bij,jk->bik", x, weights(4, 5))),
    "einsum_heads": ((2, 3, 4), lambda x: tf.einsum("abc,cde->abde", x, weights(4, 2, 5))),
    "einsum_attention": ((2, 3, 2, 5), lambda x: tf.einsum("BTNH,BSNH->BNTS", x, x)),
    "matmul_transposed": ((4, 3), lambda x: tf.matmul(x, weights(5, 4), transpose_a=True, transpose_b=True)),
    "batch_matmul_adjoint": (
        (2, 4, 3),
        lambda x: tf.matmul(x, weights(2, 5, 4), adjoint_a=True, adjoint_b=True),
    ),
    "batch_matmul_broadcast": ((2, 1, 4, 3), lambda x: tf.matmul(x, weights(5, 3, 6))),
    "tensordot": ((2, 3, 4), lambda x: tf.tensordot(x, weights(3, 4, 5), [[1, 2], [0, 1]])),
    # elementwise
    **{
        name: ((3, 8), function)
        for name, function in {
            "erf": tf.math.erf,
            "erfc": tf.math.erfc,
            "softplus": tf.nn.softplus,
            "softsign": tf.nn.softsign,
            "selu": tf.nn.selu,
            "elu": tf.nn.elu,
            "leaky": lambda x: tf.nn.leaky_relu(x, 0.13),
            "relu6": tf.nn.relu6,
            "swish": tf.nn.silu,
            "gelu": tf.nn.gelu,
            "gelu_tanh": lambda x: tf.nn.gelu(x, approximate=True),
            "softmax_axis": lambda x: tf.nn.softmax(x, 0),
            "log_softmax": tf.nn.log_softmax,
            "rsqrt": lambda x: tf.math.rsqrt(tf.abs(x) + 0.1),
            "atan2": lambda x: tf.atan2(x, tf.reverse(x, [1])),
            "floordiv": lambda x: x // 0.7,
            "floormod": lambda x: tf.math.floormod(x, -0.7),
            "truncatemod": lambda x: raw.TruncateMod(x=_ints(x, 9) - 4, y=tf.fill([3, 8], 3)),
            "int_floordiv": lambda x: (_ints(x, 9) - 4) // 3,
            "int_floormod": lambda x: (_ints(x, 9) - 4) % 3,
            "int_truncatediv": lambda x: raw.TruncateDiv(x=_ints(x, 9) - 4, y=tf.fill([3, 8], 3)),
            "round": lambda x: tf.round(x * 4),
            "rint": lambda x: tf.math.rint(x * 4),
            "sign": tf.sign,
            "log1p": lambda x: tf.math.log1p(tf.abs(x)),
            "expm1": tf.math.expm1,
            "pow": lambda x: tf.pow(tf.abs(x), 1.7),
            "squared_difference": lambda x: tf.math.squared_difference(x, 0.3),
            "clip": lambda x: tf.clip_by_value(x, -0.5, 0.7),
            "maximum": lambda x: tf.maximum(x, weights(8)),
            "add_n": lambda x: tf.add_n([x, x * 2, x * 3]),
            "hard_sigmoid": lambda x: tf.nn.relu6(x + 3) / 6,
            "div_no_nan": lambda x: tf.math.divide_no_nan(x, tf.nn.relu(x)),
            "cast_int": lambda x: tf.cast(x * 3, tf.int32),
            "logsumexp": lambda x: tf.reduce_logsumexp(x, 1),
            "argmin": lambda x: tf.argmin(x, 1, output_type=tf.int32),
            "all_any": lambda x: tf.reduce_all(x > -1, 1) | tf.reduce_any(x > 1, 1),
            "reduce_prod": lambda x: tf.reduce_prod(x, 1, keepdims=True),
            "sinh": tf.sinh,
            "acosh": lambda x: tf.acosh(tf.abs(x) + 1.5),
            "norm": lambda x: tf.norm(x, axis=1),
            "is_nan": lambda x: tf.math.is_nan(x / tf.nn.relu(x)),
            "bucketize": lambda x: raw.Bucketize(input=x, boundaries=[-1.0, 0.2, 0.9]),
            "lgamma": lambda x: tf.math.lgamma(tf.abs(x) + 0.5),
            "fake_quant": lambda x: tf.quantization.fake_quant_with_min_max_args(x, -1.3, 2.1),
            "left_shift": lambda x: tf.bitwise.left_shift(_ints(x, 5), 2),
            "approx_equal": lambda x: raw.ApproximateEqual(x=x, y=tf.round(x), tolerance=0.2),
            "xdivy": lambda x: tf.math.xdivy(tf.nn.relu(x), tf.abs(x)),
            "xlogy": lambda x: tf.math.xlogy(tf.nn.relu(x), tf.abs(x) + 0.1),
            "reciprocal": lambda x: tf.math.reciprocal(x + 5),
            "unique": lambda x: tf.unique(tf.reshape(_ints(x, 5), [-1]))[0],
        }.items()
    },
}
