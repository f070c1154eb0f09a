"""Walks the graph once and writes each node as layers of a NetGraph."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from optim.contract import Array
from optim.errors import UnsupportedModelError
from optim.facts import dims, is_constant, opset_of
from targets.axis_order import Perm, Shape, as_reason, input_order, refuse
from targets.layer_names import LayerNames
from targets.layer_table import TargetLayer
from targets.walk import prepare, refusals
from targets.wolfram import arrange, neural, pointwise
from targets.wolfram.draft import INPUT, OUTPUT, Draft
from targets.wolfram.text import listing, string

Lower = Callable[[Draft, ir.Node], None]

LOWERED: Final[dict[str, Lower]] = {
    "Conv": neural.conv,
    "ConvTranspose": neural.conv_transpose,
    "Gemm": neural.gemm,
    "MatMul": neural.matmul,
    **dict.fromkeys(("MaxPool", "AveragePool"), neural.pool),
    **dict.fromkeys(("GlobalMaxPool", "GlobalAveragePool"), neural.global_pool),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax"), neural.reduce),
    "BatchNormalization": neural.batch_normalization,
    "LRN": neural.lrn,
    **dict.fromkeys((*pointwise.FUNCTIONS, "LeakyRelu", "Elu", "HardSigmoid", "Pow"), pointwise.function),
    "Clip": pointwise.clip,
    "PRelu": pointwise.prelu,
    **dict.fromkeys(pointwise.THREADED, pointwise.binary),
    **dict.fromkeys(("Identity", "Dropout", "Cast"), arrange.same),
    "Transpose": arrange.transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), arrange.reshape),
    "Concat": arrange.concat,
    "Split": arrange.split,
    "Slice": arrange.take_slice,
    "Pad": arrange.pad,
    **dict.fromkeys(("Resize", "Upsample"), arrange.resize),
    "DepthToSpace": arrange.depth_to_space,
    "Constant": arrange.constant_node,
}

HEAD: Final = """(* Get["build.wl"] gives the net, which takes and gives arrays. *)
Block[{params, layers, edges},
params = Import[FileNameJoin[{DirectoryName[$InputFileName], "params.wxf"}], "WXF"];

layers = <|
"""


@dataclass(frozen=True)
class Port:
    """The input or the output: its ONNX tensor, the order of ONNX's axes in it, its array's dimensions."""

    tensor: str
    perm: Perm
    dimensions: tuple[int, ...]


@dataclass(frozen=True)
class Lowered:
    """The text of ``build.wl``, the parameters it reads, and the two ports."""

    text: str
    parameters: dict[str, Array]
    input: Port
    output: Port
    layers: int
    table: tuple[TargetLayer, ...]


def lower(model: ir.Model) -> Lowered:
    """The NetGraph of ``model``.

    Raises:
        UnsupportedModelError: a node has no exact counterpart; names it.
    """
    lowered, reasons = _walk(model, first_only=True)
    if reasons or lowered is None:
        raise reasons[0]
    return lowered


def unsupported_nodes(model: ir.Model) -> tuple[str, ...]:
    """Every node that has no counterpart, with the reason and what to try."""
    return tuple(as_reason(error) for error in _walk(model, first_only=False)[1])


def _walk(model: ir.Model, *, first_only: bool) -> tuple[Lowered | None, list[UnsupportedModelError]]:
    prepare(model)
    opset = opset_of(model)
    draft = Draft(LayerNames(model.graph))
    try:
        entered = _enter(draft, model)
    except UnsupportedModelError as error:
        return None, [error]
    reasons = refusals(
        model.graph, draft, lambda node: _lower_node(draft, node, opset), first_only=first_only
    )
    if reasons:
        return None, reasons
    try:
        left = _leave(draft, model.graph.outputs[0])
    except UnsupportedModelError as error:
        return None, [error]
    table = tuple(
        _told(draft, name, text) for name, text in draft.layers.items() if name in draft.names.given
    )
    return Lowered(_text(draft, entered), draft.parameters, entered, left, len(draft.layers), table), []


def _told(draft: Draft, name: str, text: str) -> TargetLayer:
    """A layer in the Wolfram Language's words."""
    padding = re.search(r'"?PaddingSize"? -> (\{.*?\}\}|\{.*?\}|\d+)', text)
    weights = tuple(
        (key.rpartition("/")[2], tuple(array.shape))
        for key, array in draft.parameters.items()
        if key.rpartition("/")[0] == name
    )
    return TargetLayer(
        name,
        text.partition("[")[0],
        draft.names.given[name],
        weights,
        f"PaddingSize {padding.group(1)}" if padding else "",
    )


def _lower_node(draft: Draft, node: ir.Node, opset: int) -> None:
    if node.domain not in ("", "ai.onnx"):
        raise refuse(node, f"domain {node.domain} is not standard ONNX")
    if node.op_type == "Softmax":
        pointwise.softmax(draft, node, opset)
    elif node.op_type in LOWERED:
        LOWERED[node.op_type](draft, node)
    else:
        raise refuse(
            node, "no layer is known that computes it", "the onnxruntime and openvino targets take it"
        )


def _enter(draft: Draft, model: ir.Model) -> Port:
    inputs, outputs = model.graph.inputs, model.graph.outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise UnsupportedModelError(
            f"{len(inputs)} inputs and {len(outputs)} outputs",
            where=f"model {model.graph.name or ''}".strip(),
            expected="one of each for this target",
            hint="convert again with --outputs naming one tensor",
        )
    value = inputs[0]
    found = dims(value)
    if found is None or len(found) < 2 or any(not isinstance(d, int) for d in found[1:]):
        raise UnsupportedModelError(
            f"its shape {list(found) if found is not None else '?'} is not fixed",
            where=f"input {value.name}",
            expected="a batch and fixed sizes after it",
            hint="fix them: `optimize.shapes` in the config, or --inputs on conversion",
        )
    if value.dtype != ir.DataType.FLOAT:
        raise UnsupportedModelError(f"its type is {value.dtype}, not float32", where=f"input {value.name}")
    perm = input_order(value)
    shape = tuple(d if isinstance(d, int) else None for d in found)
    draft.put(value, INPUT, perm, shape)
    return Port(value.name or "", perm, _dimensions(perm, shape))


def _leave(draft: Draft, value: ir.Value) -> Port:
    if not draft.known(value):
        what = "is constant" if is_constant(value) else "is not computed"
        raise UnsupportedModelError(what, where=f"output {value.name}")
    held = draft.held(value)
    if held.name == INPUT:
        raise UnsupportedModelError("is the input; there is no layer", where=f"output {value.name}")
    draft.edges.append(((held.name,), OUTPUT))
    return Port(value.name or "", held.perm, _dimensions(held.perm, held.shape))


def _dimensions(perm: Perm, shape: Shape) -> tuple[int, ...]:
    return tuple(int(shape[axis] or 1) for axis in perm[1:])


def _text(draft: Draft, entered: Port) -> str:
    layers = ",\n".join(f"  {string(name)} -> {text}" for name, text in draft.layers.items())
    edges = ",\n".join(f"  {_edge(sources)} -> {layer}" for sources, layer in draft.edges)
    dimensions = listing(entered.dimensions)
    graph = f'NetGraph[layers, edges, "Input" -> {dimensions}]'
    return f"{HEAD}{layers}\n|>;\n\nedges = {{\n{edges}\n}};\n\n{graph}\n]\n"


def _edge(sources: tuple[str, ...]) -> str:
    return sources[0] if len(sources) == 1 else "{" + ", ".join(sources) + "}"
