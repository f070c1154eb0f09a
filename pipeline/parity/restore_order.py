"""A copy of an optimised graph that shows its reordered tensors as the original has them.

A pass may leave a tensor's channels in another order and turn the weights around it to match. Compared as it
stands such a tensor looks wrong; left out, a fault can only be found somewhere in the stretch around it. So
each one gets a Gather that puts its channels back, under the original's name, and one that undoes it for
whoever reads on. Both move numbers and change none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.reordered import Reordered, reordered_tensors

_MARK = "fairlead.restores"  # metadata of the added nodes


def with_order_restored(model: ir.Model) -> ir.Model:
    """The model itself where no tensor is reordered; else a copy in which all have their original order."""
    if not reordered_tensors(model):
        return model
    copy = model.clone()
    taken = {v.name for node in copy.graph for v in node.outputs}
    for name, one in reordered_tensors(copy).items():
        value = next(v for node in copy.graph for v in node.outputs if v.name == name)
        fits = value.shape is None or len(value.shape) < 2 or value.shape[1] in (len(one.order), None)
        if one.original not in taken and not value.is_graph_output() and fits:
            _restore(copy.graph, value, one)
            taken.add(one.original)
    return copy


def _restore(graph: ir.Graph, value: ir.Value, one: Reordered) -> None:
    producer = value.producer()
    if producer is None:
        return
    readers = list(value.uses())
    original = _gather(graph, producer, value, one.order, one.original)
    back = _gather(graph, original[0], original[1], np.argsort(one.order), f"{value.name}/again")
    for node, index in readers:
        node.replace_input_with(index, back[1])


def _gather(
    graph: ir.Graph, after: ir.Node, value: ir.Value, order: Array, name: str
) -> tuple[ir.Node, ir.Value]:
    indices = ir.Value(name=f"{name}/order", const_value=ir.tensor(order.astype(np.int64)))
    indices.const_value.name = indices.name  # type: ignore[union-attr]
    graph.register_initializer(indices)
    output = ir.Value(name=name, type=value.type, shape=None if value.shape is None else value.shape.copy())
    node = ir.node("Gather", [value, indices], {"axis": 1}, outputs=[output])
    node.metadata_props[_MARK] = "order"
    graph.insert_after(after, [node])
    return node, output


def restores(node: ir.Node) -> bool:
    """Whether the node was added here."""
    return _MARK in node.metadata_props


def own_nodes(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """The nodes that were in the graph before."""
    return [node for node in nodes if not restores(node)]
