"""The same graph, the same bytes: an order and generated names that depend on nothing but the graph.

Converters number what they insert in the order of sets, which differs from run to run. Nodes are put in
depth-first order from the outputs; names that end in a running number (``const_fold__67``) and unnamed
dimensions (``unk__7``) are numbered again in that order. Names of the source stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir

_NUMBERED = re.compile(r"^(.*?)(?:__\d+)+((?::\d+)?)$")  # numbered twice where inserted twice
_DIMENSION = re.compile(r"^unk__\d+$")


def canonicalise(model: ir.Model) -> None:
    """Order nodes and initializers of ``model`` and renumber generated names, in place."""
    taken = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    _Renaming(taken).graph(model.graph)


class _Renaming:
    """Numbers shared by a graph and its subgraphs."""

    def __init__(self, kept: set[str | None]) -> None:
        self._kept = kept
        self._count = 0
        self._values: set[int] = set()
        self._dims: dict[str, str] = {}

    def graph(self, graph: ir.Graph) -> None:
        """Canonicalise ``graph``, then the graphs inside its nodes."""
        ordered = list(_depth_first(graph))
        initializers = dict(graph.initializers)
        graph.initializers.clear()
        used: dict[int, ir.Value] = {}
        for value in graph.inputs:
            self._shape(value)
        for node in ordered:
            graph.append(node)  # moves it to the end
            for value in _reads(node):
                if initializers.get(value.name or "") is value:
                    used.setdefault(id(value), value)
        for value in initializers.values():
            if value.is_graph_output() or value.is_graph_input():
                used.setdefault(id(value), value)
        for value in used.values():
            self._value(value)
            graph.initializers.add(value)
        for node in ordered:
            if node.name:
                node.name = self._renamed(node.name)
            for value in node.outputs:
                self._value(value)
            for inner in _subgraphs(node):
                self.graph(inner)

    def _value(self, value: ir.Value) -> None:
        if id(value) in self._values:
            return
        self._values.add(id(value))
        if value.name and value.name not in self._kept:
            value.name = self._renamed(value.name)
            if value.const_value is not None:
                value.const_value.name = value.name
        self._shape(value)

    def _renamed(self, name: str) -> str:
        numbered = _NUMBERED.match(name)
        if numbered is None:
            return name
        self._count += 1
        return f"{numbered.group(1)}__{self._count}{numbered.group(2)}"

    def _shape(self, value: ir.Value) -> None:
        if value.shape is None:
            return
        dims: list[int | str | None] = []
        for dim in value.shape:
            text = dim if isinstance(dim, int) else dim.value
            if isinstance(text, str) and _DIMENSION.match(text):
                text = self._dims.setdefault(text, f"unk__{len(self._dims)}")
            dims.append(text)
        value.shape = ir.Shape(dims)


def _depth_first(graph: ir.Graph) -> Iterator[ir.Node]:
    """Nodes of ``graph``, each after those it reads; outputs and inputs in their order."""
    done: set[ir.Node] = set()
    roots = [node for value in graph.outputs if (node := value.producer()) is not None]
    for root in [*roots, *graph]:
        stack = [(root, iter(_needs(root, graph)))]
        entered = {root}
        while stack:
            node, needs = stack[-1]
            following = next((n for n in needs if n not in done and n not in entered), None)
            if following is not None:
                entered.add(following)
                stack.append((following, iter(_needs(following, graph))))
                continue
            stack.pop()
            if node not in done:
                done.add(node)
                yield node


def _needs(node: ir.Node, graph: ir.Graph) -> list[ir.Node]:
    producers = (value.producer() for value in _reads(node))
    return [one for one in producers if one is not None and one.graph is graph]


def _reads(node: ir.Node) -> list[ir.Value]:
    """What a node reads, the outer values that graphs inside it capture included."""
    found = [value for value in node.inputs if value is not None]
    for inner in _subgraphs(node):
        for one in ir.traversal.RecursiveGraphIterator(inner):
            found += [value for value in one.inputs if value is not None]
        found += list(inner.outputs)
    return found


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += list(attribute.as_graphs())
    return found
