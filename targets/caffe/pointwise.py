"""Layers that act on each element: activations, arithmetic, normalisation."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import float_attribute, input_of, int_attribute, scalar_of
from targets.axis_order import Held, refuse, weight_of
from targets.caffe.draft import Draft
from targets.operands import WithConstant, bounds, clip_bounds, scale_and_shift, with_constant

SIMPLE = {"Relu": "ReLU", "Sigmoid": "Sigmoid", "Tanh": "TanH", "Abs": "AbsVal", "Softplus": "BNLL"}


def unary(draft: Draft, node: ir.Node) -> None:
    """Functions that Caffe has under a name of its own."""
    held = draft.get(node)
    draft.result(node, draft.add(node, SIMPLE[node.op_type], [held.name]), held.perm)


def exp(draft: Draft, node: ir.Node) -> None:
    """Exp to the base e."""
    held = draft.get(node)
    draft.result(node, draft.add(node, "Exp", [held.name], {"exp_param": {}}), held.perm)


def powers(draft: Draft, node: ir.Node) -> None:
    """Neg, Sqrt and Reciprocal as Power."""
    held = draft.get(node)
    scale = -1.0 if node.op_type == "Neg" else 1.0
    power = {"Neg": 1.0, "Sqrt": 0.5, "Reciprocal": -1.0}[node.op_type]
    top = draft.power(node, held.name, scale=scale, power=power)
    draft.result(node, top if power == 1.0 else draft.barrier(node, top, held.rank), held.perm)


def power_of(draft: Draft, node: ir.Node) -> None:
    """Pow with a constant exponent."""
    held, exponent = draft.get(node), scalar_of(input_of(node, 1))
    if exponent is None:
        raise refuse(node, "its exponent is not one constant number")
    top = draft.power(node, held.name, power=exponent)
    draft.result(node, draft.barrier(node, top, held.rank), held.perm)


def leaky(draft: Draft, node: ir.Node) -> None:
    """LeakyRelu: ReLU with a slope."""
    held = draft.get(node)
    slope = float_attribute(node, "alpha", 0.01)
    draft.result(
        node, draft.add(node, "ReLU", [held.name], {"relu_param": {"negative_slope": slope}}), held.perm
    )


def elu(draft: Draft, node: ir.Node) -> None:
    """Elu; OpenCV's ELU knows no alpha, so any but 1 is refused."""
    held, alpha = draft.get(node), float_attribute(node, "alpha", 1.0)
    if alpha != 1.0:
        raise refuse(node, f"alpha {alpha:g}: OpenCV's importer takes an ELU with alpha 1 only")
    draft.result(node, draft.add(node, "ELU", [held.name]), held.perm)


def prelu(draft: Draft, node: ir.Node) -> None:
    """PRelu with one slope, or one a channel."""
    held = draft.plain(node)
    slope = held.aligned(weight_of(node, 1))
    shared = slope.size == 1
    if not shared and slope.size != slope.shape[1]:
        raise refuse(node, f"a slope of shape {slope.shape} is neither one number nor one a channel")
    if shared:
        options = {"relu_param": {"negative_slope": float(slope.reshape(()))}}
        top = draft.add(node, "ReLU", [held.name], options)
    else:
        top = draft.add(node, "PReLU", [held.name], {}, [slope.reshape(-1)])
    draft.result(node, top)


def clip(draft: Draft, node: ir.Node) -> None:
    """Clip in layers that both readers know; between its bounds it changes no bit."""
    held = draft.get(node)
    low, high = clip_bounds(node)
    draft.result(node, _clipped(draft, node, held.name, low, high), held.perm)


def _clipped(draft: Draft, node: ir.Node, top: str, low: float, high: float) -> str:
    """x + relu(low - x), which is relu(x) for 0; then x - relu(x - high)."""
    if low == 0.0:
        top = draft.add(node, "ReLU", [top], part="" if high == math.inf else "low")
    elif low > -math.inf:
        below = draft.power(node, top, scale=-1.0, shift=low, part="below")
        below = draft.add(node, "ReLU", [below], part="lack")
        top = draft.add(node, "Eltwise", [top, below], {"eltwise_param": {"operation": "SUM"}}, part="low")
    if high < math.inf:
        above = draft.power(node, top, shift=-high, part="above")
        above = draft.add(node, "ReLU", [above], part="excess")
        options = {"operation": "SUM", "coeff": [1.0, -1.0]}
        top = draft.add(node, "Eltwise", [top, above], {"eltwise_param": options})
    return top


def hard_sigmoid(draft: Draft, node: ir.Node) -> None:
    """HardSigmoid: clip(alpha·x + beta, 0, 1)."""
    held = draft.get(node)
    alpha, beta = float_attribute(node, "alpha", 0.2), float_attribute(node, "beta", 0.5)
    draft.result(node, _gate(draft, node, held.name, alpha, beta), held.perm)


def hard_swish(draft: Draft, node: ir.Node) -> None:
    """HardSwish: x · clip(x/6 + 1/2, 0, 1)."""
    held = draft.get(node)
    gate = _gate(draft, node, held.name, 1 / 6, 0.5)
    options = {"eltwise_param": {"operation": "PROD"}}
    draft.result(node, draft.add(node, "Eltwise", [held.name, gate], options), held.perm)


def _gate(draft: Draft, node: ir.Node, bottom: str, alpha: float, beta: float) -> str:
    return _clipped(draft, node, draft.power(node, bottom, scale=alpha, shift=beta, part="line"), 0.0, 1.0)


def softmax(draft: Draft, node: ir.Node, opset: int) -> None:
    """Softmax over one axis."""
    held = draft.get(node)
    axis = int_attribute(node, "axis", 1 if opset < 13 else -1) % held.rank
    if opset < 13 and any(d != 1 for d in held.shape[axis + 1 :]):
        raise refuse(node, f"normalises axes {axis} and after together", "convert at opset 13 or later")
    options = {"softmax_param": {"axis": held.position(axis)}}
    draft.result(node, draft.add(node, "Softmax", [held.name], options), held.perm)


def batch_normalization(draft: Draft, node: ir.Node) -> None:
    """BatchNormalization: BatchNorm (mean, variance, factor 1) and Scale (gamma, beta)."""
    if int_attribute(node, "training_mode", 0):
        raise refuse(node, "is in training mode", "convert the inference graph")
    held = draft.plain(node)
    gamma, beta, mean, variance = (weight_of(node, k) for k in range(1, 5))
    options = {"use_global_stats": True, "eps": float_attribute(node, "epsilon", 1e-5)}
    blobs = [mean, variance, np.ones(1)]
    normal = draft.add(node, "BatchNorm", [held.name], {"batch_norm_param": options}, blobs)
    scaled = draft.add(
        node, "Scale", [normal], {"scale_param": {"bias_term": True}}, [gamma, beta], part="scale"
    )
    for position, layer, blob in ((1, scaled, 0), (2, scaled, 1), (3, normal, 0), (4, normal, 1)):
        draft.placed(node, position, layer, blob)
    draft.result(node, scaled)


def lrn(draft: Draft, node: ir.Node) -> None:
    """LRN across channels, rescaled so that k = 1, which is all that OpenCV computes.

    x / (k + a/n·S)^b = k^-b · x / (1 + (a/k)/n·S)^b.
    """
    held = draft.image(node)
    size = int_attribute(node, "size", 0)
    if size % 2 == 0:
        raise refuse(node, f"an even size {size}; Caffe's windows are centred")
    alpha, beta, k = (
        float_attribute(node, key, value) for key, value in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    if k <= 0:
        raise refuse(node, f"bias {k:g} is not positive")
    options = {"local_size": size, "alpha": alpha / k, "beta": beta}
    top = draft.add(node, "LRN", [held.name], {"lrn_param": options})
    if k != 1.0:
        top = draft.power(node, top, scale=k**-beta, part="rescale")
    draft.result(node, top)


# --- arithmetic ----------------------------------------------------------------------------------


def binary(draft: Draft, node: ir.Node) -> None:
    """Add, Sub, Mul, Div, Max, Min of two values, or of a value and a constant."""
    mixed = with_constant(draft, node)
    if mixed is None:
        _two(draft, node)
    else:
        _one(draft, node, mixed)


def _two(draft: Draft, node: ir.Node) -> None:
    a, b = draft.get(node, 0), draft.get(node, 1)
    if a.perm != b.perm or a.shape != b.shape:
        _broadcast_product(draft, node, a, b)
        return
    first, second = a.name, b.name
    options: dict[str, object] = {
        "operation": {"Mul": "PROD", "Div": "PROD", "Max": "MAX", "Min": "MAX"}.get(node.op_type, "SUM")
    }
    if node.op_type == "Sub":
        options["coeff"] = [1.0, -1.0]
    if node.op_type == "Div":
        second = draft.power(node, second, power=-1.0, part="inverse")
    if node.op_type == "Min":
        first, second = (draft.power(node, x, scale=-1.0, part="minus") for x in (first, second))
    top = draft.add(node, "Eltwise", [first, second], {"eltwise_param": options})
    if node.op_type == "Min":
        top = draft.power(node, top, scale=-1.0, part="plus")
    draft.result(node, top, a.perm)


def _broadcast_product(draft: Draft, node: ir.Node, a: Held, b: Held) -> None:
    """[N, C, H, W] · [N, C, 1, 1]: Scale with two bottoms."""
    whole, gate = (a, b) if (a.shape[2:] != (1, 1)) else (b, a)
    fits = (
        node.op_type == "Mul"
        and whole.rank == gate.rank == 4
        and whole.perm == gate.perm == (0, 1, 2, 3)
        and gate.shape[:2] == whole.shape[:2]
        and gate.shape[2:] == (1, 1)
    )
    if not fits:
        raise refuse(
            node, f"of shapes {a.shape} and {b.shape}; Caffe broadcasts only a factor for each channel"
        )
    flat = draft.add(node, "Flatten", [gate.name], part="gate")
    top = draft.add(node, "Scale", [whole.name, flat], {"scale_param": {"axis": 0}})
    draft.result(node, top)


def _one(draft: Draft, node: ir.Node, mixed: WithConstant) -> None:
    held, op, bottom = mixed.held, node.op_type, mixed.held.name
    if op in ("Max", "Min"):
        draft.result(node, _clipped(draft, node, bottom, *bounds(node, mixed.number)), held.perm)
        return
    if op == "Div" and not mixed.value_first:
        inverse = draft.power(node, bottom, power=-1.0, part="inverse")
        bottom, op = draft.barrier(node, inverse, held.rank), "Mul"
    scale, shift = scale_and_shift(op, mixed.constant, value_first=mixed.value_first)
    draft.result(node, _affine(draft, node, bottom, held, scale, shift), held.perm)


def _affine(draft: Draft, node: ir.Node, bottom: str, held: Held, scale: Array, shift: Array) -> str:
    """scale · x + shift: a Power for single numbers, else a Scale over the axes that they differ along."""
    if scale.size == shift.size == 1:
        return draft.power(node, bottom, scale=float(scale.reshape(())), shift=float(shift.reshape(())))
    varied = scale if scale.size > 1 else shift
    spans = [axis for axis, size in enumerate(varied.shape) if size != 1]
    first, last = spans[0], spans[-1]
    extent = tuple(int(d or 1) for d in held.held_shape[first : last + 1])

    def spread(numbers: Array) -> Array:
        inner = numbers.reshape(varied.shape)[(0,) * first] if numbers.size > 1 else numbers.reshape(())
        inner = inner.reshape(inner.shape[: last + 1 - first]) if numbers.size > 1 else inner
        return np.broadcast_to(inner, extent)

    options: dict[str, object] = {"axis": first, "num_axes": len(extent)}
    if (first, last) != (1, 1):
        bottom = draft.barrier(node, bottom, held.rank)
    blobs = [spread(scale)]
    if (shift != 0).any():
        options["bias_term"] = True
        blobs.append(spread(shift))
    return draft.add(node, "Scale", [bottom], {"scale_param": options}, blobs)
