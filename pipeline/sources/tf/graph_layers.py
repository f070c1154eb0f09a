"""The layer list of a graph without layers: one record an op that computes, its bias with it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from optim.contract import Array
from pipeline.sources.contract import SourceLayer
from pipeline.sources.tf.graph import GraphDef, NodeDef, by_name, consumers, data_inputs, node_of

_MAIN = frozenset(
    {
        "Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "MatMul", "BatchMatMulV2",
        "MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D", "Softmax", "LogSoftmax", "Relu", "Relu6", "LeakyRelu",
        "Elu", "Selu", "Softplus", "Sigmoid", "Tanh", "LRN", "BiasAdd", "FusedBatchNorm", "FusedBatchNormV2",
        "FusedBatchNormV3", "ConcatV2", "ResizeBilinear", "ResizeNearestNeighbor", "Add", "AddV2", "Sub",
        "Mul", "RealDiv", "Maximum", "Minimum", "Reshape", "DepthToSpace", "SpaceToDepth", "Mean", "Pad",
        "PadV2", "MirrorPad",
    }
)  # fmt: skip
# Positions of the operands that may be weights.
_WEIGHT_POSITIONS = {
    "Conv2D": (1,), "Conv3D": (1,), "DepthwiseConv2dNative": (1,), "Conv2DBackpropInput": (1,),
    "MatMul": (1,), "BatchMatMulV2": (1,), "BiasAdd": (1,), "Add": (0, 1), "AddV2": (0, 1), "Mul": (0, 1),
}  # fmt: skip
_WITH_BIAS = frozenset(
    {"Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "MatMul", "BatchMatMulV2"}
)
_BIAS_ADDS = frozenset({"BiasAdd", "Add", "AddV2"})
_FLOATS = frozenset({1, 2, 14, 19})  # float, double, bfloat16, half; tensorflow/core/framework/types.proto

Weight = tuple[str, tuple[int, ...]]


def graph_layers(
    graph_def: GraphDef,
    weights: Mapping[str, Array],
    shapes: Mapping[str, tuple[int | None, ...]],
    model: ir.Model,
) -> tuple[SourceLayer, ...]:
    """One record for each main op of ``graph_def``, named after its node, in graph order.

    Args:
        graph_def: the settled graph.
        weights: large constants, detached from it, by node name.
        shapes: static shape of each tensor.
        model: what was made of it; outputs are named only where they are in it.
    """
    nodes = by_name(graph_def)
    mains = {node.name: node for node in graph_def.node if node.op in _MAIN and _is_float(node)}
    biases = _biases(graph_def, mains, weights)
    absorbed = {bias: main for main, bias in biases.items()}
    layers: list[SourceLayer] = []
    for name, node in mains.items():
        if name in absorbed:
            continue
        parts = [node, mains[biases[name]]] if name in biases else [node]
        held = tuple(weight for part in parts for weight in _held(part, nodes, weights))
        layers.append(
            SourceLayer(
                name=name,
                op=node.op,
                outputs=_outputs(parts, model),
                output_shape=shapes.get(f"{name}:0", ()),
                parameters=sum(math.prod(shape) for _, shape in held),
                weights=held,
                padding=node.attr["padding"].s.decode().lower() if "padding" in node.attr else "",
                inbound=_inbound(node, nodes, mains, absorbed),
            )
        )
    return tuple(layers)


def _is_float(node: NodeDef) -> bool:
    """Whether data flow through it, and not sizes or indices."""
    return "T" not in node.attr or node.attr["T"].type in _FLOATS


def _biases(
    graph_def: GraphDef, mains: Mapping[str, NodeDef], weights: Mapping[str, Array]
) -> dict[str, str]:
    """Convolution or matrix product → the op that adds one number a channel to it, and alone reads it."""
    nodes, readers = by_name(graph_def), consumers(graph_def)
    found: dict[str, str] = {}
    for name, node in mains.items():
        following = readers.get(f"{name}:0", [])
        if node.op not in _WITH_BIAS or len(following) != 1 or following[0].op not in _BIAS_ADDS:
            continue
        bias = following[0]
        if bias.name in mains and [len(shape) for _, shape in _held(bias, nodes, weights)] == [1]:
            found[name] = str(bias.name)
    return found


def _outputs(parts: list[NodeDef], model: ir.Model) -> tuple[str, ...]:
    """The tensor in ``model`` that carries the parts' result."""
    last = f"{parts[-1].name}:0"
    if any(value.name == last for node in model.graph for value in node.outputs):
        return (last,)
    made = {node.name: node for node in model.graph if node.name}
    node = made.get(parts[-1].name)
    return (str(node.outputs[0].name),) if node is not None and node.outputs[0].name else ()


def _held(node: NodeDef, nodes: Mapping[str, NodeDef], weights: Mapping[str, Array]) -> tuple[Weight, ...]:
    """The constants that an op takes as weights: (node's name, shape)."""
    operands = data_inputs(node)
    positions = (
        range(1, len(operands))
        if node.op.startswith("FusedBatchNorm")
        else _WEIGHT_POSITIONS.get(node.op, ())
    )
    found = []
    for position in positions:
        if not 0 <= position < len(operands):
            continue
        source = nodes.get(node_of(operands[position]))
        while source is not None and source.op == "Identity":
            source = nodes.get(node_of(source.input[0]))
        if source is None:
            continue
        if source.name in weights:
            found.append((source.name, tuple(int(d) for d in weights[source.name].shape)))
        elif source.op == "Const":
            shape = tuple(int(dim.size) for dim in source.attr["value"].tensor.tensor_shape.dim)
            if shape:
                found.append((source.name, shape))
    return tuple(found)


def _inbound(
    node: NodeDef, nodes: Mapping[str, NodeDef], mains: Mapping[str, NodeDef], absorbed: Mapping[str, str]
) -> tuple[str, ...]:
    """The layers and inputs that a layer reads."""
    found: dict[str, None] = {}
    pending = [node_of(tensor) for tensor in data_inputs(node)]
    seen: set[str] = set()
    while pending:
        name = pending.pop(0)
        if name in seen or name not in nodes:
            continue
        seen.add(name)
        if name in mains or nodes[name].op == "Placeholder":
            found[absorbed.get(name, name)] = None
        else:
            pending += [node_of(tensor) for tensor in data_inputs(nodes[name])]
    return tuple(found)
