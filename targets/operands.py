"""The sides of an elementwise operator, for targets with one layer for two values, others for a constant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import constant_of, float_attribute, input_of, scalar_of, string_attribute
from targets.axis_order import Held, refuse


class Walked(Protocol):
    """What a target knows of the values computed so far."""

    def known(self, value: ir.Value | None) -> bool: ...

    def get(self, node: ir.Node, position: int = 0) -> Held: ...


@dataclass(frozen=True)
class WithConstant:
    """A computed value and a constant: float64, of the value's rank, in its held order, one for the batch."""

    held: Held
    constant: Array
    value_first: bool

    @property
    def number(self) -> float | None:
        """The constant where it is one number."""
        return float(self.constant.reshape(())) if self.constant.size == 1 else None


def with_constant(draft: Walked, node: ir.Node) -> WithConstant | None:
    """The sides of a node with two inputs; None where both are computed.

    Raises:
        UnsupportedModelError: neither is, or the constant adds axes or differs along the batch.
    """
    left, right = (draft.known(value) for value in node.inputs[:2])
    if left and right:
        return None
    if not (left or right):
        raise refuse(node, "both inputs are constant", "fold constants first")
    held = draft.get(node, 0 if left else 1)
    constant = constant_of(node.inputs[1 if left else 0])
    if constant is None:
        raise refuse(node, "an input is missing")
    if constant.ndim > held.rank:
        raise refuse(node, f"a constant of shape {constant.shape} adds axes to {held.shape}")
    full = held.aligned(constant).astype(np.float64)
    if full.size > 1 and full.shape[0] != 1:
        raise refuse(node, "a constant that differs along the batch")
    return WithConstant(held, full, left)


def scale_and_shift(op: str, constant: Array, *, value_first: bool) -> tuple[Array, Array]:
    """Add, Sub, Mul or Div by a constant as ``scale · x + shift``; not a constant divided by the value."""
    one, zero = np.ones(()), np.zeros(())
    return {
        "Add": (one, constant),
        "Sub": (one, -constant) if value_first else (-one, constant),
        "Mul": (constant, zero),
        "Div": (1.0 / constant, zero),
    }[op]


def bounds(node: ir.Node, number: float | None) -> tuple[float, float]:
    """Max or Min with a constant as the lowest and highest value that passes.

    Raises:
        UnsupportedModelError: the constant is not one number.
    """
    if number is None:
        raise refuse(node, "the other side is neither computed nor one number")
    return (number, math.inf) if node.op_type == "Max" else (-math.inf, number)


def clip_bounds(node: ir.Node) -> tuple[float, float]:
    """Bounds of Clip: attributes of old opsets, optional inputs of new ones; infinite where there is none.

    Raises:
        UnsupportedModelError: one is computed at run time.
    """
    return _clip_bound(node, 1, "min", -math.inf), _clip_bound(node, 2, "max", math.inf)


def _clip_bound(node: ir.Node, position: int, key: str, nothing: float) -> float:
    if key in node.attributes:
        value = float_attribute(node, key, nothing)
    elif input_of(node, position) is None:
        return nothing
    else:
        found = scalar_of(input_of(node, position))
        if found is None:
            raise refuse(node, f"its {key} is computed at run time")
        value = found
    return nothing if abs(value) >= float(np.finfo(np.float32).max) else value


def refuse_unless_repeats(node: ir.Node, runtimes: str) -> None:
    """Refuse a Resize or Upsample that, by whole factors, does not repeat each element.

    Raises:
        UnsupportedModelError: names what ``runtimes`` have no exact counterpart of.
    """
    upsample = node.op_type == "Upsample"
    mode = string_attribute(node, "mode", "nearest")
    centres = string_attribute(
        node, "coordinate_transformation_mode", "asymmetric" if upsample else "half_pixel"
    )
    rounding = string_attribute(node, "nearest_mode", "floor" if upsample else "round_prefer_floor")
    repeats = (centres, rounding) in (
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
        ("asymmetric", "floor"),
    )
    if mode != "nearest" or not repeats:
        raise refuse(
            node,
            f"mode {mode} with {centres} and {rounding} has no exact counterpart in {runtimes}",
            "resize by whole factors to the nearest, or outside the model",
        )
