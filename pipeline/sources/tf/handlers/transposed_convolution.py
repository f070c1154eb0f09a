"""Transposed convolution: ``Conv2DBackpropInput``, ``Conv3DBackpropInputV2`` → ``ConvTranspose``.

With stride s, effective kernel k, I inputs and O outputs along an axis, the full result has F = (I - 1)·s + k
elements, of which TensorFlow keeps O from offset p on; what lies beyond F is zero. Hence in ONNX
(https://onnx.ai/onnx/operators/onnx__ConvTranspose.html)

    pads = [p, max(F - p - O, 0)], output_padding = max(p + O - F, 0)

where p is 0 for VALID, given for EXPLICIT, and ⌊max(F - O, 0) / 2⌋ for SAME. tf2onnx always centres, drops
explicit pads, and writes negative pads where O > F. Where a size is free, the full result is sliced at run
time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class AxisPads:
    """Pads of one spatial axis."""

    begin: int
    end: int
    output_padding: int


def axis_pads(full: int, wanted: int, begin: int | None) -> AxisPads:
    """Pads that cut ``wanted`` elements out of ``full``; ``begin`` None: as SAME centres."""
    start = max(full - wanted, 0) // 2 if begin is None else begin
    return AxisPads(start, max(full - start - wanted, 0), max(start + wanted - full, 0))


def convert(ctx: Any, node: Any, **_: Any) -> None:
    """tf2onnx handler."""
    from tf2onnx.onnx_opset.nn import conv_convert_inputs, conv_kernel_shape, get_shape_from_const_or_concat

    spatial = 3 if node.type == "Conv3DBackpropInputV2" else 2
    data_format = node.get_attr_str("data_format") if node.get_attr("data_format") else "NHWC"
    channels_last = not data_format.startswith("NC")
    axes = range(1, 1 + spatial) if channels_last else range(2, 2 + spatial)
    node.type = "ConvTranspose"
    kernel = list(conv_kernel_shape(ctx, node, 1, spatial=spatial))
    strides = _per_axis(node, "strides", axes, spatial)
    dilations = _per_axis(node, "dilations", axes, spatial)
    begins = _begins(node, axes, spatial)
    given = ctx.get_shape(node.input[2])
    inputs = [given[axis] for axis in axes]
    sizes = get_shape_from_const_or_concat(ctx, node.inputs[0])
    wanted = (
        [int(sizes[axis]) if len(sizes) > spatial else int(sizes[i]) for i, axis in enumerate(axes)]
        if (sizes is not None)
        else [-1] * spatial
    )
    effective = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    node.set_attr("strides", strides)
    node.set_attr("dilations", dilations)
    for key in ("padding", "explicit_paddings", "use_cudnn_on_gpu"):
        if key in node.attr:
            del node.attr[key]
    size_input = node.input[0]
    ctx.remove_input(node, size_input, 0)
    weights, data, *bias = node.input  # a bias, where tf2onnx has merged one in
    ctx.replace_inputs(node, [data, weights, *bias])
    if all(size > 0 for size in (*inputs, *wanted)):
        pads = [
            axis_pads((i - 1) * s + k, o, begin)
            for i, s, k, o, begin in zip(inputs, strides, effective, wanted, begins, strict=True)
        ]
        node.set_attr("pads", [one.begin for one in pads] + [one.end for one in pads])
        if any(one.output_padding for one in pads):
            node.set_attr("output_padding", [one.output_padding for one in pads])
        conv_convert_inputs(ctx, node, with_kernel=True, spatial=spatial, quantization_axis=1)
        return
    _sliced(ctx, node, size_input, list(axes), strides, effective, begins, spatial)


def _per_axis(node: Any, key: str, axes: Sequence[int], spatial: int) -> list[int]:
    attribute = node.get_attr(key)
    values = [1] * spatial if attribute is None else list(attribute.ints)
    return values if len(values) == spatial else [int(values[axis]) for axis in axes]


def _begins(node: Any, axes: Sequence[int], spatial: int) -> list[int | None]:
    padding = node.get_attr_str("padding")
    if padding == "SAME":
        return [None] * spatial
    if padding == "EXPLICIT":
        explicit = list(node.get_attr("explicit_paddings").ints)
        return [int(explicit[2 * axis]) for axis in axes]
    return [0] * spatial


def _sliced(
    ctx: Any,
    node: Any,
    sizes: str,
    axes: list[int],
    strides: list[int],
    effective: list[int],
    begins: list[int | None],
    spatial: int,
) -> None:
    """Sizes are known only at run time: compute the full result, padded at the end, and slice it.

    The end needs at most s - 1 more zeros, plus what p shifts: output_padding covers s - 1.
    """
    from onnx import TensorProto
    from tf2onnx import utils
    from tf2onnx.onnx_opset.nn import conv_convert_inputs

    output, shapes, dtypes = node.output[0], node.output_shapes, node.output_dtypes
    rank = spatial + 2
    data_shape = ctx.make_node("Shape", [node.input[0]]).output[0]
    node.set_attr("pads", [0] * (2 * spatial))
    full_shape = list(shapes[0]) if shapes[0] is not None else [-1] * rank
    for axis in axes:
        full_shape[axis] = -1
    consumers = ctx.find_output_consumers(output)
    # A bias belongs to the padding too, so it is added at the end.
    data, weights, *bias = node.input
    ctx.replace_inputs(node, [data, weights])

    def const(values: Sequence[int]) -> str:
        return str(ctx.make_const(utils.make_name(node.name), np.array(values, np.int64)).output[0])

    wanted = ctx.make_node("Cast", [sizes], attr={"to": TensorProto.INT64}).output[0]
    if ctx.get_shape(sizes) != [spatial]:
        wanted = ctx.make_node("Gather", [wanted, const(axes)], attr={"axis": 0}).output[0]
    count = ctx.make_node("Gather", [data_shape, const(axes)], attr={"axis": 0}).output[0]
    steps = ctx.make_node("Sub", [count, const([1] * spatial)]).output[0]
    full = ctx.make_node(
        "Add", [ctx.make_node("Mul", [steps, const(strides)]).output[0], const(effective)]
    ).output[0]
    if begins[0] is None:
        spare = ctx.make_node(
            "Max", [ctx.make_node("Sub", [full, wanted]).output[0], const([0] * spatial)]
        ).output[0]
        start = ctx.make_node("Div", [spare, const([2] * spatial)]).output[0]
    else:
        start = const([int(begin or 0) for begin in begins])
    stop = ctx.make_node("Add", [start, wanted]).output[0]
    lack = ctx.make_node("Max", [ctx.make_node("Sub", [stop, full]).output[0], const([0] * spatial)]).output[
        0
    ]
    ends: list[str] = []
    zero = const([0])
    for axis in range(rank):
        if axis in axes:
            position = axes.index(axis)
            ends.append(ctx.make_node("Gather", [lack, const([position])], attr={"axis": 0}).output[0])
        else:
            ends.append(zero)
    pads = ctx.make_node("Concat", [zero] * rank + ends, attr={"axis": 0}).output[0]
    padded = ctx.make_node("Pad", [output, pads], dtypes=dtypes)
    sliced = ctx.make_node(
        "Slice", [padded.output[0], start, stop, const(axes)], shapes=shapes, dtypes=dtypes
    )
    if bias:
        per_channel = [-1] if axes[0] == 1 else [-1] + [1] * spatial
        vector = ctx.make_node("Reshape", [bias[0], const(per_channel)]).output[0]
        sliced = ctx.make_node("Add", [sliced.output[0], vector], shapes=shapes, dtypes=dtypes)
    ctx.set_shape(output, full_shape)
    ctx.replace_all_inputs(output, sliced.output[0], ops=consumers)
    for index, name in enumerate(ctx.outputs):
        if name == output:
            ctx.outputs[index] = sliced.output[0]
    conv_convert_inputs(ctx, node, with_kernel=True, spatial=spatial, quantization_axis=1)
