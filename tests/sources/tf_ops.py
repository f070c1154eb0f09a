"""Small TF1 graphs, one op or one pattern each, written in a child process: input ``x:0``, output ``y:0``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.sources.tf_lowered_ops import LOWERED_CASES
from tests.sources.tf_tensor_ops import TENSOR_CASES, Shape, weights

v1, raw = tf.compat.v1, tf.raw_ops
IMAGE: Shape = (2, 7, 9, 4)
FIRST: Shape = (2, 4, 7, 9)


def build(name: str, path: Path, _progress: object) -> None:
    """Write the graph ``name`` to ``path``."""
    shape, body = _CASES[name]
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, shape, name="x")
        tf.identity(body(x), name="y")
    path.write_bytes(graph.as_graph_def().SerializeToString())


def names() -> list[str]:
    """Every graph's name."""
    return list(_CASES)


def listed(_progress: object) -> list[str]:
    """``names``, for a caller in another process."""
    return names()


def against_original(name: str, folder: Path, _progress: object) -> float:
    """Convert ``name`` and compare ONNX Runtime with the graph as it is stored, for one image.

    Returns max|Δ| / range.
    """
    from pipeline.sources.contract import ConvertRequest
    from pipeline.sources.conversion import convert_here
    from targets.reference import OrtSession

    shape, body = _CASES[name]
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, (1, *shape[1:]), name="x")
        tf.identity(body(x), name="y")
    (folder / "net.pb").write_bytes(graph.as_graph_def().SerializeToString())
    convert_here(ConvertRequest(str(folder / "net.pb"), outputs=("y:0",)), folder / "net.onnx")
    image = np.random.default_rng(0).normal(size=(1, *shape[1:])).astype(np.float32)
    with v1.Session(graph=graph) as session:
        want = session.run("y:0", {"x:0": image})
    with OrtSession(folder / "net.onnx") as converted:
        got = converted.run({"x:0": image})["y:0"]
    return float(np.abs(got - want).max() / np.ptp(want))


def _lstm(
    op: str, *, length: Any = 6, peephole: bool = False, clip: float = -1.0, bias: float = 1.0,
    outputs: str = "h", steps: int | None = 6,
) -> tuple[Shape, Callable[[Any], Any]]:  # fmt: skip
    def body(x: Any) -> Any:
        size, inputs = 5, 3
        cell = [weights(size) for _ in range(3)]
        more = {"forget_bias": bias} if op == "BlockLSTM" else {}
        count = tf.cast(tf.shape(x)[0] - 1, tf.int64) if length is None else tf.constant(length, tf.int64)
        results = getattr(raw, op)(
            seq_len_max=count, x=x, cs_prev=x[0, :, :1] * weights(size),
            h_prev=x[1, :, :1] * weights(1, size)[0], w=weights(inputs + size, 4 * size) * 2,
            wci=cell[0], wcf=cell[1] * 2, wco=cell[2] * 3, b=weights(4 * size),
            cell_clip=clip, use_peephole=peephole, **more,
        )._asdict()  # fmt: skip
        return tf.concat([results[name] for name in outputs.split()], -1)

    return (steps, 2, 3), body


def _transposed(
    output: int, kernel: int, stride: int, padding: Any, layout: str = "NHWC", dilation: int = 1
) -> tuple[Shape, Callable[[Any], Any]]:
    effective = (kernel - 1) * dilation + 1
    if padding == "SAME":
        count = -(-output // stride)
    else:
        count = (output + (sum(padding) if isinstance(padding, tuple) else 0) - effective) // stride + 1
    first = layout == "NCHW"
    pads = list(padding) if isinstance(padding, tuple) else None
    spec = padding if pads is None else ([[0, 0]] * 2 + [pads] * 2 if first else [[0, 0], pads, pads, [0, 0]])
    sizes = [2, 3, output, output + stride] if first else [2, output, output + stride, 3]
    wide = count + 1
    strides = [1, 1, stride, stride] if first else [1, stride, stride, 1]
    dilations = [1, 1, dilation, dilation] if first else [1, dilation, dilation, 1]
    shape = (2, 4, count, wide) if first else (2, count, wide, 4)
    form = (kernel, kernel, 3, 4)
    return shape, lambda x: v1.nn.conv2d_backprop_input(
        sizes, weights(*form), x, strides, spec, data_format=layout, dilations=dilations
    )


def _batch_free_transposed(x: Any) -> Any:
    sizes = tf.stack([tf.shape(x)[0], 15, 19, 3])
    return v1.nn.conv2d_backprop_input(sizes, weights(3, 3, 3, 4), x, [1, 2, 2, 1], "SAME")


def _resize(op: Any, size: tuple[int, int], align: bool, half: bool) -> tuple[Shape, Callable[[Any], Any]]:
    return IMAGE, lambda x: op(images=x, size=size, align_corners=align, half_pixel_centers=half)


def _norm(op: Any, layout: str, epsilon: float = 1e-3) -> Callable[[Any], Any]:
    return lambda x: op(
        x=x, scale=weights(4), offset=weights(4), mean=weights(4), variance=weights(4, low=0.5),
        epsilon=epsilon, data_format=layout, is_training=False,
    )[0]  # fmt: skip


def _fused_resize(x: Any, mode: str, align: bool) -> Any:
    return raw.FusedResizeAndPadConv2D(
        input=x, size=[11, 12], paddings=[[0, 0], [2, 1], [1, 2], [0, 0]], filter=weights(3, 3, 4, 5),
        mode=mode, strides=[1, 2, 2, 1], padding="VALID", resize_align_corners=align,
    )  # fmt: skip


def _atrous(x: Any, rate: int, padding: str) -> Any:
    return tf.nn.atrous_conv2d(x, weights(3, 3, 4, 5), rate, padding)


def _space_to_batch_conv(x: Any) -> Any:
    spread = tf.space_to_batch(x, [2, 2], [[2, 2], [2, 3]])
    return tf.batch_to_space(tf.nn.conv2d(spread, weights(3, 3, 4, 5), 1, "VALID"), [2, 2], [[0, 0], [0, 1]])


def _prelu(x: Any) -> Any:
    return tf.nn.relu(x) + weights(4) * (x - tf.abs(x)) * 0.5


def _instance_norm(x: Any) -> Any:
    mean, variance = tf.nn.moments(x, [1, 2], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, weights(4), weights(4), 1e-5)


def _widths() -> Any:
    return tf.constant([[0, 0], [1, 2], [0, 3], [1, 0]], tf.int64) // 2


def _boxes() -> Any:
    return tf.constant([[0.1, 0.2, 0.8, 0.9], [0.0, 0.0, 1.0, 1.0], [0.5, -0.2, 1.2, 0.4]], tf.float32)


_CASES: dict[str, tuple[Shape, Callable[[Any], Any]]] = {
    # recurrent
    **{
        f"{op}_{title}".lower(): _lstm(op, **options)
        for op in ("BlockLSTM", "BlockLSTMV2")
        for title, options in {
            "h": {},
            "peephole": {"peephole": True},
            "short": {"length": 4},
            "one_step": {"length": 1, "peephole": True},
            "no_step": {"length": 0},
            "clipped": {"clip": 0.3},
            "clipped_peephole": {"clip": 0.2, "peephole": True, "length": 5},
            "forget_bias": {"bias": 0.4},
            "cells": {"outputs": "cs h", "length": 4, "peephole": True},
            "all": {"outputs": "i cs f o ci co h", "peephole": True},
            "length_computed": {"length": None},
            "steps_free": {"length": None, "steps": None, "peephole": True},
        }.items()
    },
    # transposed convolution
    **{
        f"transposed_{layout}_{padding}_k{kernel}_s{stride}_o{output}".lower(): _transposed(
            output, kernel, stride, padding, layout
        )
        for layout in ("NHWC", "NCHW")
        for padding in ("SAME", "VALID")
        for kernel, stride, output in ((3, 2, 10), (3, 2, 11), (2, 3, 9), (5, 3, 12), (4, 2, 12), (3, 1, 8))
        if padding == "SAME" or output >= kernel
    },
    "transposed_explicit": _transposed(9, 5, 2, (2, 1)),
    "transposed_explicit_nchw": _transposed(9, 5, 2, (1, 2), "NCHW"),
    "transposed_dilated": _transposed(12, 3, 1, "VALID", dilation=2),
    "transposed_batch_free": ((None, 8, 10, 4), _batch_free_transposed),
    "transposed_sizes_free": (
        (None, None, None, 4),
        lambda x: v1.nn.conv2d_backprop_input(
            tf.stack([tf.shape(x)[0], tf.shape(x)[1] * 2 + 1, tf.shape(x)[2] * 2 + 1, 3]),
            weights(3, 3, 3, 4),
            x,
            [1, 2, 2, 1],
            "VALID",
        ),
    ),
    "transposed_3d": (
        (1, 3, 4, 5, 2),
        lambda x: tf.nn.conv3d_transpose(x, weights(3, 3, 3, 3, 2), [1, 6, 8, 10, 3], 2, "SAME"),
    ),
    # convolution
    "conv_same_stride": (IMAGE, lambda x: tf.nn.conv2d(x, weights(3, 4, 4, 5), [2, 3], "SAME")),
    "conv_explicit": (
        IMAGE,
        lambda x: tf.nn.conv2d(x, weights(3, 3, 4, 5), 2, [[0, 0], [1, 2], [0, 3], [0, 0]]),
    ),
    "conv_dilated_same": (IMAGE, lambda x: tf.nn.conv2d(x, weights(3, 3, 4, 5), 1, "SAME", dilations=2)),
    "conv_grouped": (IMAGE, lambda x: tf.nn.conv2d(x, weights(3, 3, 2, 6), 1, "SAME")),
    "conv_nchw": (FIRST, lambda x: tf.nn.conv2d(x, weights(3, 3, 4, 5), 2, "SAME", data_format="NCHW")),
    "conv_nchw_explicit": (
        FIRST,
        lambda x: tf.nn.conv2d(
            x, weights(3, 3, 4, 5), 2, [[0, 0], [0, 0], [1, 2], [0, 3]], data_format="NCHW"
        ),
    ),
    "conv_kernel_computed": (
        (2, 7, 9, 4),
        lambda x: tf.nn.conv2d(x, weights(3, 3, 4, 5) * tf.reduce_mean(x), 1, "SAME"),
    ),
    "conv_free_size": ((None, None, None, 4), lambda x: tf.nn.conv2d(x, weights(3, 3, 4, 5), 2, "SAME")),
    "conv_1d": ((2, 11, 4), lambda x: tf.nn.conv1d(x, weights(3, 4, 5), 2, "SAME")),
    "conv_3d": ((1, 5, 6, 7, 2), lambda x: tf.nn.conv3d(x, weights(3, 2, 3, 2, 4), [1, 2, 1, 2, 1], "SAME")),
    "depthwise": (IMAGE, lambda x: tf.nn.depthwise_conv2d(x, weights(3, 3, 4, 2), [1, 1, 1, 1], "SAME")),
    "depthwise_stride": (
        IMAGE,
        lambda x: tf.nn.depthwise_conv2d(x, weights(3, 3, 4, 1), [1, 2, 2, 1], "SAME"),
    ),
    "depthwise_stride_valid": (
        IMAGE,
        lambda x: tf.nn.depthwise_conv2d(x, weights(4, 3, 4, 3), [1, 2, 2, 1], "VALID"),
    ),
    "depthwise_dilated": (
        IMAGE,
        lambda x: raw.DepthwiseConv2dNative(
            input=x, filter=weights(3, 3, 4, 2), strides=[1, 1, 1, 1], padding="SAME", dilations=[1, 2, 2, 1]
        ),
    ),
    "depthwise_dilated_pattern": (
        IMAGE,
        lambda x: tf.nn.depthwise_conv2d(x, weights(3, 3, 4, 2), [1, 1, 1, 1], "SAME", dilations=[2, 2]),
    ),
    "separable": (
        IMAGE,
        lambda x: tf.nn.separable_conv2d(x, weights(3, 3, 4, 2), weights(1, 1, 8, 3), [1, 2, 2, 1], "SAME"),
    ),
    "atrous_same": (IMAGE, lambda x: _atrous(x, 2, "SAME")),
    "atrous_valid": (IMAGE, lambda x: _atrous(x, 3, "VALID")),
    "space_to_batch_conv": ((2, 8, 9, 4), _space_to_batch_conv),
    "batch_to_space": ((8, 3, 4, 2), lambda x: tf.batch_to_space(x, [2, 2], [[0, 1], [1, 0]])),
    "space_to_batch_1d": ((2, 9, 4), lambda x: tf.space_to_batch(x, [2], [[1, 2]])),
    "fused_resize_reflect": (IMAGE, lambda x: _fused_resize(x, "REFLECT", False)),
    "fused_resize_batch_free": ((None, 7, 9, 4), lambda x: _fused_resize(x, "REFLECT", False)),
    "fused_resize_symmetric": (IMAGE, lambda x: _fused_resize(x, "SYMMETRIC", True)),
    "bias_nchw": (FIRST, lambda x: tf.nn.bias_add(x, weights(4), data_format="NCHW")),
    "dilation2d": (
        IMAGE,
        lambda x: tf.nn.dilation2d(x, weights(3, 3, 4), [1, 1, 1, 1], "SAME", "NHWC", [1, 1, 1, 1]),
    ),
    # resize
    **{
        f"{kind}_{'align' if align else 'half' if half else 'plain'}_{size[0]}x{size[1]}": _resize(
            op, size, align, half
        )
        for kind, op in (("bilinear", raw.ResizeBilinear), ("nearest", raw.ResizeNearestNeighbor))
        for align, half in ((False, False), (True, False), (False, True))
        for size in ((14, 18), (11, 5), (4, 13))
    },
    "bicubic_half": (IMAGE, lambda x: raw.ResizeBicubic(images=x, size=(13, 12), half_pixel_centers=True)),
    "bicubic_plain": (IMAGE, lambda x: raw.ResizeBicubic(images=x, size=(13, 12))),
    "area": (IMAGE, lambda x: raw.ResizeArea(images=x, size=(3, 4))),
    "area_up": (IMAGE, lambda x: raw.ResizeArea(images=x, size=(10, 13))),
    "area_align": (IMAGE, lambda x: raw.ResizeArea(images=x, size=(3, 4), align_corners=True)),
    "bicubic_align": (
        (None, 7, 9, 4),
        lambda x: raw.ResizeBicubic(images=x, size=(4, 12), align_corners=True),
    ),
    "resize_to_other": (
        IMAGE,
        lambda x: v1.image.resize_bilinear(x, tf.shape(tf.nn.max_pool2d(x, 2, 2, "SAME"))[1:3]),
    ),
    "resize_free": (
        (None, None, None, 4),
        lambda x: v1.image.resize_nearest_neighbor(x, tf.shape(x)[1:3] * 2),
    ),
    "resize_one": (IMAGE, lambda x: raw.ResizeBilinear(images=x, size=(1, 1), align_corners=True)),
    # pads
    "mirror_reflect": (IMAGE, lambda x: tf.pad(x, [[0, 0], [2, 3], [1, 4], [0, 0]], "REFLECT")),
    "mirror_symmetric": (IMAGE, lambda x: tf.pad(x, [[0, 0], [2, 3], [1, 4], [0, 1]], "SYMMETRIC")),
    "mirror_symmetric_free": (
        (None, None, None, 4),
        lambda x: tf.pad(x, [[0, 0], [2, 3], [1, 4], [0, 1]], "SYMMETRIC"),
    ),
    "mirror_symmetric_computed": (
        (2, None, 9, 4),
        lambda x: tf.pad(
            x,
            tf.stack([[0, 0], [tf.shape(x)[1] // 2, 1], [tf.shape(x)[1] // tf.shape(x)[1], 2], [0, 1]]),
            "SYMMETRIC",
        ),
    ),
    "mirror_symmetric_wide_widths": (
        (2, None, 9, 4),
        lambda x: tf.pad(x, tf.cast(tf.shape(x)[1] // 4, tf.int64) * _widths(), "SYMMETRIC"),
    ),
    "pad_value": (IMAGE, lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 3], [1, 0]], constant_values=-1.5)),
    # pictures
    "crop_and_resize": (IMAGE, lambda x: tf.image.crop_and_resize(x, _boxes(), [0, 1, 0], [4, 5])),
    "crop_and_resize_nearest": (
        IMAGE,
        lambda x: tf.image.crop_and_resize(x, _boxes(), [0, 1, 0], [4, 5], method="nearest"),
    ),
    "patches_valid": (
        IMAGE,
        lambda x: tf.image.extract_patches(x, [1, 3, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1], "VALID"),
    ),
    "patches_same": (
        IMAGE,
        lambda x: tf.image.extract_patches(x, [1, 3, 3, 1], [1, 1, 1, 1], [1, 2, 2, 1], "SAME"),
    ),
    # normalisation
    "lrn": (IMAGE, lambda x: tf.nn.lrn(x, 2, bias=1.5, alpha=0.3, beta=0.6)),
    "l2_normalize": (IMAGE, lambda x: tf.math.l2_normalize(x, axis=-1)),
    "l2_normalize_axes": (IMAGE, lambda x: tf.math.l2_normalize(x, axis=[1, 2], epsilon=1e-3)),
    "norm_v1": (IMAGE, _norm(raw.FusedBatchNorm, "NHWC")),
    "norm_v2": (IMAGE, _norm(raw.FusedBatchNormV2, "NHWC", 1e-2)),
    "norm_v3": (IMAGE, _norm(raw.FusedBatchNormV3, "NHWC")),
    "norm_v1_nchw": (FIRST, _norm(raw.FusedBatchNorm, "NCHW")),
    "norm_v3_nchw": (FIRST, _norm(raw.FusedBatchNormV3, "NCHW")),
    "instance_norm": (IMAGE, _instance_norm),
    "moments": (IMAGE, lambda x: tf.concat(tf.nn.moments(x, [1, 2]), -1)),
    # pools
    "max_same": (IMAGE, lambda x: tf.nn.max_pool2d(x, 3, 2, "SAME")),
    "max_explicit": (IMAGE, lambda x: tf.nn.max_pool2d(x, 3, 2, [[0, 0], [1, 0], [0, 2], [0, 0]])),
    "max_nchw": (FIRST, lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME", data_format="NCHW")),
    "max_argmax": (IMAGE, lambda x: tf.nn.max_pool_with_argmax(x, 2, 2, "SAME")[0]),
    "max_argmax_places": (
        IMAGE,
        lambda x: tf.nn.max_pool_with_argmax(x, 2, 2, "VALID", include_batch_in_index=True)[1],
    ),
    "max_v2": (
        IMAGE,
        lambda x: raw.MaxPoolV2(input=x, ksize=[1, 2, 3, 1], strides=[1, 2, 1, 1], padding="SAME"),
    ),
    "avg_same": (IMAGE, lambda x: tf.nn.avg_pool2d(x, 3, 2, "SAME")),
    "avg_same_wide": (IMAGE, lambda x: tf.nn.avg_pool2d(x, [4, 2], [3, 1], "SAME")),
    "avg_valid": (IMAGE, lambda x: tf.nn.avg_pool2d(x, [2, 3], [2, 2], "VALID")),
    "avg_nchw": (FIRST, lambda x: tf.nn.avg_pool2d(x, 3, 2, "SAME", data_format="NCHW")),
    "avg_free": ((None, None, None, 4), lambda x: tf.nn.avg_pool2d(x, 3, 2, "SAME")),
    "max_3d": ((1, 5, 6, 7, 2), lambda x: tf.nn.max_pool3d(x, [2, 3, 2], 2, "SAME")),
    "avg_3d": ((1, 5, 6, 7, 2), lambda x: tf.nn.avg_pool3d(x, [2, 3, 2], 2, "SAME")),
    "mean_space": (IMAGE, lambda x: tf.reduce_mean(x, [1, 2])),
    **TENSOR_CASES,
    **LOWERED_CASES,
}
