"""Layers that act on each element: activations and arithmetic."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import float_attribute, input_of, int_attribute, scalar_of
from targets.axis_order import Held, refuse, weight_of
from targets.operands import WithConstant, bounds, clip_bounds, scale_and_shift, with_constant
from targets.wolfram.draft import Draft
from targets.wolfram.text import listing, number

FUNCTIONS = {
    "Relu": "Ramp",
    "Sigmoid": "LogisticSigmoid",
    "Tanh": "Tanh",
    "Abs": "Abs",
    "Exp": "Exp",
    "Log": "Log",
    "Sqrt": "Sqrt",
    "Neg": "-#",
    "Reciprocal": "1/#",
    "Softplus": "Log[1 + Exp[#]]",
    "HardSwish": "#*Clip[#/6 + 1/2, {0, 1}]",
    "Softsign": "#/(1 + Abs[#])",
}
POSITIVE = frozenset({"Relu", "Sigmoid", "Abs", "Exp", "Sqrt", "Softmax"})
THREADED = {"Add": "Plus", "Sub": "Subtract", "Mul": "Times", "Div": "Divide", "Max": "Max", "Min": "Min"}


def function(draft: Draft, node: ir.Node) -> None:
    """Functions of one element, and those with a parameter or two."""
    held = draft.get(node)
    made = draft.each(node, held.name, _body(node))
    if node.op_type in POSITIVE:
        draft.positive.add(made)
    draft.result(node, made, held.perm)


def _body(node: ir.Node) -> str:
    op = node.op_type
    if op in FUNCTIONS:
        return FUNCTIONS[op]
    if op == "LeakyRelu":
        return f"Ramp[#] - {number(float_attribute(node, 'alpha', 0.01))}*Ramp[-#]"
    if op == "Elu":
        return f"Ramp[#] + {number(float_attribute(node, 'alpha', 1.0))}*(Exp[-Ramp[-#]] - 1)"
    if op == "HardSigmoid":
        alpha, beta = float_attribute(node, "alpha", 0.2), float_attribute(node, "beta", 0.5)
        return f"Clip[{number(alpha)}*# + {number(beta)}, {{0, 1}}]"
    exponent = scalar_of(input_of(node, 1))  # Pow
    if exponent is None:
        raise refuse(node, "its exponent is not one constant number")
    return f"#^({number(exponent)})"


def clip(draft: Draft, node: ir.Node) -> None:
    """Clip between two numbers, either of which may be missing."""
    held = draft.get(node)
    low, high = clip_bounds(node)
    _clipped(draft, node, held, low, high)


def _clipped(draft: Draft, node: ir.Node, held: Held, low: float, high: float) -> None:
    if low == -math.inf and high == math.inf:
        draft.put(node.outputs[0], held.name, held.perm, held.shape)
        return
    if high == math.inf:
        body = f"Max[#, {number(low)}]"
    elif low == -math.inf:
        body = f"Min[#, {number(high)}]"
    else:
        body = f"Clip[#, {listing([low, high])}]"
    made = draft.each(node, held.name, body)
    if low >= 0:
        draft.positive.add(made)
    draft.result(node, made, held.perm)


def prelu(draft: Draft, node: ir.Node) -> None:
    """PRelu with one slope, or one a channel (level 1)."""
    held, x = draft.plain(node)
    slope = np.asarray(weight_of(node, 1))
    full = slope.reshape((1,) * (held.rank - slope.ndim) + slope.shape)
    if slope.size == 1:
        made = draft.each(node, x, f"Ramp[#] - {number(float(slope.reshape(())))}*Ramp[-#]")
    elif slope.size == full.shape[1]:
        made = draft.add(node, "ParametricRampLayer", [x], "{1}", arrays={"Slope": slope.reshape(-1)})
    else:
        raise refuse(node, f"a slope of shape {slope.shape} is neither one number nor one a channel")
    draft.result(node, made)


def softmax(draft: Draft, node: ir.Node, opset: int) -> None:
    """Softmax over one level."""
    held = draft.get(node)
    axis = int_attribute(node, "axis", 1 if opset < 13 else -1) % held.rank
    if opset < 13 and any(d != 1 for d in held.shape[axis + 1 :]):
        raise refuse(node, f"normalises axes {axis} and after together", "convert at opset 13 or later")
    if held.position(axis) == 0:
        raise refuse(node, "along the batch")
    made = draft.add(node, "SoftmaxLayer", [held.name], str(held.position(axis)))
    draft.result(node, made, held.perm)


def binary(draft: Draft, node: ir.Node) -> None:
    """Add, Sub, Mul, Div, Max, Min of two values, or of a value and a constant."""
    mixed = with_constant(draft, node)
    if mixed is None:
        _two(draft, node)
    elif mixed.number is not None:
        _with_number(draft, node, mixed, mixed.number)
    else:
        _with_array(draft, node, mixed)


def _two(draft: Draft, node: ir.Node) -> None:
    a, b = draft.get(node, 0), draft.get(node, 1)
    if a.shape == b.shape:
        sources = [a.name, draft.turned(node, b, a.perm)]
        made = draft.threaded(node, THREADED[node.op_type], sources)
        if node.op_type in ("Add", "Mul") and draft.positive.issuperset(sources):
            draft.positive.add(made)
        draft.result(node, made, a.perm)
        return
    (a, x), (b, y) = draft.plain(node, 0), draft.plain(node, 1)
    if a.rank != 4 or b.rank != 4 or a.shape[:2] != b.shape[:2] or (1, 1) not in (a.shape[2:], b.shape[2:]):
        raise refuse(node, f"of shapes {a.shape} and {b.shape}; only one value a channel is repeated")
    size = listing(int(d or 1) for d in (a.shape[2:] if b.shape[2:] == (1, 1) else b.shape[2:]))
    options = {"Resampling": '"Nearest"'}
    if b.shape[2:] == (1, 1):
        y = draft.add(node, "ResizeLayer", [y], size, options=options, part="repeat")
    else:
        x = draft.add(node, "ResizeLayer", [x], size, options=options, part="repeat")
    draft.result(node, draft.threaded(node, THREADED[node.op_type], [x, y]))


def _with_array(draft: Draft, node: ir.Node, mixed: WithConstant) -> None:
    if node.op_type in ("Max", "Min") or (node.op_type == "Div" and not mixed.value_first):
        raise refuse(node, "the other side is neither computed nor one number")
    scale, shift = scale_and_shift(node.op_type, mixed.constant[0], value_first=mixed.value_first)
    draft.result(node, _affine(draft, node, mixed.held, scale, shift), mixed.held.perm)


def _with_number(draft: Draft, node: ir.Node, mixed: WithConstant, value: float) -> None:
    if node.op_type in ("Max", "Min"):
        _clipped(draft, node, mixed.held, *bounds(node, value))
        return
    sign = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/"}[node.op_type]
    text = f"({number(value)})"
    body = f"# {sign} {text}" if mixed.value_first else f"{text} {sign} #"
    draft.result(node, draft.each(node, mixed.held.name, body), mixed.held.perm)


def _affine(draft: Draft, node: ir.Node, held: Held, scale: Array, shift: Array) -> str:
    """scale · x + shift: a 1×1 convolution for each channel of an image, else layers of constant arrays."""
    extent = tuple(int(d or 1) for d in held.held_shape[1:])
    varied = scale if scale.size > 1 else shift
    if held.rank == 4 and varied.shape[1:] == (1, 1):
        channels = extent[0]
        weights = np.broadcast_to(scale.reshape(-1), (channels,)).reshape(channels, 1, 1, 1)
        bias = np.broadcast_to(shift.reshape(-1), (channels,)) if shift.any() else None
        return draft.add(
            node,
            "ConvolutionLayer",
            [held.name],
            str(channels),
            "{1, 1}",
            options={"ChannelGroups": str(channels)},
            arrays={"Weights": weights, "Biases": bias},
        )
    made = held.name
    if not (scale == 1.0).all():
        arrays = {"Scaling": np.broadcast_to(scale, extent)}
        made = draft.add(node, "ConstantTimesLayer", [made], arrays=arrays, part="times")
    if shift.any():
        arrays = {"Biases": np.broadcast_to(shift, extent)}
        made = draft.add(node, "ConstantPlusLayer", [made], arrays=arrays, part="plus")
    return made
