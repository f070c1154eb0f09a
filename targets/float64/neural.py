"""Layers of neural networks in float64. Formulas: https://onnx.ai/onnx/operators/."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from targets.float64 import windows
from targets.float64.call import Call, Kernel, NotCoveredError
from targets.float64.resize import resize, upsample
from targets.float64.windows import Array


def _conv(call: Call) -> tuple[Array, ...]:
    x, w = call.tensor(0), call.tensor(1)
    rank = x.ndim - 2
    ones = (1,) * rank
    strides, dilations = call.integers("strides", ones), call.integers("dilations", ones)
    pads = windows.resolve_pads(
        call.text("auto_pad", "NOTSET"),
        call.integers("pads"),
        x.shape[2:],
        w.shape[2:],
        strides,
        dilations,
    )
    bias = None if call.optional(2) is None else call.tensor(2)
    group = call.integer("group", 1)
    return (windows.conv(call.xp, x, w, bias, strides=strides, dilations=dilations, pads=pads, group=group),)


def _conv_transpose(call: Call) -> tuple[Array, ...]:
    x, w = call.tensor(0), call.tensor(1)
    rank = x.ndim - 2
    ones = (1,) * rank
    strides, dilations = call.integers("strides", ones), call.integers("dilations", ones)
    pads, lengths = windows.conv_transpose_geometry(
        x.shape[2:],
        w.shape[2:],
        strides,
        dilations,
        auto_pad=call.text("auto_pad", "NOTSET"),
        pads=call.integers("pads"),
        output_padding=call.integers("output_padding", (0,) * rank),
        output_shape=call.integers("output_shape"),
    )
    bias = None if call.optional(2) is None else call.tensor(2)
    return (
        windows.conv_transpose(
            call.xp,
            x,
            w,
            bias,
            strides=strides,
            dilations=dilations,
            group=call.integer("group", 1),
            pads=pads,
            lengths=lengths,
        ),
    )


def _pool_geometry(call: Call, x: Array) -> tuple[dict[str, tuple[int, ...]], windows.Pads, tuple[int, ...]]:
    kernel = call.integers("kernel_shape")
    ones = (1,) * len(kernel)
    strides, dilations = call.integers("strides", ones), call.integers("dilations", ones)
    spatial = x.shape[2:]
    auto = call.text("auto_pad", "NOTSET")
    pads = windows.resolve_pads(auto, call.integers("pads"), spatial, kernel, strides, dilations)
    ceil = bool(call.integer("ceil_mode", 0)) and auto in ("", "NOTSET")
    lengths = windows.output_lengths(spatial, kernel, strides, dilations, pads, ceil=ceil)
    return {"kernel": kernel, "strides": strides, "dilations": dilations}, pads, lengths


def _max_pool(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    if call.output_count > 1 or x.dtype.kind != "f":
        raise NotCoveredError("MaxPool with indices or on integers")
    shape, pads, lengths = _pool_geometry(call, x)
    return (
        windows.reduce_windows(
            call.xp, x, combine=call.xp.maximum, fill=-np.inf, pads=pads, lengths=lengths, **shape
        ),
    )


def _average_pool(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    shape, pads, lengths = _pool_geometry(call, x)
    total = windows.reduce_windows(
        call.xp, x, combine=call.xp.add, fill=0.0, pads=pads, lengths=lengths, **shape
    )
    include = bool(call.integer("count_include_pad", 0))
    counts = windows.window_counts(
        call.xp, x.shape[2:], pads=pads, lengths=lengths, include_pad=include, **shape
    )
    return (total / counts,)


def _lp_pool(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    p = call.integer("p", 2)
    shape, pads, lengths = _pool_geometry(call, x)
    total = windows.reduce_windows(
        call.xp, call.xp.abs(x) ** p, combine=call.xp.add, fill=0.0, pads=pads, lengths=lengths, **shape
    )
    return (total ** (1.0 / p),)


def _global_average_pool(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    return (x.mean(axis=tuple(range(2, x.ndim)), keepdims=True),)


def _global_max_pool(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


def _lrn(call: Call) -> tuple[Array, ...]:
    return (
        windows.local_response(
            call.xp,
            call.tensor(0),
            size=call.integer("size", 0),
            alpha=call.number("alpha", 1e-4),
            beta=call.number("beta", 0.75),
            bias=call.number("bias", 1.0),
        ),
    )


def _per_channel(vector: Array, rank: int) -> Array:
    return vector.reshape(1, -1, *([1] * (rank - 2)))


def _batch_normalization(call: Call) -> tuple[Array, ...]:
    if call.integer("training_mode", 0) or call.output_count > 1:
        raise NotCoveredError("BatchNormalization in training mode")
    x, scale, shift, mean, variance = call.tensors()
    factor = scale / call.xp.sqrt(variance + call.number("epsilon", 1e-5))
    return ((x - _per_channel(mean, x.ndim)) * _per_channel(factor, x.ndim) + _per_channel(shift, x.ndim),)


def _instance_normalization(call: Call) -> tuple[Array, ...]:
    x, scale, shift = call.tensors()
    axes = tuple(range(2, x.ndim))
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = (centred * centred).mean(axis=axes, keepdims=True)
    normal = centred / call.xp.sqrt(variance + call.number("epsilon", 1e-5))
    return (normal * _per_channel(scale, x.ndim) + _per_channel(shift, x.ndim),)


def _layer_normalization(call: Call) -> tuple[Array, ...]:
    if call.output_count > 1:
        raise NotCoveredError("LayerNormalization with its statistics as outputs")
    x = call.tensor(0)
    axis = call.integer("axis", -1)
    axes = tuple(range(axis % x.ndim, x.ndim))
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = (centred * centred).mean(axis=axes, keepdims=True)
    y = centred / call.xp.sqrt(variance + call.number("epsilon", 1e-5)) * call.tensor(1)
    return (y if call.optional(2) is None else y + call.tensor(2),)


def _softmax(call: Call) -> tuple[Array, ...]:
    return (call.xp.exp(_log_softmax(call)[0]),)


def _log_softmax(call: Call) -> tuple[Array, ...]:
    xp, x = call.xp, call.tensor(0)
    shape = x.shape
    if call.opset < 13:  # older opsets flatten to two dimensions at the axis
        axis = call.integer("axis", 1) % x.ndim
        x = x.reshape(int(np.prod(shape[:axis], dtype=np.int64)), -1)
        axis = 1
    else:
        axis = call.integer("axis", -1)
    shifted = x - x.max(axis=axis, keepdims=True)
    return ((shifted - xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))).reshape(shape),)


def _gemm(call: Call) -> tuple[Array, ...]:
    a, b = call.tensor(0), call.tensor(1)
    a = a.T if call.integer("transA", 0) else a
    b = b.T if call.integer("transB", 0) else b
    y = call.xp.matmul(a, b)
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    if alpha != 1.0:
        y = y * alpha
    if call.optional(2) is not None:
        c = call.tensor(2)
        y = y + (c if beta == 1.0 else beta * c)
    return (y,)


def _matmul(call: Call) -> tuple[Array, ...]:
    return (call.xp.matmul(call.tensor(0), call.tensor(1)),)


def _einsum(call: Call) -> tuple[Array, ...]:
    return (call.xp.einsum(call.text("equation", ""), *call.tensors()),)


def _along(vector: Array, axis: int, rank: int) -> Array:
    if vector.ndim == 0 or vector.size == 1:
        return vector.reshape(())
    if vector.ndim != 1:
        raise NotCoveredError("blocked quantisation")
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)


def _quantize_linear(call: Call) -> tuple[Array, ...]:
    xp, x = call.xp, call.tensor(0)
    zero = call.optional(2)
    if call.integer("output_dtype", 0) or (zero is not None and zero.dtype.kind not in "iu"):
        raise NotCoveredError("QuantizeLinear to a float8 or declared type")
    axis = call.integer("axis", 1)
    dtype = np.dtype(np.uint8) if zero is None else zero.dtype
    if dtype.itemsize < 1 or dtype.name in ("int4", "uint4"):
        raise NotCoveredError("four-bit quantisation")
    y = xp.rint(x / _along(call.tensor(1), axis, x.ndim))
    if zero is not None:
        y = y + _along(xp.asarray(zero).astype(np.float64), axis, x.ndim)
    limits = np.iinfo(dtype)
    return (xp.clip(y, limits.min, limits.max).astype(dtype),)


def _dequantize_linear(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    if x.dtype.name not in ("int8", "uint8", "int16", "uint16", "int32"):
        raise NotCoveredError(f"DequantizeLinear of {x.dtype}")
    axis = call.integer("axis", 1)
    y = x.astype(np.float64)
    if call.optional(2) is not None:
        y = y - _along(call.tensor(2).astype(np.float64), axis, x.ndim)
    return (y * _along(call.tensor(1), axis, x.ndim),)


NEURAL: Mapping[str, Kernel] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DequantizeLinear": _dequantize_linear,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "InstanceNormalization": _instance_normalization,
    "LRN": _lrn,
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": _log_softmax,
    "LpPool": _lp_pool,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "QuantizeLinear": _quantize_linear,
    "Resize": resize,
    "Softmax": _softmax,
    "Upsample": upsample,
}
