"""Layers that are convolutions or dense, and what can be written as one: padding, resizing, block moves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import (
    float_attribute,
    input_of,
    int_attribute,
    ints_attribute,
    ints_of,
    scalar_of,
    string_attribute,
)
from targets.axis_order import held_shape_of, refuse, weight_of
from targets.caffe.draft import Draft
from targets.caffe.net import Options
from targets.dense import Dense, dense_of_gemm, dense_of_matmul
from targets.float64.windows import Pads, resolve_pads
from targets.operands import refuse_unless_repeats

Pair = tuple[int, int]


def pair(values: tuple[int, ...] | None, default: int = 1) -> Pair:
    """Two spatial numbers of a node."""
    return (values[0], values[1]) if values is not None else (default, default)


def window_options(kernel: Pair, strides: Pair, pads: Pair, *, dilation: Pair = (1, 1)) -> Options:
    """Kernel, stride, pad and dilation as Caffe writes them: one number where both axes agree."""
    options: dict[str, object] = {"kernel_h": kernel[0], "kernel_w": kernel[1]}
    options |= {"stride_h": strides[0], "stride_w": strides[1]}
    if any(pads):
        options |= {"pad_h": pads[0], "pad_w": pads[1]}
    if dilation != (1, 1):
        options["dilation"] = list(dilation)
    return options


def densify(weight: Array, dilations: Pair) -> Array:
    """The kernel with its dilation written out as zeros."""
    if dilations == (1, 1):
        return weight
    size = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    dense = np.zeros((*weight.shape[:2], *size), weight.dtype)
    dense[:, :, :: dilations[0], :: dilations[1]] = weight
    return dense


def even_pads(weight: Array, pads: Pads) -> tuple[Array, Pair]:
    """Kernel and symmetric pads for uneven ones: zeros before or after the kernel, and the larger pad."""
    larger = (max(pads[0]), max(pads[1]))
    border = [(large - begin, large - end) for large, (begin, end) in zip(larger, pads, strict=True)]
    return np.pad(weight, [(0, 0), (0, 0), *border]), larger


def conv(draft: Draft, node: ir.Node) -> None:
    """Conv: W [M, C/group, kH, kW] as it is; uneven pads become zeros in the kernel."""
    held = draft.image(node)
    weight = weight_of(node, 1)
    strides, dilations = (pair(ints_attribute(node, key)) for key in ("strides", "dilations"))
    pads = _pads(node, held.shape, weight.shape[2:], strides, dilations)
    if any(begin != end for begin, end in pads):
        weight, even = even_pads(densify(weight, dilations), pads)
        dilations = (1, 1)
    else:
        even = (pads[0][0], pads[1][0])
    bias = [weight_of(node, 2)] if input_of(node, 2) is not None else []
    top = _convolution(draft, node, held.name, weight, bias, strides, even, dilations)
    for blob in range(1 + len(bias)):
        draft.placed(node, 1 + blob, top, blob)
    draft.result(node, top)


def _convolution(
    draft: Draft,
    node: ir.Node,
    bottom: str,
    weight: Array,
    bias: list[Array],
    strides: Pair,
    pads: Pair,
    dilations: Pair = (1, 1),
    *,
    group: int | None = None,
    kind: str = "Convolution",
    part: str = "",
) -> str:
    groups = int_attribute(node, "group", 1) if group is None else group
    outputs = weight.shape[0] if kind == "Convolution" else weight.shape[1] * groups
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    options = {"num_output": int(outputs), **window_options(kernel, strides, pads, dilation=dilations)}
    if not bias:
        options["bias_term"] = False
    if groups != 1:
        options["group"] = groups
    return draft.add(node, kind, [bottom], {"convolution_param": options}, [weight, *bias], part=part)


def _pads(
    node: ir.Node, shape: tuple[int | None, ...], kernel: tuple[int, ...], strides: Pair, dilations: Pair
) -> Pads:
    spatial = [int(d) for d in shape[2:] if d is not None]
    auto = string_attribute(node, "auto_pad", "NOTSET")
    pads = resolve_pads(auto, ints_attribute(node, "pads") or (), spatial, kernel, strides, dilations)
    if any(begin < 0 or end < 0 for begin, end in pads):
        raise refuse(node, f"negative padding {pads}")
    return pads


def conv_transpose(draft: Draft, node: ir.Node) -> None:
    """ConvTranspose: W [C, M/group, kH, kW] as it is; uneven pads become a crop, output_padding zeros."""
    held = draft.image(node)
    dilations = pair(ints_attribute(node, "dilations"))
    weight = densify(weight_of(node, 1), dilations)
    strides = pair(ints_attribute(node, "strides"))
    output = held_shape_of(node, node.outputs[0])
    begins = _transposed_begin(node, held.shape, weight.shape[2:], strides, output)
    pads, crops, grow = [], [], []
    for axis in (2, 3):
        n, out = held.shape[axis], output[axis]
        assert n is not None and out is not None
        begin, full = begins[axis - 2], (n - 1) * strides[axis - 2] + weight.shape[axis]
        end = full - begin - out
        grow.append(max(-end, 0))
        pad = min(begin, max(end, 0))
        pads.append(pad)
        crops.append((begin - pad, max(end, 0) - pad))
    if any(grow):
        weight = np.pad(weight, [(0, 0), (0, 0), (0, grow[0]), (0, grow[1])])
    bias = [weight_of(node, 2)] if input_of(node, 2) is not None else []
    top = _convolution(
        draft, node, held.name, weight, bias, strides, (pads[0], pads[1]), kind="Deconvolution"
    )
    for axis, (begin, end) in zip((2, 3), crops, strict=True):
        size = output[axis]
        assert size is not None
        top = draft.crop(node, top, axis, size + begin + end, begin, end)
    draft.result(node, top)


def _transposed_begin(
    node: ir.Node,
    shape: tuple[int | None, ...],
    kernel: tuple[int, ...],
    strides: Pair,
    output: tuple[int | None, ...],
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
    grown = pair(ints_attribute(node, "output_padding"), 0)
    begins = []
    for k in (0, 1):
        n, out = shape[k + 2], output[k + 2]
        assert n is not None and out is not None
        total = max((n - 1) * strides[k] + kernel[k] + grown[k] - out, 0)
        begins.append(total // 2 if auto != "SAME_LOWER" else total - total // 2)
    return begins[0], begins[1]


def pad(draft: Draft, node: ir.Node) -> None:
    """Pad with zeros round an image: a depthwise convolution by 1 whose own padding does it."""
    held = draft.image(node)
    pads = ints_attribute(node, "pads") or ints_of(input_of(node, 1))
    axes = ints_of(input_of(node, 3)) or tuple(range(len(pads or ()) // 2))
    value = (
        scalar_of(input_of(node, 2)) if input_of(node, 2) is not None else float_attribute(node, "value", 0.0)
    )
    if pads is None or string_attribute(node, "mode", "constant") != "constant" or value != 0.0:
        raise refuse(node, "only constant zero padding has a Caffe counterpart")
    half = len(pads) // 2
    widths = {axis % 4: (pads[k], pads[k + half]) for k, axis in enumerate(axes)}
    if any(widths.get(axis, (0, 0)) != (0, 0) for axis in (0, 1)) or min(pads) < 0:
        raise refuse(node, f"pads {pads} of other axes than height and width, or negative")
    channels = held.shape[1] or 1
    weight, even = even_pads(
        np.ones((channels, 1, 1, 1), np.float32), (widths.get(2, (0, 0)), widths.get(3, (0, 0)))
    )
    draft.result(node, _convolution(draft, node, held.name, weight, [], (1, 1), even, group=channels))


def gemm(draft: Draft, node: ir.Node) -> None:
    """Gemm with constant weights: InnerProduct, W [out, in]."""
    _dense(draft, node, dense_of_gemm(node))


def matmul(draft: Draft, node: ir.Node) -> None:
    """MatMul by a constant matrix, with a bias that follows: InnerProduct."""
    _dense(draft, node, dense_of_matmul(node))


def _dense(draft: Draft, node: ir.Node, dense: Dense) -> None:
    weight, bias, output = dense.weight, dense.bias, dense.output
    held = draft.get(node, flat=True)
    if held.rank != 2:
        raise refuse(node, f"its input has {held.rank} axes; a Caffe InnerProduct takes [batch, features]")
    if held.rows is not None:
        weight = weight[:, held.rows]
    options: dict[str, object] = {"num_output": int(weight.shape[0])}
    if bias is None:
        options["bias_term"] = False
    blobs = [weight] if bias is None else [weight, bias]
    top = draft.add(node, "InnerProduct", [held.name], {"inner_product_param": options}, blobs)
    draft.placed(node, 1, top, 0, turned=not int_attribute(node, "transB", 0))
    if input_of(node, 2) is not None:
        draft.placed(node, 2, top, 1)
    draft.put(output, top, (0, 1), held_shape_of(node, output))


def resize(draft: Draft, node: ir.Node) -> None:
    """Resize and Upsample by whole factors, nearest: a depthwise Deconvolution with a kernel of ones."""
    held = draft.image(node)
    output = held_shape_of(node, node.outputs[0])
    factors = []
    for before, after in zip(held.shape[1:], output[1:], strict=True):
        if not before or not after or after % before:
            raise refuse(node, f"from {held.shape} to {output} is not by whole factors")
        factors.append(after // before)
    refuse_unless_repeats(node, "both Caffe and OpenCV")
    if factors[0] != 1:
        raise refuse(node, f"from {held.shape} to {output} changes the channels")
    channels = held.shape[1] or 1
    kernel = (factors[1], factors[2])
    weight = np.ones((channels, 1, *kernel), np.float32)
    top = _convolution(
        draft, node, held.name, weight, [], kernel, (0, 0), group=channels, kind="Deconvolution"
    )
    draft.result(node, top)


def depth_to_space(draft: Draft, node: ir.Node) -> None:
    """DepthToSpace: a Deconvolution whose kernel puts each channel in its place."""
    held = draft.image(node)
    block, channels = int_attribute(node, "blocksize", 1), held.shape[1] or 1
    depth = channels // block**2
    weight = np.zeros((channels, depth, block, block), np.float32)
    crd = string_attribute(node, "mode", "DCR") == "CRD"
    for c, i, j in np.ndindex(depth, block, block):
        source = (c * block + i) * block + j if crd else (i * block + j) * depth + c
        weight[source, c, i, j] = 1.0
    top = _convolution(
        draft, node, held.name, weight, [], (block, block), (0, 0), group=1, kind="Deconvolution"
    )
    draft.result(node, top)


def space_to_depth(draft: Draft, node: ir.Node) -> None:
    """SpaceToDepth: a strided Convolution whose kernel picks each place into its channel."""
    held = draft.image(node)
    block, depth = int_attribute(node, "blocksize", 1), held.shape[1] or 1
    weight = np.zeros((depth * block**2, depth, block, block), np.float32)
    for c, i, j in np.ndindex(depth, block, block):
        weight[(i * block + j) * depth + c, c, i, j] = 1.0
    draft.result(node, _convolution(draft, node, held.name, weight, [], (block, block), (0, 0), group=1))
