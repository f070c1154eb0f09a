"""A stored GraphDef → an inference graph, cut at inputs and outputs, with what was done to it.

Order: clean → outputs → cut at the named inputs → variables → large constants out → prune → dropout →
switches → branches. The graph as it was before placeholders were frozen is kept: fed with the frozen values,
TensorFlow runs it as the reference.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optim.contract import Array
from optim.errors import UnsupportedModelError, UserError
from pipeline.sources.contract import ConvertRequest, Frozen
from pipeline.sources.tf import dropout
from pipeline.sources.tf.alignment import aligned
from pipeline.sources.tf.asked_training import refuse_asked_dropout
from pipeline.sources.tf.clean import clean
from pipeline.sources.tf.constant_roots import constant_roots, name_constants
from pipeline.sources.tf.control_flow import settle
from pipeline.sources.tf.cut import cut_iterators, cut_tensor
from pipeline.sources.tf.detach import LARGE_BYTES, detach_constants, may_detach
from pipeline.sources.tf.graph import (
    Dims,
    Edge,
    GraphDef,
    NodeDef,
    TfGraph,
    attr_shape,
    by_name,
    consumers,
    data_inputs,
    make_constant,
    make_identity,
    make_placeholder,
    node_of,
    prune,
    set_shape,
    tensor_name,
)
from pipeline.sources.tf.heads import find_heads
from pipeline.sources.tf.inline import inline_calls
from pipeline.sources.tf.outside_ops import refuse_outside
from pipeline.sources.tf.request import asked, needs_shape, shaped
from pipeline.sources.tf.switches import freeze_modes, freeze_switches, set_placeholder, use_defaults
from pipeline.sources.tf.tables import fill_tables, find_tables, write_out_tables
from pipeline.sources.tf.unfuse import unfuse

ReadVariable = Callable[[str], Array | None]

_VARIABLES = frozenset({"Variable", "VariableV2", "VarHandleOp", "TemporaryVariable", "AutoReloadVariable"})
_PASS_THROUGH = frozenset(
    {"Print", "PrintV2", "CheckNumerics", "CheckNumericsV2", "StopGradient", "PreventGradient", "Snapshot",
     "DebugIdentity", "EnsureShape", "PlaceholderV2"}
)  # fmt: skip
_HANDLE_FLOW = frozenset({"Switch", "Merge", "Identity", "Enter", "Exit", "NextIteration"})
_RESOURCE = 20  # DT_RESOURCE, tensorflow/core/framework/types.proto
_PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})
# From this GraphDef version on, a placeholder's empty shape means a scalar; before, an unknown shape.
_SCALAR_SHAPES_SINCE = 24


@dataclass(frozen=True)
class Signature:
    """ONNX name → tensor, as a SavedModel's signature gives them."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Prepared:
    """The graph to convert, and the graph that TensorFlow runs as the reference."""

    graph: TfGraph
    reference: TfGraph
    reference_feeds: Mapping[str, float]  # frozen placeholders of the reference, by tensor name
    frozen: tuple[Frozen, ...]
    notes: tuple[str, ...]
    first: tuple[str, ...] = ()  # nodes of the reference that TensorFlow runs once, before all else


def prepare(
    graph_def: GraphDef,
    request: ConvertRequest,
    *,
    read_variable: ReadVariable | None = None,
    signature: Signature | None = None,
    assets: Mapping[str, Path] | None = None,
) -> Prepared:
    """Prepare ``graph_def`` (changed in place).

    Raises:
        UserError: an input, output or shape is missing or unknown.
        UnsupportedModelError: TensorFlow rejects the graph.
    """
    notes: list[str] = []
    clean(graph_def)
    pass_through(graph_def)
    tables = find_tables(graph_def, assets)
    outputs = _outputs(graph_def, request, signature, notes)
    cut = _cut(graph_def, request, signature, outputs)
    pruned = prune(graph_def, [edge.tensor for edge in outputs])
    cut |= cut_iterators(pruned, notes)
    # Iterators cut away, so is the pipeline behind them. Before anything below lets TensorFlow see the graph.
    refuse_outside(pruned, [edge.tensor for edge in outputs], allowed=request.allow_custom_code)
    if inline_calls(pruned):
        pruned = prune(pruned, [edge.tensor for edge in outputs])
    ends = [edge.tensor for edge in outputs]
    stored, modes = _read_variables(pruned, read_variable, ends)
    roots = constant_roots(pruned)
    dropped = len(graph_def.node) - len(pruned.node)
    if dropped and _is_training(graph_def):
        notes.append(f"{dropped} of {len(graph_def.node)} nodes do not serve the outputs and were cut away")
    weights = detach_constants(pruned, ends, stored)
    frozen, reference, feeds, settled = _freeze(
        pruned, ends, request, cut, _named(request, signature), modes, notes
    )
    write_out_tables(settled, tables)
    first = fill_tables(reference, tables)
    name_constants(settled, roots, ends)
    edges = _inputs(settled, reference, request, signature, cut, set(weights))
    _refuse_unknown_inputs(graph_def, request, edges)
    return Prepared(
        TfGraph(settled, edges, outputs, weights), TfGraph(reference, edges, outputs, weights), feeds, frozen,
        tuple(notes), first,
    )  # fmt: skip


def pass_through(graph_def: GraphDef) -> None:
    """Ops that only look at what they pass on become Identity, in place."""
    for node in graph_def.node:
        if node.op in _PASS_THROUGH and data_inputs(node):
            kind = next((node.attr[key].type for key in ("T", "dtype") if key in node.attr), 1)
            make_identity(node, data_inputs(node)[0], kind)


def _outputs(
    graph_def: GraphDef, request: ConvertRequest, signature: Signature | None, notes: list[str]
) -> tuple[Edge, ...]:
    nodes = by_name(graph_def)
    if request.outputs:
        return tuple(_output(name, nodes, signature) for name in request.outputs)
    if signature is not None:
        return tuple(Edge(tensor_name(tensor), name) for name, tensor in sorted(signature.outputs.items()))
    heads = find_heads(graph_def, tuple(_known_tensor(name, nodes) for name in request.inputs))
    notes.append(heads.why)
    return tuple(Edge(tensor, tensor) for tensor in heads.outputs)


def _output(name: str, nodes: Mapping[str, NodeDef], signature: Signature | None) -> Edge:
    if signature is not None and name in signature.outputs:
        return Edge(tensor_name(signature.outputs[name]), name)
    if node_of(name) not in nodes:
        raise _unknown("output", name, nodes)
    return Edge(tensor_name(name), name if ":" in name else tensor_name(name))


def _known_tensor(name: str, nodes: Mapping[str, NodeDef]) -> str:
    if node_of(name) not in nodes:
        raise _unknown("input", name, nodes)
    return tensor_name(name)


def _unknown(kind: str, name: str, nodes: Mapping[str, NodeDef]) -> UserError:
    near = difflib.get_close_matches(node_of(name), nodes, n=3)
    hint = (
        f"did you mean {', '.join(f'{one}:0' for one in near)}?" if near else "`fairlead inspect` lists them"
    )
    return UserError(
        f"the graph has no {kind} '{name}'", expected="a tensor name such as 'input:0'", hint=hint
    )


def _cut(
    graph_def: GraphDef, request: ConvertRequest, signature: Signature | None, outputs: Sequence[Edge]
) -> set[str]:
    """Turn the tensors named as inputs into placeholders, in place; their nodes' names."""
    nodes = by_name(graph_def)
    named = dict.fromkeys(signature.inputs.values() if signature else ())
    for name in request.inputs:
        if signature is not None and name.removesuffix(":0") in signature.inputs:
            continue
        named[_known_tensor(name, nodes)] = None
    cut: set[str] = set()
    for tensor in map(tensor_name, named):
        node = nodes[node_of(tensor)]
        if node.op in _PLACEHOLDERS:
            cut.add(node.name)
            continue
        if tensor in {edge.tensor for edge in outputs}:
            raise UserError(f"'{tensor}' is named both as input and output")
        cut.add(cut_tensor(graph_def, node, tensor))
    return cut


def _named(request: ConvertRequest, signature: Signature | None) -> set[str]:
    """Nodes that the user calls inputs."""
    known = signature.inputs if signature is not None else {}
    return {node_of(known.get(name.removesuffix(":0"), name)) for name in request.inputs}


def _read_variables(
    graph_def: GraphDef, read: ReadVariable | None, ends: Sequence[str]
) -> tuple[dict[str, Array], list[str]]:
    """Variables become constants of their stored values, in place; reading one becomes Identity.

    Returns the large ones that are weights, by name: they never enter the graph, which would hold them twice
    and thrice. And the names of those that are one boolean each: they may choose between training and
    inference.
    """
    modes: list[str] = []
    weights: dict[str, Array] = {}
    readers, kept = consumers(graph_def), {node_of(tensor) for tensor in ends}
    handles: dict[str, int] = {}
    for node in graph_def.node:
        if node.op not in _VARIABLES:
            continue
        shared = node.attr["shared_name"].s.decode() if "shared_name" in node.attr else ""
        value = None
        if read is not None:
            value = read(node.name)
            value = read(shared) if value is None and shared else value
        if value is None:
            raise UserError(
                f"variable '{node.name}' has no stored value",
                expected="a frozen graph, or a checkpoint that holds every variable the outputs need",
                hint="give the checkpoint prefix instead of the graph, or name outputs before it (--outputs)",
            )
        kind = node.attr["dtype"].type
        if value.nbytes >= LARGE_BYTES and node.name not in kept and may_detach(node.name, readers):
            weights[node.name] = aligned(value)
            make_placeholder(node, kind, value.shape)
        else:
            make_constant(node, value, kind)
            if value.dtype == np.bool_ and value.ndim == 0:
                modes.append(node.name)
        del value  # one weight at a time may be held twice
        handles[node.name] = kind
    _retype_handles(graph_def, handles)
    for node in graph_def.node:
        if node.op == "ReadVariableOp":
            make_identity(node, data_inputs(node)[0], node.attr["dtype"].type)
        elif node.op == "ResourceGather":
            _gather_instead(graph_def, node)
    return weights, modes


def _retype_handles(graph_def: GraphDef, handles: Mapping[str, int]) -> None:
    """What only passes a variable's handle on now passes its value on, in place."""
    kinds = {f"{name}:0": kind for name, kind in handles.items()}
    pending = True
    while pending:
        pending = False
        for node in graph_def.node:
            if node.op not in _HANDLE_FLOW or node.attr["T"].type != _RESOURCE:
                continue
            kind = next((kinds[tensor] for tensor in data_inputs(node) if tensor in kinds), None)
            if kind is not None:
                node.attr["T"].type = kind
                kinds |= {f"{node.name}:{index}": kind for index in range(2)}
                pending = True


def _gather_instead(graph_def: GraphDef, node: NodeDef) -> None:
    table, indices = data_inputs(node)
    name, kind, index_kind = node.name, node.attr["dtype"].type, node.attr["Tindices"].type
    axis = graph_def.node.add()
    axis.name = f"{name}/axis"
    make_constant(axis, np.asarray(0, np.int32))
    node.Clear()
    node.name, node.op = name, "GatherV2"
    node.input.extend([node_of(table), indices, axis.name])
    node.attr["Tparams"].type, node.attr["Tindices"].type = kind, index_kind
    node.attr["Taxis"].type = axis.attr["dtype"].type


def _is_training(graph_def: GraphDef) -> bool:
    return any(node.name.startswith("gradients/") or node.op.startswith("Apply") for node in graph_def.node)


def _freeze(
    graph_def: GraphDef,
    ends: list[str],
    request: ConvertRequest,
    cut: set[str],
    named: set[str],
    modes: list[str],
    notes: list[str],
) -> tuple[tuple[Frozen, ...], GraphDef, dict[str, float], GraphDef]:
    """Frozen placeholders, the reference graph with its feeds, and the settled graph."""
    frozen: dict[str, Frozen] = {}
    try:
        work = _copy(graph_def)
        _freeze_asked(work, request, frozen)
        refuse_asked_dropout(graph_def, work, ends, {name: one.value for name, one in frozen.items()})
        frozen |= freeze_modes(work, ends, modes)
        dropouts = dropout.find_dropouts(work)
        driven = dropout.inference_values(work, dropouts)
        constants = [one for one in dropouts if not one.placeholders]
        known = [one for one in dropouts if one.placeholders and all(p in driven for p in one.placeholders)]
        if constants:
            notes.append(f"{len(constants)} dropout nodes with a fixed probability were cut away")
            dropout.remove(work, constants)
        reference = _copy(work)
        dropout.remove(work, known)
        for name, value in driven.items():
            why = "probability of dropout: this value drops nothing"
            frozen[name] = Frozen(f"{name}:0", str(value), why)
            if name in by_name(work):
                set_placeholder(by_name(work)[name], value)
        work = prune(work, ends)
        frozen |= freeze_switches(work, ends, named)
        asked_for = {name for name in cut if asked(f"{name}:0", request) is not None}
        frozen |= use_defaults(work, asked_for)
        _defaults_to_placeholders(work)
        settled = settle(work, ends)
        idle = [one for one in dropout.find_dropouts(settled) if dropout.drops_nothing(settled, one)]
        if idle:
            dropout.remove(settled, idle)
            settled = prune(settled, ends)
    except (ValueError, TypeError) as error:
        raise rejected(error) from error
    reference = prune(reference, ends)
    if unfuse(reference):
        notes.append("fused resize, pad and convolution are written out, in the reference too")
    _defaults_to_placeholders(reference)
    names = by_name(reference)
    feeds = {
        f"{name}:0": _number(one.value)
        for name, one in frozen.items()
        if name in names and names[name].op in _PLACEHOLDERS
    }
    return tuple(frozen.values()), reference, feeds, settled


def rejected(error: Exception) -> UnsupportedModelError:
    """TensorFlow's own refusal of a graph."""
    import re

    text = str(error).strip()
    op = re.search(r"Op type not registered '([^']+)'", text)
    node = re.search(r"(?:of node|node|Node|\{\{node) '?([\w./-]+)'?", text)
    return UnsupportedModelError(
        f"TensorFlow rejects the graph: {text[:500]}",
        op=op.group(1) if op else "",
        node=node.group(1) if node else "",
        expected="a graph that TensorFlow itself can load",
        hint="name outputs before the node at fault (--outputs), or export the graph again",
    )


def _freeze_asked(graph_def: GraphDef, request: ConvertRequest, frozen: dict[str, Frozen]) -> None:
    nodes = by_name(graph_def)
    for name, value in request.freeze.items():
        node = nodes.get(node_of(name))
        if node is None:
            raise _unknown("placeholder", name, nodes)
        if node.op not in _PLACEHOLDERS:
            raise UserError(
                f"'{name}' is a {node.op}, not a placeholder", hint="only placeholders can be frozen"
            )
        set_placeholder(node, value)
        frozen[node.name] = Frozen(f"{node.name}:0", str(value), "asked for (--freeze)")


def _defaults_to_placeholders(graph_def: GraphDef) -> None:
    for node in graph_def.node:
        if node.op == "PlaceholderWithDefault":
            make_placeholder(node, node.attr["dtype"].type, attr_shape(node))


def _inputs(
    settled: GraphDef,
    reference: GraphDef,
    request: ConvertRequest,
    signature: Signature | None,
    cut: set[str],
    weights: set[str],
) -> tuple[Edge, ...]:
    """The placeholders left, with shapes set in both graphs; in the user's order, then the graph's."""
    del cut
    names = {tensor_name(tensor): name for name, tensor in (signature.inputs if signature else {}).items()}
    edges: list[Edge] = []
    others = by_name(reference)
    for node in settled.node:
        if node.op != "Placeholder" or node.name in weights:
            continue
        tensor = f"{node.name}:0"
        stem, _, index = node.name.rpartition("__")
        original = f"{stem}:{index}" if index.isdigit() and stem else tensor
        name = names.get(
            tensor, names.get(original, original if asked(original, request) is not None else tensor)
        )
        shape = _input_shape(node, name, settled, request)
        for copy in (node, others.get(node.name)):
            if copy is not None:
                set_shape(copy, shape)
        edges.append(Edge(tensor, name))
    order = [tensor_name(name) if ":" in name else name for name in request.inputs]
    rank = {name: position for position, name in enumerate([*order, *names.values()])}
    return tuple(sorted(edges, key=lambda edge: rank.get(edge.name, rank.get(edge.tensor, len(rank)))))


def _input_shape(node: NodeDef, name: str, graph_def: GraphDef, request: ConvertRequest) -> Dims:
    shape = attr_shape(node)
    if "shape" not in node.attr:
        shape = None
    if shape == () and graph_def.versions.producer < _SCALAR_SHAPES_SINCE:
        shape = None
    if shape == () and asked(name, request) is not None:
        shape = None
    if shape is None and asked(name, request) is None:
        raise needs_shape(name)
    return shaped(name, shape, request)


def _refuse_unknown_inputs(graph_def: GraphDef, request: ConvertRequest, edges: Sequence[Edge]) -> None:
    del graph_def, request
    if not edges:
        raise UnsupportedModelError(
            "the outputs depend on no input: the graph is constant",
            expected="at least one placeholder that the outputs depend on",
            hint="name other outputs (--outputs)",
        )


def _number(text: str) -> float:
    return {"True": 1.0, "False": 0.0}.get(text) if text in ("True", "False") else float(text)  # type: ignore[return-value]


def _copy(graph_def: GraphDef) -> GraphDef:
    copy = type(graph_def)()
    copy.CopyFrom(graph_def)
    return copy
