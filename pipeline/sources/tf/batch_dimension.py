"""Outputs whose first dimension is the inputs' batch say so: ``[batch, 10]`` instead of ``[unk__0, 10]``.

TensorFlow's own shape inference is asked: with every free first dimension of an input set to one prime,
an output that was free and now has that number follows the batch. Through a Reshape to [-1, n] it follows
only where the other dimensions are known, which is why the graph is asked and not the operators' rules.
"""

from __future__ import annotations

import onnx_ir as ir

from pipeline.sources.tf.fold import import_graph
from pipeline.sources.tf.graph import GraphDef, TfGraph, attr_shape, by_name, node_of, set_shape

BATCH = "batch"
_PRIME = 1009  # no product or sum of ordinary dimensions comes out as this by chance


def name_batch(model: ir.Model, graph: TfGraph, graph_def: GraphDef) -> None:
    """Name the free first dimension of outputs of ``model`` that follow the batch, in place.

    Args:
        model: converted from ``graph_def``, inputs named already.
        graph: its inputs and outputs.
        graph_def: the graph, large constants detached.
    """
    free = [value for value in model.graph.outputs if _starts_free(value)]
    if not free or not any(_starts_free(value) for value in model.graph.inputs):
        return
    following = _following(graph, graph_def)
    for value in free:
        if value.name in following and value.shape is not None:
            value.shape = ir.Shape([BATCH, *(dim for dim in list(value.shape)[1:])])


def _starts_free(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.rank() > 0 and not isinstance(value.shape[0], int)


def _following(graph: TfGraph, graph_def: GraphDef) -> set[str]:
    """ONNX names of the outputs whose first dimension is the batch."""
    trial = type(graph_def)()
    trial.CopyFrom(graph_def)
    nodes = by_name(trial)
    for edge in graph.inputs:
        node = nodes[node_of(edge.tensor)]
        shape = attr_shape(node)
        if shape and shape[0] is None:
            set_shape(node, (_PRIME, *shape[1:]))
    try:
        imported = import_graph(trial)
    except (ValueError, TypeError):  # this batch does not fit: nothing is known
        return set()
    found: set[str] = set()
    for edge in graph.outputs:
        shape = imported.get_tensor_by_name(edge.tensor).shape
        if shape.rank and shape[0] == _PRIME:
            found.add(edge.name)
    return found
