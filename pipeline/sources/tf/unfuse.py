"""Ops that deployment tools fused, written out again: ``FusedResizeAndPadConv2D``, ``FusedPadConv2D``.

resize bilinear → mirror pad → convolution, as
https://www.tensorflow.org/api_docs/python/tf/raw_ops/FusedResizeAndPadConv2D defines them. The reference runs
them written out too: TensorFlow 2.21's fused kernel is right for the first image of a batch only.
"""

from __future__ import annotations

from pipeline.sources.tf.graph import (
    GraphDef,
    NodeDef,
    by_name,
    constant,
    data_inputs,
    input_name,
    node_of,
)

_FUSED = frozenset({"FusedResizeAndPadConv2D", "FusedPadConv2D"})
_INT32 = 3  # tensorflow/core/framework/types.proto


def unfuse(graph_def: GraphDef) -> int:
    """Write the fused convolutions of ``graph_def`` out, in place; how many there were."""
    nodes = by_name(graph_def)
    fused = [node for node in graph_def.node if node.op in _FUSED]
    for node in fused:
        _write_out(graph_def, node, nodes)
    return len(fused)


def _write_out(graph_def: GraphDef, node: NodeDef, nodes: dict[str, NodeDef]) -> None:
    operands = data_inputs(node)
    image, paddings, kernel = operands[0], operands[-2], operands[-1]
    kind, mode = node.attr["T"].type, node.attr["mode"].s
    if node.op == "FusedResizeAndPadConv2D":
        resize = _add(graph_def, f"{node.name}/resize", "ResizeBilinear", [image, operands[1]], kind)
        resize.attr["align_corners"].b = node.attr["resize_align_corners"].b
        resize.attr["half_pixel_centers"].b = False
        image = resize.name
    source = nodes.get(node_of(paddings))
    if source is None or source.op != "Const" or constant(source).any():
        pad = _add(graph_def, f"{node.name}/pad", "MirrorPad", [image, paddings], kind)
        pad.attr["Tpaddings"].type = _INT32
        pad.attr["mode"].s = mode
        image = pad.name
    name, strides, padding = node.name, list(node.attr["strides"].list.i), node.attr["padding"].s
    node.Clear()
    node.name, node.op = name, "Conv2D"
    node.input.extend([input_name(image), input_name(kernel)])
    node.attr["T"].type = kind
    node.attr["strides"].list.i.extend(strides)
    node.attr["padding"].s = padding
    node.attr["data_format"].s = b"NHWC"


def _add(graph_def: GraphDef, name: str, op: str, operands: list[str], kind: int) -> NodeDef:
    node = graph_def.node.add()
    node.name, node.op = name, op
    node.input.extend(input_name(tensor) for tensor in operands)
    node.attr["T"].type = kind
    return node
