"""Elementwise layers: activations, arithmetic of tensors and constants."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import constant_of, float_attribute, input_of, int_attribute, scalar_of, string_attribute
from targets.keras_rebuild.drawing import Drawing, channels_last, identity, refuse

# op → call that takes one tensor
ACTIVATIONS: Final = {
    "Relu": "layers.ReLU(",
    "Sigmoid": "layers.Activation('sigmoid'",
    "Tanh": "layers.Activation('tanh'",
    "Softplus": "layers.Activation('softplus'",
    "Softsign": "layers.Activation('softsign'",
}
FUNCTIONS: Final = {
    "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Neg": "negative", "Abs": "absolute", "Floor": "floor",
    "Ceil": "ceil", "Erf": "erf", "Reciprocal": "reciprocal", "Sin": "sin", "Cos": "cos",
}  # fmt: skip
TENSOR_PAIRS: Final = {"Add": "layers.Add(", "Mul": "layers.Multiply(", "Sub": "layers.Subtract("}
FUNCTION_PAIRS: Final = {
    "Add": "add", "Mul": "multiply", "Sub": "subtract", "Div": "divide", "Max": "maximum", "Min": "minimum",
    "Pow": "power", "Sum": "add",
}  # fmt: skip


def activation(drawing: Drawing, node: ir.Node) -> None:
    """One of the table above, in whatever order the input is held."""
    held = drawing.get(node, node.inputs[0])
    drawing.put(node.outputs[0], drawing.layer(node, ACTIVATIONS[node.op_type], held.variable), held.perm)


def function(drawing: Drawing, node: ir.Node) -> None:
    """A function of ``keras.ops``."""
    held = drawing.get(node, node.inputs[0])
    drawing.put(node.outputs[0], drawing.line(f"ops.{FUNCTIONS[node.op_type]}({held.variable})"), held.perm)


def parametric(drawing: Drawing, node: ir.Node) -> None:
    """LeakyRelu, Elu, Selu, HardSigmoid, HardSwish, Gelu, PRelu."""
    held = drawing.get(node, node.inputs[0])
    x, perm = held.variable, held.perm
    match node.op_type:
        case "LeakyRelu":
            y = drawing.layer(node, f"layers.LeakyReLU({float_attribute(node, 'alpha', 0.01)!r}", x)
        case "Elu":
            y = drawing.layer(node, f"layers.ELU({float_attribute(node, 'alpha', 1.0)!r}", x)
        case "HardSigmoid":
            alpha, beta = float_attribute(node, "alpha", 0.2), float_attribute(node, "beta", 0.5)
            y = drawing.line(f"ops.clip(ops.add(ops.multiply({x}, {alpha!r}), {beta!r}), 0.0, 1.0)")
        case "HardSwish":
            gate = f"ops.clip(ops.add(ops.multiply({x}, {1 / 6!r}), 0.5), 0.0, 1.0)"
            y = drawing.line(f"ops.multiply({x}, {gate})")
        case "Gelu":
            approximate = string_attribute(node, "approximate", "none") == "tanh"
            y = drawing.line(f"ops.gelu({x}, approximate={approximate})")
        case _:
            y, perm = _prelu(drawing, node)
    drawing.put(node.outputs[0], y, perm)


def _prelu(drawing: Drawing, node: ir.Node) -> tuple[str, tuple[int, ...]]:
    held, x = drawing.spatial(node, node.inputs[0])
    slope = constant_of(input_of(node, 1))
    perm = channels_last(held.rank)
    if slope is None or held.rank < 2:
        raise refuse(node, "its slope is computed at run time")
    turned = _aligned(slope, perm)
    per_sample = turned.reshape((1,) * (held.rank - turned.ndim) + turned.shape)
    if per_sample.shape[0] != 1:
        raise refuse(node, "its slope differs between examples")
    shared = tuple(axis for axis in range(1, held.rank) if per_sample.shape[axis] == 1)
    call = f"layers.PReLU(shared_axes={list(shared) or None}"
    return drawing.layer(node, call, x, [per_sample[0]]), perm


def softmax(drawing: Drawing, node: ir.Node, opset: int) -> None:
    """Softmax and LogSoftmax along one axis; before opset 13, along all axes from ``axis`` on."""
    held = drawing.get(node, node.inputs[0])
    axis = int_attribute(node, "axis", -1 if opset >= 13 else 1) % held.rank
    if opset < 13 and axis != held.rank - 1:
        raise refuse(node, "flattens several axes (opset < 13)", "convert the model to opset 13 or later")
    position = held.perm.index(axis)
    if node.op_type == "LogSoftmax":
        y = drawing.line(f"ops.log_softmax({held.variable}, axis={position})")
    else:
        y = drawing.layer(node, f"layers.Softmax(axis={position}", held.variable)
    drawing.put(node.outputs[0], y, held.perm)


def clip(drawing: Drawing, node: ir.Node) -> None:
    """Clip(0, max) is a ReLU with a ceiling; any other is ops.clip."""
    held = drawing.get(node, node.inputs[0])
    low = _bound(node, 1, "min", -np.inf)
    high = _bound(node, 2, "max", np.inf)
    if low == 0.0 and high > 0.0 and np.isfinite(high):
        y = drawing.layer(node, f"layers.ReLU(max_value={high!r}", held.variable)
    elif low == 0.0:
        y = drawing.layer(node, "layers.ReLU(", held.variable)
    else:
        limit = float(np.finfo(np.float32).max)
        y = drawing.line(f"ops.clip({held.variable}, {max(low, -limit)!r}, {min(high, limit)!r})")
    drawing.put(node.outputs[0], y, held.perm)


def _bound(node: ir.Node, position: int, name: str, default: float) -> float:
    if name in node.attributes:
        return float_attribute(node, name, default)
    if input_of(node, position) is None:
        return default
    value = scalar_of(input_of(node, position))
    if value is None:
        raise refuse(node, f"its {name} is computed at run time")
    return float(value)


def pairwise(drawing: Drawing, node: ir.Node) -> None:
    """Add, Sub, Mul, Div, Max, Min, Pow of two values, either of which may be constant."""
    if node.op_type == "Sum":
        _sum(drawing, node)
        return
    if len(node.inputs) != 2:
        raise refuse(node, f"takes {len(node.inputs)} inputs; two are supported")
    constants = [constant_of(value) for value in node.inputs]
    function_name = FUNCTION_PAIRS[node.op_type]
    if constants[0] is None and constants[1] is None:
        _tensors(drawing, node, function_name)
        return
    side = 0 if constants[0] is not None else 1
    constant = constants[side]
    held = drawing.get(node, node.inputs[1 - side])
    assert constant is not None
    if constant.ndim > held.rank:
        raise refuse(node, f"a constant of rank {constant.ndim} widens a value of rank {held.rank}")
    if constant.size == 1:
        number = repr(constant.reshape(()).item())
        operands = f"{number}, {held.variable}" if side == 0 else f"{held.variable}, {number}"
        drawing.put(node.outputs[0], drawing.line(f"ops.{function_name}({operands})"), held.perm)
        return
    aligned = _aligned(constant, held.perm)
    call = f"ConstantOperand({function_name!r}, constant_first={side == 0}, shape={aligned.shape}"
    y = drawing.layer(node, call, held.variable, [aligned])
    drawing.put(node.outputs[0], y, held.perm)


def _sum(drawing: Drawing, node: ir.Node) -> None:
    held = [drawing.get(node, value) for value in node.inputs]
    if any(h.shape != held[0].shape for h in held):
        raise refuse(node, "adds values of different shapes")
    parts = ", ".join(drawing.turned(h, held[0].perm) for h in held)
    y = drawing.layer(node, "layers.Add(", f"[{parts}]") if len(held) > 1 else parts
    drawing.put(node.outputs[0], y, held[0].perm)


def _tensors(drawing: Drawing, node: ir.Node, function_name: str) -> None:
    left, right = (drawing.get(node, value) for value in node.inputs)
    if left.perm != right.perm:
        perm = left.perm if left.rank == right.rank and left.perm != identity(left.rank) else None
        perm = perm or (right.perm if left.rank == right.rank else None)
        a = drawing.turned(left, perm or identity(left.rank))
        b = drawing.turned(right, perm or identity(right.rank))
        perm = perm or identity(max(left.rank, right.rank))
    else:
        a, b, perm = left.variable, right.variable, left.perm
    if node.op_type in TENSOR_PAIRS and left.shape == right.shape:
        y = drawing.layer(node, TENSOR_PAIRS[node.op_type], f"[{a}, {b}]")
    else:
        y = drawing.line(f"ops.{function_name}({a}, {b})")
    drawing.put(node.outputs[0], y, perm)


def _aligned(constant: Array, perm: tuple[int, ...]) -> Array:
    """``constant`` with leading axes of 1 up to the rank, in the order ``perm``."""
    full = constant.reshape((1,) * (len(perm) - constant.ndim) + constant.shape)
    return np.ascontiguousarray(full.transpose(perm))
