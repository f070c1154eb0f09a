"""From a concrete function or a GraphDef to an ONNX model: the one path all TensorFlow sources take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from optim.contract import Array
from pipeline.sources.contract import ConvertRequest, Frozen
from pipeline.sources.onnx_upgrade import upgrade
from pipeline.sources.tf.batch_dimension import name_batch
from pipeline.sources.tf.bias_adds import use_bias_adds
from pipeline.sources.tf.control_flow import settle
from pipeline.sources.tf.detach import detach_constants
from pipeline.sources.tf.function_graph import graph_of_function
from pipeline.sources.tf.graph import Edge, GraphDef, TfGraph, by_name, node_of
from pipeline.sources.tf.outside_ops import refuse_outside
from pipeline.sources.tf.random_ops import refuse_random
from pipeline.sources.tf.resize_matrices import resize_by_matrices
from pipeline.sources.tf.symmetric_pads import write_symmetric_pads
from pipeline.sources.tf.to_onnx import to_onnx
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
    function: Any, *, inputs: Sequence[str], outputs: Sequence[tuple[int, str]], request: ConvertRequest
) -> TfResult:
    """Convert a ``ConcreteFunction``.

    Args:
        function: traced in inference mode.
        inputs: ONNX names of its inputs, in order.
        outputs: index and ONNX name of the outputs kept.
        request: opset.
    """
    found = graph_of_function(function)
    entries = tuple(Edge(tensor, name) for tensor, name in zip(found.inputs, inputs, strict=True))
    exits = tuple(Edge(found.outputs[index], name) for index, name in outputs)
    return convert_graph(TfGraph(found.graph_def, entries, exits, found.weights), request)


def convert_graph(graph: TfGraph, request: ConvertRequest) -> TfResult:
    """Convert a graph that is frozen and cut already.

    Raises:
        UnsupportedModelError: an op cannot be carried over.
    """
    ends = [edge.tensor for edge in graph.outputs]
    refuse_outside(graph.graph_def, ends, allowed=request.allow_custom_code)
    graph_def = settle(graph.graph_def, ends)
    unfuse(graph_def)
    resize_by_matrices(graph_def)
    write_symmetric_pads(graph_def)
    use_bias_adds(graph_def)
    refuse_random(graph_def, ends)
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
