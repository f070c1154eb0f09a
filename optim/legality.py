"""Whether a graph is well formed: checked after every pass, in time linear in its size."""

from __future__ import annotations

import onnx_ir as ir


def faults(model: ir.Model, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> list[str]:
    """What is illegal about ``model``; empty when nothing is.

    Checked: every name is defined once (SSA) and before it is read (topological order), nothing dangles, and
    the graph still has exactly these input and output names in this order.
    """
    found: list[str] = []
    graph = model.graph
    initializers = graph.initializers
    now_inputs = tuple(v.name or "" for v in graph.inputs if v.name not in initializers)
    now_outputs = tuple(v.name or "" for v in graph.outputs)
    if now_inputs != inputs:
        found.append(f"inputs are {now_inputs}, were {inputs}")
    if now_outputs != outputs:
        found.append(f"outputs are {now_outputs}, were {outputs}")
    _check_graph(graph, set(), set(), found)
    return found[:8]


def _check_graph(graph: ir.Graph, outer: set[ir.Value], outer_names: set[str], found: list[str]) -> None:
    defined: set[ir.Value] = set()
    names: set[str] = set()

    def define(value: ir.Value, by: str) -> None:
        if not value.name:
            return  # an optional output left out
        if value.name in names or value.name in outer_names:
            found.append(f"'{value.name}' is defined twice, the second time by {by}")
        names.add(value.name)
        defined.add(value)

    for value in graph.inputs:
        define(value, "an input")
    for value in graph.initializers.values():
        if value not in defined:
            define(value, "an initializer")
    for node in graph:
        for read in node.inputs:
            if read is not None and read not in defined and read not in outer:
                found.append(f"{node.op_type} '{node.name}' reads '{read.name}' before it is defined")
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.GRAPH:
                _check_graph(attribute.as_graph(), outer | defined, outer_names | names, found)
            elif attribute.type == ir.AttributeType.GRAPHS:
                for body in attribute.as_graphs():
                    _check_graph(body, outer | defined, outer_names | names, found)
        for made in node.outputs:
            define(made, f"{node.op_type} '{node.name}'")
    for result in graph.outputs:
        if result not in defined and result not in outer:
            found.append(f"output '{result.name}' is made by nothing")
