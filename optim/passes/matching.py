"""Small questions that several pattern passes share."""

from __future__ import annotations

import onnx_ir as ir

from optim.facts import constant_tensor_of, float_attribute, input_of, is_op, rank, scalar_of


def with_scalar(node: ir.Node | None, *op_types: str) -> tuple[ir.Value, float] | None:
    """The data operand and the number of an Add, Sub, Mul or Div with a one-element constant.

    The number may stand on either side of Add and Mul, and on the right of Sub and Div. It must not widen
    the data.
    """
    if node is None or not is_op(node, *op_types) or len(node.inputs) != 2 or node.attributes:
        return None
    sides = ((0, 1), (1, 0)) if node.op_type in ("Add", "Mul") else ((0, 1),)
    for data, constant in sides:
        value, number = node.inputs[data], scalar_of(node.inputs[constant])
        if value is None or number is None or constant_tensor_of(value) is not None:
            continue
        wide, narrow = rank(value), rank(node.inputs[constant])
        if narrow == 0 or (wide is not None and narrow is not None and narrow <= wide):
            return value, number
    return None


def clip_bounds(node: ir.Node | None) -> tuple[float, float] | None:
    """Lower and upper bound of a Clip, Relu, or Max / Min with one number; None where they are not
    constant.
    """
    if node is None:
        return None
    if is_op(node, "Relu"):
        return 0.0, float("inf")
    if is_op(node, "Clip"):
        bounds = []
        for position, name, default in ((1, "min", float("-inf")), (2, "max", float("inf"))):
            given = input_of(node, position)
            number = float_attribute(node, name, default) if given is None else scalar_of(given)
            if number is None:
                return None
            bounds.append(number)
        return bounds[0], bounds[1]
    if is_op(node, "Max", "Min") and len(node.inputs) == 2:
        found = bounded_by(node)
        if found is not None:
            return (found[1], float("inf")) if node.op_type == "Max" else (float("-inf"), found[1])
    return None


def bounded_by(node: ir.Node) -> tuple[ir.Value, float] | None:
    """The data operand and the number of a Max or Min with a one-element constant on either side."""
    for data, constant in ((0, 1), (1, 0)):
        value, number = node.inputs[data], scalar_of(node.inputs[constant])
        narrow, wide = rank(node.inputs[constant]), rank(value)
        if value is None or number is None or constant_tensor_of(value) is not None:
            continue
        if narrow == 0 or (wide is not None and narrow is not None and narrow <= wide):
            return value, number
    return None


def other_operand(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The second operand of a binary node of which ``value`` is one; None where both are ``value``."""
    first, second = node.inputs
    if first is value and second is not value:
        return second
    return first if second is value and first is not value else None


def near(number: float, wanted: float) -> bool:
    """Whether a float32 constant is meant to be ``wanted`` (two rounding steps)."""
    return abs(number - wanted) <= 2.4e-7 * max(abs(wanted), 1e-30)
