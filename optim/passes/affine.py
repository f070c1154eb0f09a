"""What a node does to each channel when it only scales and shifts: y = x * scale + shift."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import constant_of, float_attribute, input_of, int_attribute, is_op
from optim.passes.broadcasting import per_channel


@dataclass(frozen=True)
class Affine:
    """One scale and one shift for each channel, float64 [channels]."""

    scale: Array
    shift: Array


def affine_of(node: ir.Node, data: ir.Value, axis: int, channels: int) -> Affine | str | None:
    """``node`` as an affine map of ``data`` along its channel ``axis``.

    Returns:
        The map; a reason (str) when it looks like one and may not be taken as one; None when it is
        something else.
    """
    if is_op(node, "BatchNormalization"):
        if node.inputs[0] is not data or axis != 1:
            return None
        return _batchnorm(node, channels)
    if is_op(node, "Neg"):
        return Affine(-np.ones(channels), np.zeros(channels))
    if not is_op(node, "Mul", "Div", "Add", "Sub") or len(node.inputs) != 2:
        return None
    if "axis" in node.attributes or "broadcast" in node.attributes:
        return "broadcasting by attribute (opset 6 and older)" if node.op_type in ("Mul", "Add") else None
    first = node.inputs[0] is data
    other = per_channel(node.inputs[1 if first else 0], data, axis, channels)
    if other is None or (node.inputs[0] is data and node.inputs[1] is data):
        return None
    ones, zeros = np.ones(channels), np.zeros(channels)
    match node.op_type:
        case "Mul":
            return Affine(other, zeros)
        case "Add":
            return Affine(ones, other)
        case "Sub":
            return Affine(ones, -other) if first else Affine(-ones, other)
        case _:
            if not first:
                return None  # constant / x is no affine map
            if not np.all(other):
                return "division by zero"
            return Affine(1.0 / other, zeros)


def _batchnorm(node: ir.Node, channels: int) -> Affine | str:
    if int_attribute(node, "training_mode", 0) or any(
        v.uses() or v.is_graph_output() for v in node.outputs[1:]
    ):
        return "BatchNormalization is in training mode: it uses the batch's own statistics"
    if int_attribute(node, "is_test", 1) == 0 or int_attribute(node, "spatial", 1) == 0:
        return "BatchNormalization is in training mode or not spatial (opset 8 and older)"
    statistics = [constant_of(input_of(node, i)) for i in range(1, 5)]
    if any(s is None for s in statistics):
        return "scale, bias, mean or variance is not constant"
    gamma, beta, mean, variance = (s.astype(np.float64).reshape(-1) for s in statistics if s is not None)
    if any(s.size != channels for s in (gamma, beta, mean, variance)):
        return f"the statistics do not hold {channels} channels"
    spread = variance + float(np.float32(float_attribute(node, "epsilon", 1e-5)))
    if not (spread > 0).all():
        return "a variance is negative"
    scale = gamma / np.sqrt(spread)
    return Affine(scale, beta - mean * scale)
