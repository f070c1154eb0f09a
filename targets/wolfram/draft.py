"""The net as it grows: layers as Wolfram Language text, edges between them, parameters by name.

A layer sees one example: ONNX's batch axis is gone, so ONNX's axis 1 is level 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import constant_of
from targets.axis_order import Held, Perm, Shape, held_shape_of, identity, refuse
from targets.layer_names import LayerNames
from targets.wolfram.text import call, listing, string

INPUT = 'NetPort["Input"]'
OUTPUT = 'NetPort["Output"]'


@dataclass
class Draft:
    """Collects layers while the graph is walked in order."""

    names: LayerNames
    layers: dict[str, str] = field(default_factory=dict)  # name → expression
    edges: list[tuple[tuple[str, ...], str]] = field(default_factory=list)  # (sources, layer), as text
    parameters: dict[str, Array] = field(default_factory=dict)
    positive: set[str] = field(default_factory=set)  # sources whose values are never negative
    _held: dict[str, Held] = field(default_factory=dict)
    _turned: dict[tuple[str, Perm], str] = field(default_factory=dict)

    def add(
        self,
        node: ir.Node,
        head: str,
        sources: Sequence[str],
        *arguments: str,
        options: Mapping[str, str] | None = None,
        arrays: Mapping[str, Array | None] | None = None,
        part: str = "",
    ) -> str:
        """Append ``head[arguments, options, arrays]``; returns the layer as edges name it.

        An array becomes ``params["layer/Name"]``; None is written as ``None``.
        """
        name = self.names.of(node, part)
        given = dict(options or {})
        for key, array in (arrays or {}).items():
            if array is None:
                given[key] = "None"
                continue
            entry = f"{name}/{key}"
            self.parameters[entry] = np.ascontiguousarray(array, dtype=np.float32)
            given[key] = f"params[{string(entry)}]"
        self.layers[name] = call(head, *arguments, options=given)
        quoted = string(name)
        self.edges.append((tuple(sources), quoted))
        return quoted

    def each(self, node: ir.Node, source: str, function: str, *, part: str = "") -> str:
        """An ElementwiseLayer; ``function`` is a symbol or the body of a pure function of ``#``."""
        body = f"{function} &" if "#" in function else function
        return self.add(node, "ElementwiseLayer", [source], body, part=part)

    def threaded(self, node: ir.Node, symbol: str, sources: Sequence[str], *, part: str = "") -> str:
        """A ThreadingLayer of arrays of one shape."""
        return self.add(node, "ThreadingLayer", sources, symbol, part=part)

    def put(self, value: ir.Value, source: str, perm: Perm, shape: Shape, rows: Array | None = None) -> None:
        """Say that ``source`` holds ``value``, of ONNX shape ``shape``, in this order of axes."""
        self._held[value.name or ""] = Held(source, perm, shape, rows)

    def result(self, node: ir.Node, source: str, perm: Perm | None = None) -> None:
        """``put`` for a node's first output; ``perm`` defaults to ONNX's order."""
        shape = held_shape_of(node, node.outputs[0])
        self.put(node.outputs[0], source, identity(len(shape)) if perm is None else perm, shape)

    def known(self, value: ir.Value | None) -> bool:
        """Whether a value has been computed."""
        return value is not None and (value.name or "") in self._held

    def held(self, value: ir.Value) -> Held:
        """How a value that is ``known`` is held."""
        return self._held[value.name or ""]

    def get(self, node: ir.Node, position: int = 0) -> Held:
        """How a computed input is held.

        Raises:
            UnsupportedModelError: it is missing, or constant where a computed value is needed.
        """
        value = node.inputs[position] if position < len(node.inputs) else None
        if value is None or not self.known(value):
            what = "is constant" if constant_of(value) is not None else "is missing"
            raise refuse(node, f"input {value.name if value else position} {what}", "fold constants first")
        return self.held(value)

    def turned(self, node: ir.Node, held: Held, perm: Perm) -> str:
        """The source with its axes in order ``perm``; a TransposeLayer where it is not yet so."""
        if held.perm == perm:
            return held.name
        key = (held.name, perm)
        if key not in self._turned:
            order = [held.perm.index(axis) for axis in perm]
            # Transpose[a, {n1, n2, ...}] moves level k to level n_k.
            levels = [order.index(k) for k in range(1, held.rank)]
            self._turned[key] = self.add(
                node, "TransposeLayer", [held.name], listing(levels), part="transpose"
            )
        return self._turned[key]

    def plain(self, node: ir.Node, position: int = 0) -> tuple[Held, str]:
        """An input in ONNX's own order (channels, space)."""
        held = self.get(node, position)
        return held, self.turned(node, held, identity(held.rank))

    def image(self, node: ir.Node, position: int = 0) -> tuple[Held, str]:
        """``plain``, of rank 4.

        Raises:
            UnsupportedModelError: of another rank.
        """
        held, source = self.plain(node, position)
        if held.rank != 4:
            raise refuse(node, f"{held.rank - 2} spatial axes; this target takes two")
        return held, source
