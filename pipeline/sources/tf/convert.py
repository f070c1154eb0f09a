"""From a concrete function or a GraphDef to an ONNX model: the one path all TensorFlow sources take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import onnx_ir as ir

from optim.contract import Array
from pipeline.sources.contract import ConvertRequest, Frozen
from pipeline.sources.frozen_inputs import asked_value
from pipeline.sources.onnx_upgrade import upgrade
from pipeline.sources.tf.batch_dimension import name_batch
from pipeline.sources.tf.bias_adds import use_bias_adds
from pipeline.sources.tf.control_flow import settle
from pipeline.sources.tf.detach import detach_constants
from pipeline.sources.tf.flow.flatten import flatten
from pipeline.sources.tf.flow.functional import functionalise
from pipeline.sources.tf.flow.recurrent import recurrent_calls
from pipeline.sources.tf.fourier import write_out_complex
from pipeline.sources.tf.function_graph import graph_of_function
from pipeline.sources.tf.graph import Edge, GraphDef, TfGraph, by_name, make_identity, node_of
from pipeline.sources.tf.lower import lower
from pipeline.sources.tf.outside_ops import refuse_outside
from pipeline.sources.tf.random_ops import refuse_random
from pipeline.sources.tf.resize_matrices import resize_by_matrices
from pipeline.sources.tf.switches import set_placeholder
from pipeline.sources.tf.symmetric_pads import write_symmetric_pads
from pipeline.sources.tf.to_onnx import NEWEST_OPSET, to_onnx
from pipeline.sources.tf.unfuse import unfuse


@dataclass(frozen=True)
class TfResult:
    """A converted graph and what was done to it."""

    model: ir.Model
    graph_def: GraphDef
    weights: dict[str, Array]
    frozen: tuple[Frozen, ...] = ()
    notes: tuple[str, ...] = ()


def convert_function(
    function: Any,
    *,
    inputs: Sequence[str],
    outputs: Sequence[tuple[int, str]],
    request: ConvertRequest,
    switches: Mapping[str, Frozen] = MappingProxyType({}),
) -> TfResult:
    """Convert a ``ConcreteFunction``.

    Args:
        function: traced in inference mode.
        inputs: ONNX names of its inputs, in order.
        outputs: index and ONNX name of the outputs kept.
        request: opset, and inputs to freeze.
        switches: inputs that were found to switch training on and off, with the value for inference.
    """
    found = graph_of_function(function)
    entries = tuple(Edge(tensor, name) for tensor, name in zip(found.inputs, inputs, strict=True))
    exits = _apart(found.graph_def, entries, [Edge(found.outputs[index], name) for index, name in outputs])
    frozen = _freeze_asked(found.graph_def, entries, request)
    kept = tuple(edge for edge in entries if edge.name not in frozen)
    result = convert_graph(TfGraph(found.graph_def, kept, exits, found.weights), request)
    told = tuple(switches.get(name, one) for name, one in frozen.items())
    return replace(result, frozen=(*told, *result.frozen))


def _apart(graph_def: GraphDef, entries: Sequence[Edge], exits: Sequence[Edge]) -> tuple[Edge, ...]:
    """Outputs with tensors of their own: an input that is handed through is copied."""
    nodes, inputs = by_name(graph_def), {edge.tensor for edge in entries}
    made = []
    for number, edge in enumerate(exits):
        tensor = edge.tensor
        if tensor in inputs:
            copy = graph_def.node.add()
            copy.name = f"{node_of(tensor)}/output{number}"
            make_identity(copy, tensor, nodes[node_of(tensor)].attr["dtype"].type)
            tensor = f"{copy.name}:0"
        made.append(Edge(tensor, edge.name))
    return tuple(made)


def _freeze_asked(graph_def: GraphDef, entries: Sequence[Edge], request: ConvertRequest) -> dict[str, Frozen]:
    """Inputs that the user froze, as constants, in place; what was frozen, by ONNX name."""
    frozen: dict[str, Frozen] = {}
    nodes = by_name(graph_def)
    for edge in entries:
        value = asked_value(edge.name, request)
        if value is not None:
            set_placeholder(nodes[node_of(edge.tensor)], value)
            frozen[edge.name] = Frozen(edge.name, str(value), "asked for (--freeze)")
    return frozen


def convert_graph(graph: TfGraph, request: ConvertRequest) -> TfResult:
    """Convert a graph that is frozen and cut already.

    Raises:
        UnsupportedModelError: an op cannot be carried over.
    """
    ends = [edge.tensor for edge in graph.outputs]
    refuse_outside(graph.graph_def, ends, allowed=request.allow_custom_code)
    graph_def, opset = settle(graph.graph_def, ends), min(request.opset, NEWEST_OPSET)
    graph_def = flatten(graph_def, ends, recurrent_calls(graph_def, ends, opset))
    unfuse(graph_def)
    write_out_complex(graph_def)
    lower(graph_def, request.opset)
    resize_by_matrices(graph_def)
    write_symmetric_pads(graph_def)
    use_bias_adds(graph_def)
    refuse_random(graph_def, ends)
    graph_def = functionalise(graph_def, ends, opset)
    weights = detach_constants(graph_def, ends, dict(graph.weights))
    _keep_inputs(graph_def, graph)
    model = to_onnx(TfGraph(graph_def, graph.inputs, graph.outputs, weights), request.opset)
    name_batch(model, graph, graph_def)
    upgraded = upgrade(model, request.opset)
    return TfResult(model, graph_def, weights, frozen=upgraded.frozen)


def _keep_inputs(graph_def: GraphDef, graph: TfGraph) -> None:
    """Inputs that no output depends on stay inputs."""
    present, nodes = by_name(graph_def), by_name(graph.graph_def)
    for edge in graph.inputs:
        name = node_of(edge.tensor)
        if name not in present:
            graph_def.node.add().CopyFrom(nodes[name])
