"""Caffe's layers as ONNX operators, by BVLC Caffe's definitions of what each computes.

Shapes are static in Caffe, so everything that depends on one (ceil-mode pools, reshapes, slices) is written
with numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from pipeline.sources.caffe_values import Graph, Rule, Shape, blob, refuse
from targets.caffe.pooling import caffe_windows
from targets.caffe.read import ReadLayer


def _pair(part: Any, repeated: str, stem: str, default: int) -> tuple[int, int]:
    """Two spatial numbers: ``stem_h`` and ``stem_w``, or one or two entries of ``repeated``."""
    if part.HasField(f"{stem}_h") or part.HasField(f"{stem}_w"):
        return int(getattr(part, f"{stem}_h")), int(getattr(part, f"{stem}_w"))
    given = getattr(part, repeated)
    listed = (
        [int(v) for v in given]
        if hasattr(given, "__len__")
        else [int(given)]
        if part.HasField(repeated)
        else []
    )
    if not listed:
        return default, default
    return (listed[0], listed[0]) if len(listed) == 1 else (listed[0], listed[1])


def convolution(graph: Graph, layer: ReadLayer) -> None:
    """Convolution and Deconvolution, one for each bottom."""
    part = layer.description.convolution_param
    kernel, stride, pad = (
        _pair(part, key, stem, default)
        for key, stem, default in (("kernel_size", "kernel", 0), ("stride", "stride", 1), ("pad", "pad", 0))
    )
    spread = [int(d) for d in part.dilation] or [1]
    dilation = (spread[0], spread[-1])
    forward = layer.type == "Convolution"
    weight = graph.constant(blob(layer, 0), f"{layer.name}:weight")
    bias = graph.constant(blob(layer, 1).reshape(-1), f"{layer.name}:bias") if part.bias_term else None
    for position in range(len(layer.bottoms)):
        x = graph.bottom(layer, position)
        shape = graph.shape(x)
        if len(shape) != 4 or part.axis != 1:
            raise refuse(layer, f"of {len(shape)} axes, channels at {part.axis}")
        sizes = []
        for n, k, s, p, d in zip(shape[2:], kernel, stride, pad, dilation, strict=True):
            extent = (k - 1) * d + 1
            sizes.append((n + 2 * p - extent) // s + 1 if forward else s * (n - 1) + extent - 2 * p)
        y = graph.add(
            layer,
            "Conv" if forward else "ConvTranspose",
            [x, weight, bias] if bias is not None else [x, weight],
            (shape[0], int(part.num_output), *sizes),
            kernel_shape=list(kernel),
            strides=list(stride),
            pads=[*pad, *pad],
            dilations=list(dilation),
            group=int(part.group),
        )
        graph.top(layer, y, position)


def pooling(graph: Graph, layer: ReadLayer) -> None:
    """Pooling in ceil mode (or floor); an average divides by the window clipped to the padded size."""
    part = layer.description.pooling_param
    x = graph.bottom(layer)
    shape = graph.shape(x)
    maximum = part.pool == 0
    if part.pool == 2 or len(layer.tops) > 1:
        raise refuse(layer, "stochastic pooling or a mask")
    if part.global_pooling:
        op = "GlobalMaxPool" if maximum else "GlobalAveragePool"
        graph.top(layer, graph.add(layer, op, [x], (*shape[:2], 1, 1)))
        return
    kernel, stride, pad = (
        _pair(part, key, stem, default)
        for key, stem, default in (("kernel_size", "kernel", 0), ("stride", "stride", 1), ("pad", "pad", 0))
    )
    windows, ends, ratios = [], [], []
    for n, k, s, p in zip(shape[2:], kernel, stride, pad, strict=True):
        count = (n + 2 * p - k) // s + 1 if part.round_mode == 1 else caffe_windows(n, k, s, p)
        starts = np.arange(count) * s - p
        extent = np.minimum(starts + k, n + p) - starts
        windows.append(count)
        ends.append(max(int(starts[-1]) + k - n, 0))
        ratios.append(k / extent)
    if any(e >= k for e, k in zip(ends, kernel, strict=True)):
        if not maximum:
            raise refuse(layer, "a window lies wholly outside the input")
        # Caffe gives the lowest float there; ONNX pads no pool by a whole window.
        x = _padded(graph, layer, x, (*pad, *ends), float(np.finfo(np.float32).min))
        pad, ends = (0, 0), [0, 0]
    attributes: dict[str, object] = {
        "kernel_shape": list(kernel),
        "strides": list(stride),
        "pads": [*pad, *ends],
    }
    if not maximum:
        attributes["count_include_pad"] = 1
    y = graph.add(layer, "MaxPool" if maximum else "AveragePool", [x], (*shape[:2], *windows), **attributes)
    ratio = np.outer(*ratios)
    if not maximum and not (ratio == 1.0).all():
        correction = graph.constant(ratio.astype(np.float32), f"{layer.name}:divisor")
        y = graph.add(layer, "Mul", [y, correction], graph.shape(y))
    graph.top(layer, y)


def _padded(graph: Graph, layer: ReadLayer, x: ir.Value, pads: tuple[int, ...], value: float) -> ir.Value:
    """``x`` with a border of ``value`` round height and width."""
    top, left, bottom, right = pads
    shape = graph.shape(x)
    full = (*shape[:2], shape[2] + top + bottom, shape[3] + left + right)
    widths = graph.constant(
        np.asarray([0, 0, top, left, 0, 0, bottom, right], np.int64), f"{layer.name}:pads"
    )
    return graph.add(layer, "Pad", [x, widths, _number(graph, layer, value)], full)


def _axis(axis: int, shape: Shape) -> int:
    """``axis`` counted from the front; an IndexError where the shape has no such axis."""
    return range(len(shape))[axis]


def reshaped(graph: Graph, layer: ReadLayer, x: ir.Value, shape: Shape) -> ir.Value:
    """``x`` with another shape of as many elements."""
    if graph.shape(x) == shape:
        return x
    if math.prod(graph.shape(x)) != math.prod(shape):
        raise ValueError(f"{graph.shape(x)} does not reshape to {shape}")
    target = graph.constant(np.asarray(shape, np.int64), f"{layer.name}:shape")
    return graph.add(layer, "Reshape", [x, target], shape)


def inner_product(graph: Graph, layer: ReadLayer) -> None:
    """InnerProduct: axes from ``axis`` on are flattened; W [out, in], or [in, out] if transposed."""
    part = layer.description.inner_product_param
    x = graph.bottom(layer)
    shape = graph.shape(x)
    axis = _axis(part.axis, shape)
    rows, columns = math.prod(shape[:axis]), math.prod(shape[axis:])
    outputs = int(part.num_output)
    held = (columns, outputs) if part.transpose else (outputs, columns)
    weight = graph.constant(blob(layer, 0).reshape(held), f"{layer.name}:weight")
    inputs = [reshaped(graph, layer, x, (rows, columns)), weight]
    if part.bias_term:
        inputs.append(graph.constant(blob(layer, 1).reshape(-1), f"{layer.name}:bias"))
    y = graph.add(layer, "Gemm", inputs, (rows, outputs), transB=int(not part.transpose))
    graph.top(layer, reshaped(graph, layer, y, (*shape[:axis], outputs)))


def _number(graph: Graph, layer: ReadLayer, value: float) -> ir.Value:
    return graph.constant(np.asarray(value, np.float32), f"{layer.name}:number")


def unary(op: str) -> Rule:
    """A layer that is one operator without attributes."""

    def rule(graph: Graph, layer: ReadLayer) -> None:
        x = graph.bottom(layer)
        graph.top(layer, graph.add(layer, op, [x], graph.shape(x)))

    return rule


def relu(graph: Graph, layer: ReadLayer) -> None:
    """ReLU with an optional slope."""
    x, slope = graph.bottom(layer), layer.description.relu_param.negative_slope
    if slope:
        y = graph.add(layer, "LeakyRelu", [x], graph.shape(x), alpha=float(slope))
    else:
        y = graph.add(layer, "Relu", [x], graph.shape(x))
    graph.top(layer, y)


def prelu(graph: Graph, layer: ReadLayer) -> None:
    """PReLU with one slope a channel, or one for all."""
    x = graph.bottom(layer)
    shape = graph.shape(x)
    rank = len(shape)
    slope = blob(layer, 0).reshape(-1)
    if slope.size not in (1, shape[1]):
        raise ValueError(f"{slope.size} slopes for {shape[1]} channels")
    full = slope.reshape(-1, *(1,) * (rank - 2)) if slope.size > 1 else slope
    value = graph.constant(full, f"{layer.name}:slope")
    graph.top(layer, graph.add(layer, "PRelu", [x, value], graph.shape(x)))


def elu(graph: Graph, layer: ReadLayer) -> None:
    """ELU."""
    x = graph.bottom(layer)
    alpha = float(layer.description.elu_param.alpha)
    graph.top(layer, graph.add(layer, "Elu", [x], graph.shape(x), alpha=alpha))


def clip(graph: Graph, layer: ReadLayer) -> None:
    """Clip."""
    x, part = graph.bottom(layer), layer.description.clip_param
    bounds = [_number(graph, layer, bound) for bound in (part.min, part.max)]
    graph.top(layer, graph.add(layer, "Clip", [x, *bounds], graph.shape(x)))


def _affine(graph: Graph, layer: ReadLayer, x: ir.Value, scale: float, shift: float) -> ir.Value:
    for op, value, neutral in (("Mul", scale, 1.0), ("Add", shift, 0.0)):
        if value != neutral:
            x = graph.add(layer, op, [x, _number(graph, layer, value)], graph.shape(x))
    return x


def power(graph: Graph, layer: ReadLayer) -> None:
    """Power: (shift + scale · x)^power."""
    part = layer.description.power_param
    y = _affine(graph, layer, graph.bottom(layer), part.scale, part.shift)
    if part.power != 1.0:
        y = graph.add(layer, "Pow", [y, _number(graph, layer, part.power)], graph.shape(y))
    graph.top(layer, y)


def exp(graph: Graph, layer: ReadLayer) -> None:
    """Exp: base^(shift + scale · x); base -1 stands for e."""
    part = layer.description.exp_param
    rate = 1.0 if part.base == -1.0 else math.log(part.base)
    y = _affine(graph, layer, graph.bottom(layer), part.scale * rate, part.shift * rate)
    graph.top(layer, graph.add(layer, "Exp", [y], graph.shape(y)))


def log(graph: Graph, layer: ReadLayer) -> None:
    """Log: log_base(shift + scale · x)."""
    part = layer.description.log_param
    y = _affine(graph, layer, graph.bottom(layer), part.scale, part.shift)
    y = graph.add(layer, "Log", [y], graph.shape(y))
    rate = 1.0 if part.base == -1.0 else math.log(part.base)
    graph.top(layer, _affine(graph, layer, y, 1.0 / rate, 0.0))


def softmax(graph: Graph, layer: ReadLayer) -> None:
    """Softmax over one axis."""
    x = graph.bottom(layer)
    axis = _axis(layer.description.softmax_param.axis, graph.shape(x))
    graph.top(layer, graph.add(layer, "Softmax", [x], graph.shape(x), axis=axis))


def lrn(graph: Graph, layer: ReadLayer) -> None:
    """LRN across channels, or within: x · (1 + alpha · mean of x² in the window)^-beta."""
    part, x = layer.description.lrn_param, graph.bottom(layer)
    shape, size = graph.shape(x), int(part.local_size)
    if part.norm_region == 0:
        options = {"alpha": float(part.alpha), "beta": float(part.beta), "bias": float(part.k)}
        graph.top(layer, graph.add(layer, "LRN", [x], shape, size=size, **options))
        return
    half = (size - 1) // 2
    squared = graph.add(layer, "Mul", [x, x], shape)
    window = {"kernel_shape": [size, size], "strides": [1, 1], "pads": [half] * 4, "count_include_pad": 1}
    mean = graph.add(layer, "AveragePool", [squared], shape, **window)
    y = _affine(graph, layer, mean, part.alpha, 1.0)
    y = graph.add(layer, "Pow", [y, _number(graph, layer, -part.beta)], shape)
    graph.top(layer, graph.add(layer, "Mul", [x, y], shape))


def batch_norm(graph: Graph, layer: ReadLayer) -> None:
    """BatchNorm: stored statistics (divided by their factor), or those of the batch itself."""
    part, x = layer.description.batch_norm_param, graph.bottom(layer)
    shape = graph.shape(x)
    if not part.HasField("use_global_stats") or part.use_global_stats:
        factor = float(blob(layer, 2).reshape(-1)[0])
        rate = 0.0 if factor == 0.0 else 1.0 / factor
        statistics = [(blob(layer, k).reshape(-1) * np.float32(rate)) for k in (0, 1)]
        ones, zeros = np.ones_like(statistics[0]), np.zeros_like(statistics[0])
        named = zip(("scale", "shift", "mean", "variance"), (ones, zeros, *statistics), strict=True)
        values = [graph.constant(array, f"{layer.name}:{name}") for name, array in named]
        y = graph.add(layer, "BatchNormalization", [x, *values], shape, epsilon=float(part.eps))
        graph.top(layer, y)
        return
    axes = graph.constant(
        np.asarray([a for a in range(len(shape)) if a != 1], np.int64), f"{layer.name}:axes"
    )
    kept = tuple(d if a == 1 else 1 for a, d in enumerate(shape))
    centred = graph.add(layer, "Sub", [x, graph.add(layer, "ReduceMean", [x, axes], kept)], shape)
    squared = graph.add(layer, "Mul", [centred, centred], shape)
    variance = _affine(graph, layer, graph.add(layer, "ReduceMean", [squared, axes], kept), 1.0, part.eps)
    deviation = graph.add(layer, "Sqrt", [variance], kept)
    graph.top(layer, graph.add(layer, "Div", [centred, deviation], shape))


def scale(graph: Graph, layer: ReadLayer) -> None:
    """Scale and Bias: a factor (and a term) over some axes, stored or from a second bottom."""
    x = graph.bottom(layer)
    shape = graph.shape(x)
    additive = layer.type == "Bias"
    part = layer.description.bias_param if additive else layer.description.scale_param
    axis = _axis(part.axis, shape)

    def spread(own: Shape) -> Shape:
        return (*own, *(1,) * (len(shape) - axis - len(own)))

    if len(layer.bottoms) > 1:
        second = graph.bottom(layer, 1)
        factor = reshaped(graph, layer, second, ((1,) * axis + spread(graph.shape(second))))
        left = 0
    else:
        stored = blob(layer, 0)
        factor, left = graph.constant(stored.reshape(spread(stored.shape)), f"{layer.name}:factor"), 1
    y = graph.add(layer, "Add" if additive else "Mul", [x, factor], shape)
    if not additive and part.bias_term:
        term = blob(layer, left)
        y = graph.add(
            layer, "Add", [y, graph.constant(term.reshape(spread(term.shape)), f"{layer.name}:term")], shape
        )
    graph.top(layer, y)


def eltwise(graph: Graph, layer: ReadLayer) -> None:
    """Eltwise: product, weighted sum or maximum of values of one shape."""
    part = layer.description.eltwise_param
    values = [graph.bottom(layer, k) for k in range(len(layer.bottoms))]
    if part.operation == 1 and part.coeff:
        pairs = zip(values, part.coeff, strict=True)
        values = [_affine(graph, layer, value, float(coefficient), 0.0) for value, coefficient in pairs]
    op = {0: "Mul", 1: "Add", 2: "Max"}[part.operation]
    y = values[0]
    for value in values[1:]:
        y = graph.add(layer, op, [y, value], graph.shape(y))
    graph.top(layer, y)


def concat(graph: Graph, layer: ReadLayer) -> None:
    """Concat along one axis."""
    part = layer.description.concat_param
    values = [graph.bottom(layer, k) for k in range(len(layer.bottoms))]
    shapes = [graph.shape(value) for value in values]
    chosen = int(part.concat_dim) if part.HasField("concat_dim") else int(part.axis)
    axis = _axis(chosen, shapes[0])
    total = tuple(sum(s[a] for s in shapes) if a == axis else d for a, d in enumerate(shapes[0]))
    graph.top(layer, graph.add(layer, "Concat", values, total, axis=axis))


def take(graph: Graph, layer: ReadLayer, x: ir.Value, starts: Mapping[int, tuple[int, int]]) -> ir.Value:
    """``x[begin:end]`` along each axis of ``starts``."""
    shape = tuple(starts[a][1] - starts[a][0] if a in starts else d for a, d in enumerate(graph.shape(x)))
    lists = ([b for b, _ in starts.values()], [e for _, e in starts.values()], list(starts))
    inputs = [
        graph.constant(np.asarray(numbers, np.int64), f"{layer.name}:{word}")
        for word, numbers in zip(("starts", "ends", "axes"), lists, strict=True)
    ]
    return graph.add(layer, "Slice", [x, *inputs], shape)


def slices(graph: Graph, layer: ReadLayer) -> None:
    """Slice at the given points, or into equal parts."""
    part, x = layer.description.slice_param, graph.bottom(layer)
    shape = graph.shape(x)
    axis = _axis(int(part.slice_dim) if part.HasField("slice_dim") else int(part.axis), shape)
    step = shape[axis] // len(layer.tops)
    points = list(part.slice_point) or [step * k for k in range(1, len(layer.tops))]
    bounds = [0, *points, shape[axis]]
    if sorted(set(bounds)) != bounds:
        raise ValueError(f"slices at {points} of {shape[axis]}")
    for k in range(len(layer.tops)):
        graph.top(layer, take(graph, layer, x, {axis: (bounds[k], bounds[k + 1])}), k)


def crop(graph: Graph, layer: ReadLayer) -> None:
    """Crop to the size of a second bottom, from ``axis`` on."""
    part, x = layer.description.crop_param, graph.bottom(layer)
    reference, shape = graph.shape(graph.bottom(layer, 1)), graph.shape(x)
    axes = range(_axis(part.axis, shape), len(shape))
    offsets = list(part.offset) or [0]
    offsets = offsets * len(axes) if len(offsets) == 1 else offsets
    spans = {a: (int(o), int(o) + reference[a]) for a, o in zip(axes, offsets, strict=True)}
    graph.top(layer, take(graph, layer, x, spans))


def flatten(graph: Graph, layer: ReadLayer) -> None:
    """Flatten the axes from ``axis`` to ``end_axis``."""
    part, x = layer.description.flatten_param, graph.bottom(layer)
    shape = graph.shape(x)
    first, last = _axis(part.axis, shape), _axis(part.end_axis, shape)
    flat = (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])
    graph.top(layer, reshaped(graph, layer, x, flat))


def reshape(graph: Graph, layer: ReadLayer) -> None:
    """Reshape: 0 keeps a dimension, -1 is what is left."""
    part, x = layer.description.reshape_param, graph.bottom(layer)
    shape = graph.shape(x)
    first = part.axis if part.axis >= 0 else len(shape) + part.axis + 1
    last = len(shape) if part.num_axes == -1 else first + part.num_axes
    inner = [shape[first + k] if d == 0 else int(d) for k, d in enumerate(part.shape.dim)]
    left = math.prod(shape[first:last]) // max(math.prod(d for d in inner if d != -1), 1)
    graph.top(
        layer,
        reshaped(graph, layer, x, (*shape[:first], *(left if d == -1 else d for d in inner), *shape[last:])),
    )


def permute(graph: Graph, layer: ReadLayer) -> None:
    """Permute, of Caffe's descendants: axes in another order."""
    x = graph.bottom(layer)
    shape = graph.shape(x)
    order = [int(a) for a in layer.description.permute_param.order]
    order += [a for a in range(len(shape)) if a not in order]
    graph.top(layer, graph.add(layer, "Transpose", [x], tuple(shape[a] for a in order), perm=order))


def same(graph: Graph, layer: ReadLayer) -> None:
    """Split, and Dropout at inference."""
    for k in range(len(layer.tops)):
        graph.values[layer.tops[k]] = graph.bottom(layer)


def nothing(_graph: Graph, _layer: ReadLayer) -> None:
    """Silence."""


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(("Convolution", "Deconvolution"), convolution),
    "Pooling": pooling,
    "InnerProduct": inner_product,
    "ReLU": relu,
    "PReLU": prelu,
    "ELU": elu,
    "Sigmoid": unary("Sigmoid"),
    "TanH": unary("Tanh"),
    "AbsVal": unary("Abs"),
    "BNLL": unary("Softplus"),
    "Clip": clip,
    "Power": power,
    "Exp": exp,
    "Log": log,
    "Softmax": softmax,
    "LRN": lrn,
    "BatchNorm": batch_norm,
    **dict.fromkeys(("Scale", "Bias"), scale),
    "Eltwise": eltwise,
    "Concat": concat,
    "Slice": slices,
    "Crop": crop,
    "Flatten": flatten,
    "Reshape": reshape,
    "Permute": permute,
    **dict.fromkeys(("Split", "Dropout"), same),
    "Silence": nothing,
}
