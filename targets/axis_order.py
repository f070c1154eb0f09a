"""How a target that works channels first holds a value whose ONNX axes stand in another order.

A converted model often takes and gives ``[N, H, W, C]`` and transposes at its edges. Such a transpose is no
layer of the target: the value is *held* in the other order, and the caller's array is turned on its way in
or out. ``perm[k]`` is the ONNX axis that stands at position ``k`` of the held tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.errors import UnsupportedModelError
from optim.facts import constant_of, dims, ints_attribute, is_constant, label, sources_of

Perm: TypeAlias = tuple[int, ...]
Shape: TypeAlias = tuple[int | None, ...]

POINTWISE: Final = frozenset({"Add", "Sub", "Mul", "Div", "Clip", "Relu", "Cast", "Identity", "Neg", "Tanh"})


def identity(rank: int) -> Perm:
    """ONNX's own order."""
    return tuple(range(rank))


@dataclass(frozen=True)
class Held:
    """A value under the name by which the target knows it.

    ``rows`` is set where axes were flattened in the held order: element ``k`` of the held vector is element
    ``rows[k]`` of the ONNX one. Only a dense layer, which permutes its rows, may read such a value.
    """

    name: str
    perm: Perm
    shape: Shape  # in ONNX's order; None for a free batch
    rows: Array | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def held_shape(self) -> Shape:
        """The shape as the target sees it."""
        return tuple(self.shape[axis] for axis in self.perm)

    def position(self, axis: int) -> int:
        """Where ONNX's ``axis`` (negative: from the end) stands in the held tensor."""
        return self.perm.index(axis % self.rank)

    def aligned(self, constant: Array) -> Array:
        """A constant that broadcasts against the ONNX value, with full rank and in the held order."""
        full = np.asarray(constant).reshape((1,) * (self.rank - constant.ndim) + constant.shape)
        return full.transpose(self.perm)


def refuse(node: ir.Node, reason: str, hint: str = "") -> UnsupportedModelError:
    """The error for a node without an exact counterpart: names it, its op and the source's layer."""
    sources = sources_of(node)
    layer = sources[0].partition(":")[0] if sources else ""
    place = f"node {label(node)}" + (f", source layer {layer}" if layer and layer != label(node) else "")
    return UnsupportedModelError(
        f"{node.op_type}: {reason}", where=place, op=node.op_type, node=label(node), layer=layer, hint=hint
    )


def as_reason(error: UnsupportedModelError) -> str:
    """A refusal in one line, with what to try."""
    return f"{error.where}: {error.what}" + (f". Try: {error.hint}" if error.hint else "")


def held_shape_of(node: ir.Node, value: ir.Value | None) -> Shape:
    """The shape of a value; only the batch (axis 0) may be free.

    Raises:
        UnsupportedModelError: the rank or another dimension is unknown.
    """
    found = dims(value)
    if found is None or any(not isinstance(d, int) for d in found[1:]):
        name = value.name if value is not None else "?"
        raise refuse(
            node,
            f"the shape {list(found) if found is not None else 'of unknown rank'} of {name} is not fixed",
            "fix the input's shape: `optimize.shapes` in the config",
        )
    return tuple(d if isinstance(d, int) else None for d in found)


def moves_only_ones(before: Shape, after: Shape) -> bool:
    """Whether two shapes differ only in where axes of size 1 stand (the batch stays first)."""
    return (
        len(before) == len(after)
        and before[:1] == after[:1]
        and [d for d in before[1:] if d != 1] == [d for d in after[1:] if d != 1]
    )


def input_order(value: ir.Value) -> Perm:
    """The order in which to hold a graph input: channels first where the graph turns it so anyway."""
    rank = len(dims(value) or ())
    if rank != 4:
        return identity(rank)
    channels_first = (0, 3, 1, 2)
    waiting, seen = [value], {id(value)}
    while waiting:
        for use in waiting.pop().uses():
            node = use.node
            if node.op_type == "Transpose" and ints_attribute(node, "perm") == channels_first:
                return channels_first
            if node.op_type == "Reshape" and _adds_channel(node):
                return channels_first
            others_constant = all(
                v is None or v is node.inputs[use.idx] or is_constant(v) for v in node.inputs
            )
            if node.op_type in POINTWISE and others_constant and id(node.outputs[0]) not in seen:
                seen.add(id(node.outputs[0]))
                waiting.append(node.outputs[0])
    return identity(rank)


def _adds_channel(node: ir.Node) -> bool:
    """Whether a Reshape turns [N, H, W, 1] into [N, 1, H, W], which is that transpose for one channel."""
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    return (
        before is not None
        and after is not None
        and len(before) == len(after) == 4
        and before[3] == after[1] == 1
        and before[1:3] == after[2:]
    )


def weight_of(node: ir.Node, position: int) -> Array:
    """A constant input.

    Raises:
        UnsupportedModelError: it is missing or computed at run time.
    """
    value = node.inputs[position] if position < len(node.inputs) else None
    array = constant_of(value)
    if array is None:
        raise refuse(node, f"input {position} is not constant", "freeze the model or fold constants first")
    return array
