"""Walks the graph once and writes each node as Caffe layers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from optim.errors import UnsupportedModelError
from optim.facts import dims, is_constant, opset_of
from targets.axis_order import Held, Perm, as_reason, input_order, refuse
from targets.caffe import arrange, convolution, pointwise, pooling
from targets.caffe.draft import Draft, PlacedWeight
from targets.caffe.net import Layer, Net
from targets.layer_names import LayerNames
from targets.walk import prepare, refusals

Lower = Callable[[Draft, ir.Node], None]

LOWERED: Final[dict[str, Lower]] = {
    "Conv": convolution.conv,
    "ConvTranspose": convolution.conv_transpose,
    "Gemm": convolution.gemm,
    "MatMul": convolution.matmul,
    "Pad": convolution.pad,
    **dict.fromkeys(("Resize", "Upsample"), convolution.resize),
    "DepthToSpace": convolution.depth_to_space,
    "SpaceToDepth": convolution.space_to_depth,
    **dict.fromkeys(("MaxPool", "AveragePool"), pooling.pool),
    **dict.fromkeys(("GlobalMaxPool", "GlobalAveragePool"), pooling.global_pool),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax"), pooling.reduce),
    **dict.fromkeys(pointwise.SIMPLE, pointwise.unary),
    **dict.fromkeys(("Neg", "Sqrt", "Reciprocal"), pointwise.powers),
    "Exp": pointwise.exp,
    "Pow": pointwise.power_of,
    "LeakyRelu": pointwise.leaky,
    "Elu": pointwise.elu,
    "PRelu": pointwise.prelu,
    "Clip": pointwise.clip,
    "HardSigmoid": pointwise.hard_sigmoid,
    "HardSwish": pointwise.hard_swish,
    "BatchNormalization": pointwise.batch_normalization,
    "LRN": pointwise.lrn,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Min"), pointwise.binary),
    **dict.fromkeys(("Identity", "Dropout", "Cast"), arrange.same),
    "Transpose": arrange.transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), arrange.reshape),
    "Concat": arrange.concat,
    "Split": arrange.split,
    "Slice": arrange.take_slice,
    "Constant": arrange.constant_node,
}


@dataclass(frozen=True)
class Port:
    """An input or output: the ONNX tensor, its blob, and the order in which the blob has ONNX's axes."""

    tensor: str
    blob: str
    perm: Perm


@dataclass(frozen=True)
class Lowered:
    """The net, its ports, how each ONNX value is held, and where each initializer went."""

    net: Net
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    held: dict[str, Held]
    weights: dict[str, PlacedWeight]
    named: dict[str, str]  # layer → the ONNX tensor that its node computes


def lower(model: ir.Model, name: str = "net") -> Lowered:
    """The Caffe net of ``model``.

    Raises:
        UnsupportedModelError: a node has no exact counterpart; names it.
    """
    lowered, reasons = _walk(model, name, first_only=True)
    if reasons or lowered is None:
        raise reasons[0]
    return lowered


def unsupported_nodes(model: ir.Model) -> tuple[str, ...]:
    """Every node that has no counterpart, with the reason and what to try."""
    return tuple(as_reason(error) for error in _walk(model, "net", first_only=False)[1])


def _walk(
    model: ir.Model, name: str, *, first_only: bool
) -> tuple[Lowered | None, list[UnsupportedModelError]]:
    prepare(model)
    opset = opset_of(model)
    draft = Draft(LayerNames(model.graph))
    try:
        inputs = tuple(_enter(draft, value) for value in model.graph.inputs)
    except UnsupportedModelError as error:
        return None, [error]
    reasons = refusals(
        model.graph, draft, lambda node: _lower_node(draft, node, opset), first_only=first_only
    )
    if reasons:
        return None, reasons
    try:
        outputs = tuple(_leave(draft, value) for value in model.graph.outputs)
    except UnsupportedModelError as error:
        return None, [error]
    net = Net(name, tuple(draft.layers))
    return Lowered(net, inputs, outputs, draft.held_values, draft.weights, dict(draft.names.given)), []


def _lower_node(draft: Draft, node: ir.Node, opset: int) -> None:
    if node.domain not in ("", "ai.onnx"):
        raise refuse(node, f"domain {node.domain} is not standard ONNX")
    if node.op_type == "Softmax":
        pointwise.softmax(draft, node, opset)
    elif node.op_type in LOWERED:
        LOWERED[node.op_type](draft, node)
    else:
        raise refuse(node, "no Caffe layer computes it", "the onnxruntime and openvino targets take it")


def _enter(draft: Draft, value: ir.Value) -> Port:
    found = dims(value)
    name = value.name or "input"
    if found is None or not found or any(not isinstance(d, int) for d in found[1:]):
        raise UnsupportedModelError(
            f"its shape {list(found) if found is not None else '?'} is not fixed",
            where=f"input {name}",
            expected="fixed sizes after the batch",
            hint="fix them: `optimize.shapes` in the config, or --inputs on conversion",
        )
    if value.dtype != ir.DataType.FLOAT:
        raise UnsupportedModelError(
            f"its type is {value.dtype}; a Caffe blob is float32", where=f"input {name}"
        )
    perm = input_order(value)
    shape = tuple(d if isinstance(d, int) else None for d in found)
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", name.partition(":")[0]).strip("_-") or "data"
    arrange.input_layer(draft, stem, value, perm, shape)
    return Port(name, draft.held(value).name, perm)


def _leave(draft: Draft, value: ir.Value) -> Port:
    if not draft.known(value):
        what = "is constant" if is_constant(value) else "is not computed"
        raise UnsupportedModelError(what, where=f"output {value.name}")
    held = draft.held(value)
    if held.rows is not None:
        raise UnsupportedModelError(
            "is a vector flattened with its channels last; Caffe cannot reorder it",
            where=f"output {value.name}",
        )
    blob = held.name
    if blob not in {layer.name for layer in draft.layers} or value.is_graph_input():
        # OpenCV finds results by the names of layers, and the parts of a Slice have none.
        blob = draft.names.unique(f"{blob}/output")
        draft.layers.append(Layer(blob, "Power", (held.name,), (blob,)))
    return Port(value.name or "", blob, held.perm)
