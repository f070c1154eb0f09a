"""The architecture as it is drawn: one line of Python a layer, weights by layer name, and who holds which
value.

ONNX keeps channels first, Keras last. A value is *held* in some order of axes: ``perm[k]`` is the ONNX axis
that stands at position ``k`` of the Keras tensor. Layers take the order they need; only where two differ is
a Permute drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.errors import UnsupportedModelError
from optim.facts import constant_of, dims, label
from targets.layer_names import LayerNames

Perm = tuple[int, ...]
Shape = tuple[int | None, ...]


def identity(rank: int) -> Perm:
    """ONNX's own order."""
    return tuple(range(rank))


def channels_last(rank: int) -> Perm:
    """(0, 2, …, rank - 1, 1): batch, space, channels."""
    return (0, *range(2, rank), 1) if rank > 2 else identity(rank)


@dataclass(frozen=True)
class Held:
    """A value as the Keras model holds it."""

    variable: str
    perm: Perm
    shape: Shape  # in ONNX's order; None where free

    @property
    def rank(self) -> int:
        return len(self.shape)


def refuse(node: ir.Node, reason: str, hint: str = "") -> UnsupportedModelError:
    """The error that a node raises when Keras has no exact counterpart for it."""
    return UnsupportedModelError(
        f"{node.op_type}: {reason}", where=f"node {label(node)}", op=node.op_type, node=label(node), hint=hint
    )


@dataclass
class Drawing:
    """Collects lines while the graph is walked in order."""

    names: LayerNames
    lines: list[str] = field(default_factory=list)
    weights: dict[str, list[Array]] = field(
        default_factory=dict
    )  # layer name → arrays as set_weights takes them
    tensors: dict[str, str] = field(default_factory=dict)  # layer name → the ONNX tensor its node computes
    _held: dict[str, Held] = field(default_factory=dict)
    _turned: dict[tuple[str, Perm], str] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    _count: int = 0
    done: set[int] = field(default_factory=set)  # ids of nodes that an earlier one took in
    # Flattened value → where each of its elements stands in ONNX's own order; its Dense permutes its rows so.
    flattened: dict[str, Array] = field(default_factory=dict)

    def layer(
        self, node: ir.Node, call: str, inputs: str, weights: list[Array] | None = None, part: str = ""
    ) -> str:
        """Draw ``call``, which ends with an open argument list, on ``inputs``; returns the new variable."""
        name = self.layer_name(node, part)
        comma = "" if call.endswith("(") else ", "
        if weights:
            self.weights[name] = [np.asarray(w) for w in weights]
        return self.line(f"{call}{comma}name={name!r})({inputs})")

    def line(self, expression: str) -> str:
        """Draw any expression; returns the new variable."""
        self._count += 1
        variable = f"x{self._count}"
        self.lines.append(f"{variable} = {expression}")
        return variable

    def put(self, value: ir.Value, variable: str, perm: Perm) -> None:
        """Say that ``variable`` holds ``value`` in this order of axes."""
        self._held[value.name or ""] = Held(variable, perm, shape_of(value))

    def get(self, node: ir.Node, value: ir.Value | None) -> Held:
        """How ``value`` is held.

        Raises:
            UnsupportedModelError: it is missing, or a constant where a computed value is needed.
        """
        if value is None or (value.name or "") not in self._held:
            what = "is constant" if value is not None and constant_of(value) is not None else "is missing"
            raise refuse(node, f"input {value.name if value else '?'} {what}", "fold constants first")
        return self._held[value.name or ""]

    def turned(self, held: Held, perm: Perm) -> str:
        """The variable with its axes in order ``perm``; a Permute is drawn where it is not yet so."""
        if held.perm == perm:
            return held.variable
        key = (held.variable, perm)
        if key not in self._turned:
            order = tuple(held.perm.index(axis) for axis in perm)
            if order[0] == 0:
                self._turned[key] = self.line(f"layers.Permute({tuple(order[1:])})({held.variable})")
            else:
                self._turned[key] = self.line(f"ops.transpose({held.variable}, {order})")
        return self._turned[key]

    def spatial(self, node: ir.Node, value: ir.Value | None) -> tuple[Held, str]:
        """A value and its variable with channels last."""
        held = self.get(node, value)
        return held, self.turned(held, channels_last(held.rank))

    def plain(self, node: ir.Node, value: ir.Value | None) -> tuple[Held, str]:
        """A value and its variable in ONNX's own order."""
        held = self.get(node, value)
        return held, self.turned(held, identity(held.rank))

    def layer_name(self, node: ir.Node, part: str = "") -> str:
        """A unique layer name, nearest to what the source called the layer; Keras takes no slash in it."""
        base = self.names.of(node, part).replace("/", "_")
        name, number = base, 1
        while name in self._names:
            number += 1
            name = f"{base}_{number}"
        self._names.add(name)
        self.tensors[name] = node.outputs[0].name or ""
        return name


def shape_of(value: ir.Value) -> Shape:
    """Static dimensions; None where free."""
    found = dims(value)
    if found is None:
        raise UnsupportedModelError(
            f"the rank of {value.name} is unknown",
            where=value.name or "",
            hint="infer shapes before exporting",
        )
    return tuple(d if isinstance(d, int) else None for d in found)
