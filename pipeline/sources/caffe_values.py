"""ONNX nodes as they grow from a Caffe net: the value of each blob, and its shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.errors import UnsupportedModelError, UserError
from targets.caffe.read import ReadLayer

Shape = tuple[int, ...]


@dataclass
class Graph:
    """ONNX nodes as they grow, and the current value of each blob: layers may work in place."""

    values: dict[str, ir.Value] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)  # by value name
    nodes: list[ir.Node] = field(default_factory=list)
    constants: list[ir.Value] = field(default_factory=list)
    names: set[str] = field(default_factory=set)  # of values
    node_names: set[str] = field(default_factory=set)
    made_by: dict[str, ReadLayer] = field(default_factory=dict)  # value name → layer

    def unique(self, wanted: str) -> str:
        """A name for a value."""
        return _unique(wanted, self.names)

    def constant(self, array: Array, name: str) -> ir.Value:
        """An initializer."""
        value = ir.Value(name=self.unique(name), const_value=ir.tensor(np.ascontiguousarray(array)))
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(value.const_value.dtype)  # type: ignore[union-attr]
        self.constants.append(value)
        return value

    def add(
        self, layer: ReadLayer, op: str, inputs: Sequence[ir.Value | None], shape: Shape, **attributes: object
    ) -> ir.Value:
        """One node with one output of known shape."""
        name = _unique(layer.name or op, self.node_names)
        node = ir.node(op, list(inputs), attributes, name=name)  # type: ignore[arg-type]
        output = node.outputs[0]
        output.name = self.unique(f"{layer.tops[0] if layer.tops else name}:{op}")
        output.shape, output.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        self.shapes[output.name] = shape
        self.nodes.append(node)
        return output

    def shape(self, value: ir.Value) -> Shape:
        """The shape of a computed value or input."""
        return self.shapes[value.name or ""]

    def bottom(self, layer: ReadLayer, position: int = 0) -> ir.Value:
        """The value of a layer's bottom.

        Raises:
            UserError: nothing before has made it.
        """
        name = layer.bottoms[position] if position < len(layer.bottoms) else ""
        if name not in self.values:
            raise UserError(
                f"reads {name or 'nothing'!r}, which no layer before it makes", where=f"layer {layer.name}"
            )
        return self.values[name]

    def top(self, layer: ReadLayer, value: ir.Value, position: int = 0) -> None:
        """Say that ``value`` is a layer's top."""
        self.values[layer.tops[position]] = value
        self.made_by[value.name or ""] = layer


Rule = Callable[[Graph, ReadLayer], None]


def _unique(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name


def blob(layer: ReadLayer, position: int) -> Array:
    """A weight of a layer.

    Raises:
        UserError: the .caffemodel holds none for it.
    """
    if position >= len(layer.blobs):
        raise UserError(
            f"{layer.type} needs {position + 1} blobs and has {len(layer.blobs)}",
            where=f"layer {layer.name}",
            hint="give the .caffemodel that belongs to this description",
        )
    return layer.blobs[position]


def refuse(layer: ReadLayer, reason: str) -> UnsupportedModelError:
    """The error for a layer that is not carried over."""
    return UnsupportedModelError(
        f"{layer.type}: {reason}",
        where=f"layer {layer.name}",
        op=layer.type,
        node=layer.name,
        layer=layer.name,
    )
