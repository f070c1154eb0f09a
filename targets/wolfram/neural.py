"""Layers with windows and weights: convolutions, pools, dense, normalisation."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import (
    axes_of,
    float_attribute,
    input_of,
    int_attribute,
    ints_attribute,
    string_attribute,
)
from targets.axis_order import Held, held_shape_of, identity, refuse, weight_of
from targets.dense import Dense, dense_of_gemm, dense_of_matmul
from targets.float64.windows import Pads, output_lengths, resolve_pads
from targets.wolfram.draft import Draft
from targets.wolfram.text import listing, number

LOWEST = float(np.finfo(np.float32).min)


def _pair(node: ir.Node, key: str, default: int = 1) -> tuple[int, int]:
    found = ints_attribute(node, key)
    return (found[0], found[1]) if found is not None else (default, default)


def _spatial(held: Held) -> tuple[int, int]:
    height, width = held.shape[2:]
    assert height is not None
    assert width is not None
    return height, width


def _window(strides: tuple[int, ...], pads: Pads, dilations: tuple[int, ...]) -> dict[str, str]:
    options = {"Stride": listing(strides)}
    if any(b or e for b, e in pads):
        options["PaddingSize"] = listing(pads)
    if any(d != 1 for d in dilations):
        options["Dilation"] = listing(dilations)
    return options


def conv(draft: Draft, node: ir.Node) -> None:
    """Conv: W [M, C/group, kH, kW] as it is; uneven padding is the layer's own."""
    held, x = draft.image(node)
    weight = weight_of(node, 1)
    strides, dilations = _pair(node, "strides"), _pair(node, "dilations")
    kernel = tuple(int(k) for k in weight.shape[2:])
    auto = string_attribute(node, "auto_pad", "NOTSET")
    pads = resolve_pads(auto, ints_attribute(node, "pads") or (), _spatial(held), kernel, strides, dilations)
    if min(min(pair) for pair in pads) < 0:
        raise refuse(node, f"negative padding {pads}")
    options = _window(strides, pads, dilations)
    group = int_attribute(node, "group", 1)
    if group != 1:
        options["ChannelGroups"] = str(group)
    bias = weight_of(node, 2) if input_of(node, 2) is not None else None
    made = draft.add(
        node,
        "ConvolutionLayer",
        [x],
        str(weight.shape[0]),
        listing(kernel),
        options=options,
        arrays={"Weights": weight, "Biases": bias},
    )
    draft.result(node, made)


def conv_transpose(draft: Draft, node: ir.Node) -> None:
    """ConvTranspose: W [C, M/group, kH, kW] as it is; padding crops, output padding grows the kernel."""
    held, x = draft.image(node)
    weight, strides = weight_of(node, 1), _pair(node, "strides")
    if _pair(node, "dilations") != (1, 1):
        raise refuse(node, "is dilated")
    output = held_shape_of(node, node.outputs[0])
    crops, grow = [], []
    begins = _transposed_begin(node, held, weight, strides, output)
    for k, begin in enumerate(begins):
        size, out = _spatial(held)[k], output[k + 2] or 0
        end = (size - 1) * strides[k] + weight.shape[k + 2] - begin - out
        grow.append(max(-end, 0))
        crops.append((begin, max(end, 0)))
    weight = np.pad(weight, [(0, 0), (0, 0), (0, grow[0]), (0, grow[1])])
    group = int_attribute(node, "group", 1)
    options = _window(strides, tuple(crops), (1, 1))
    if group != 1:
        options["ChannelGroups"] = str(group)
    bias = weight_of(node, 2) if input_of(node, 2) is not None else None
    made = draft.add(
        node,
        "DeconvolutionLayer",
        [x],
        str(weight.shape[1] * group),
        listing(int(k) for k in weight.shape[2:]),
        options=options,
        arrays={"Weights": weight, "Biases": bias},
    )
    draft.result(node, made)


def _transposed_begin(
    node: ir.Node, held: Held, weight: Array, strides: tuple[int, int], output: tuple[int | None, ...]
) -> tuple[int, int]:
    """Rows to cut at the beginning of each axis: ONNX ConvTranspose, ``auto_pad`` and ``output_shape``."""
    auto = string_attribute(node, "auto_pad", "NOTSET")
    if auto == "VALID":
        return (0, 0)
    if auto in ("", "NOTSET") and ints_attribute(node, "output_shape") is None:
        pads = ints_attribute(node, "pads") or (0, 0, 0, 0)
        if min(pads) < 0:
            raise refuse(node, f"negative padding {pads}")
        return pads[0], pads[1]
    grown, sizes = _pair(node, "output_padding", 0), _spatial(held)
    totals = [
        max((sizes[k] - 1) * strides[k] + weight.shape[k + 2] + grown[k] - (output[k + 2] or 0), 0)
        for k in (0, 1)
    ]
    begins = [t - t // 2 if auto == "SAME_LOWER" else t // 2 for t in totals]
    return begins[0], begins[1]


def pool(draft: Draft, node: ir.Node) -> None:
    """MaxPool and AveragePool.

    A maximum over padding is the layer's own only where no input is negative; elsewhere the lowest float is
    padded explicitly. A mean is taken over explicit zeros, and corrected where ONNX divides by less.
    """
    held, x = draft.image(node)
    kernel = ints_attribute(node, "kernel_shape") or ()
    strides, dilations = _pair(node, "strides"), _pair(node, "dilations")
    if len(kernel) != 2 or dilations != (1, 1) or any(o.name and o.uses() for o in node.outputs[1:]):
        raise refuse(node, "only two spatial axes, undilated and without indices, have a counterpart")
    sizes = _spatial(held)
    auto = string_attribute(node, "auto_pad", "NOTSET")
    pads = resolve_pads(auto, ints_attribute(node, "pads") or (), sizes, kernel, strides, (1, 1))
    lengths = output_lengths(
        sizes, kernel, strides, (1, 1), pads, ceil=bool(int_attribute(node, "ceil_mode", 0))
    )
    counted_pads = pads
    # Exactly as many rows as the windows cover, so that no convention of rounding matters.
    pads = tuple(
        (begin, (n - 1) * s + k - size - begin)
        for (begin, _), n, s, k, size in zip(pads, lengths, strides, kernel, sizes, strict=True)
    )
    x = _cropped(draft, node, held, x, pads)
    pads = tuple((b, max(e, 0)) for b, e in pads)
    padded = any(b or e for b, e in pads)
    options = {"Stride": listing(strides), "Function": "Max" if node.op_type == "MaxPool" else "Mean"}
    if padded and node.op_type == "MaxPool" and x in draft.positive:
        options["PaddingSize"] = listing(pads)
    elif padded:
        value = LOWEST if node.op_type == "MaxPool" else 0.0
        border = listing([(0, 0), *pads])
        x = draft.add(node, "PaddingLayer", [x], border, options={"Padding": number(value)}, part="pad")
    positive = x in draft.positive
    made = draft.add(node, "PoolingLayer", [x], listing(kernel), options=options)
    if positive:
        draft.positive.add(made)
    if node.op_type == "AveragePool":
        counted = bool(int_attribute(node, "count_include_pad", 0))
        ratio = _ratios(sizes, kernel, strides, counted_pads, lengths, counted=counted)
        if not np.isfinite(ratio).all():
            raise refuse(node, "a window lies wholly in the padding")
        if not (ratio == 1.0).all():
            scaling = np.broadcast_to(ratio, (held.shape[1] or 1, *ratio.shape))
            made = draft.add(node, "ConstantTimesLayer", [made], arrays={"Scaling": scaling}, part="divisor")
    draft.put(node.outputs[0], made, identity(4), (*held.shape[:2], *lengths))


def _cropped(draft: Draft, node: ir.Node, held: Held, x: str, pads: Pads) -> str:
    """Without the rows at the end that no window reaches."""
    if all(end >= 0 for _, end in pads):
        return x
    spans = [
        "All",
        *(f"1 ;; {size + min(end, 0)}" for size, (_, end) in zip(_spatial(held), pads, strict=True)),
    ]
    made = draft.add(node, "PartLayer", [x], listing(spans), part="crop")
    if x in draft.positive:
        draft.positive.add(made)
    return made


def _ratios(
    sizes: tuple[int, int],
    kernel: tuple[int, ...],
    strides: tuple[int, int],
    pads: Pads,
    lengths: tuple[int, ...],
    *,
    counted: bool,
) -> Array:
    """kernel area / ONNX's divisor for each window, [out height, out width]; infinite for an empty window."""
    axes = []
    for size, k, s, (begin, end), n in zip(sizes, kernel, strides, pads, lengths, strict=True):
        starts = np.arange(n) * s - begin
        stops = np.minimum(starts + k, size + (end if counted else 0))
        extent = stops - (starts if counted else np.maximum(starts, 0))
        axes.append(np.where(extent > 0, k / np.maximum(extent, 1), np.inf))
    return np.outer(*axes)


def global_pool(draft: Draft, node: ir.Node) -> None:
    """GlobalAveragePool and GlobalMaxPool: one window over everything."""
    held, x = draft.image(node)
    function = "Mean" if "Average" in node.op_type else "Max"
    draft.result(node, _whole(draft, node, _spatial(held), x, function))


def _whole(draft: Draft, node: ir.Node, sizes: tuple[int, int], x: str, function: str) -> str:
    window = listing(sizes)
    made = draft.add(node, "PoolingLayer", [x], window, options={"Stride": window, "Function": function})
    if x in draft.positive:
        draft.positive.add(made)
    return made


def reduce(draft: Draft, node: ir.Node) -> None:
    """ReduceMean, ReduceSum and ReduceMax over all of space, in whichever order it is held."""
    held, axes = draft.get(node), axes_of(node)
    if axes is None or held.rank != 4 or len(axes) != 2 or 0 in (a % 4 for a in axes):
        raise refuse(node, f"over axes {axes} of {held.rank}; only two axes of an image have a counterpart")
    (channels,) = {1, 2, 3} - {a % 4 for a in axes}
    perm = held.perm if held.position(channels) == 1 else (0, channels, *sorted(a % 4 for a in axes))
    sizes = (held.shape[perm[2]] or 1, held.shape[perm[3]] or 1)
    x = draft.turned(node, held, perm)
    made = _whole(draft, node, sizes, x, "Max" if node.op_type == "ReduceMax" else "Mean")
    if node.op_type == "ReduceSum":
        made = draft.each(node, made, f"{sizes[0] * sizes[1]}*#", part="sum")
    if int_attribute(node, "keepdims", 1):
        draft.result(node, made, perm)
    else:
        draft.result(node, draft.add(node, "FlattenLayer", [made], part="flatten"))


def batch_normalization(draft: Draft, node: ir.Node) -> None:
    """BatchNormalization in inference form."""
    if int_attribute(node, "training_mode", 0):
        raise refuse(node, "is in training mode", "convert the inference graph")
    held, x = draft.plain(node)
    if held.rank not in (2, 4):
        raise refuse(node, f"of {held.rank} axes")
    gamma, beta, mean, variance = (weight_of(node, k) for k in range(1, 5))
    made = draft.add(
        node,
        "BatchNormalizationLayer",
        [x],
        options={"Epsilon": number(float_attribute(node, "epsilon", 1e-5))},
        arrays={"Scaling": gamma, "Biases": beta, "MovingMean": mean, "MovingVariance": variance},
    )
    draft.result(node, made)


def lrn(draft: Draft, node: ir.Node) -> None:
    """LRN in elementary layers: x · (k + a/n · band * x²)^-b, the band a 1×1 convolution over channels."""
    held, x = draft.image(node)
    size, channels = int_attribute(node, "size", 0), held.shape[1] or 1
    alpha, beta, bias = (
        float_attribute(node, key, value) for key, value in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    if bias <= 0:
        raise refuse(node, f"bias {bias:g} is not positive")
    squared = draft.each(node, x, "#^2", part="square")
    distance = np.arange(channels)[None, :] - np.arange(channels)[:, None]  # window's channel - own channel
    band = ((distance >= -((size - 1) // 2)) & (distance <= size // 2)) * (alpha / size)
    summed = draft.add(
        node,
        "ConvolutionLayer",
        [squared],
        str(channels),
        "{1, 1}",
        arrays={"Weights": band[:, :, None, None], "Biases": None},
        part="window",
    )
    factor = draft.each(node, summed, f"({number(bias)} + #)^({number(-beta)})", part="factor")
    draft.result(node, draft.threaded(node, "Times", [x, factor]))


def gemm(draft: Draft, node: ir.Node) -> None:
    """Gemm with constant weights: LinearLayer, W [out, in]."""
    _dense(draft, node, dense_of_gemm(node))


def matmul(draft: Draft, node: ir.Node) -> None:
    """MatMul by a constant matrix, with a bias that follows: LinearLayer."""
    _dense(draft, node, dense_of_matmul(node))


def _dense(draft: Draft, node: ir.Node, dense: Dense) -> None:
    weight, bias, output = dense.weight, dense.bias, dense.output
    held, x = draft.plain(node)
    if held.rank != 2:
        raise refuse(node, f"its input has {held.rank} axes; this target takes [batch, features]")
    made = draft.add(
        node, "LinearLayer", [x], str(weight.shape[0]), arrays={"Weights": weight, "Biases": bias}
    )
    draft.put(output, made, (0, 1), held_shape_of(node, output))
