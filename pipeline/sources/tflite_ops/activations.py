"""Activations: fused ones behind another operator, and the operators of one operand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from pipeline.sources.tflite_model import Operator
from pipeline.sources.tflite_ops.build import Build, Handler

_NONE, _RELU, _RELU_N1_TO_1, _RELU6, _TANH = range(5)  # ActivationFunctionType in schema.fbs


def fused(build: Build, operator: Operator, value: ir.Value) -> ir.Value:
    """``value`` after the activation that the operator carries with it."""
    code = int(operator.option("fusedActivationFunction", _NONE) or _NONE)
    if code == _NONE:
        return value
    if code == _RELU:
        return build.op("Relu", [value])
    if code == _RELU_N1_TO_1:
        return clip(build, value, -1.0, 1.0)
    if code == _RELU6:
        return clip(build, value, 0.0, 6.0)
    if code != _TANH:
        build.refuse(f"fused activation number {code} is not known")
    return build.op("Tanh", [value])


def clip(build: Build, value: ir.Value, lowest: float, highest: float) -> ir.Value:
    """min(max(value, lowest), highest)."""
    return build.op("Clip", [value, build.real(lowest, "min"), build.real(highest, "max")])


def unary(op_type: str) -> Handler:
    """A handler for an operator that ONNX has under ``op_type``."""

    def handle(build: Build, operator: Operator) -> None:
        operand = build.input(operator, 0)
        build.elementwise([operand], operator.outputs[0], lambda values: build.op(op_type, values))

    return handle


def computed(formula: Callable[[Build, Operator, ir.Value], ir.Value]) -> Handler:
    """A handler for an operator of one operand that takes several ONNX operators."""

    def handle(build: Build, operator: Operator) -> None:
        operand = build.input(operator, 0)
        build.elementwise([operand], operator.outputs[0], lambda values: formula(build, operator, values[0]))

    return handle


def relu6(build: Build, _operator: Operator, x: ir.Value) -> ir.Value:
    """min(max(x, 0), 6)."""
    return clip(build, x, 0.0, 6.0)


def relu_n1_to_1(build: Build, _operator: Operator, x: ir.Value) -> ir.Value:
    """min(max(x, -1), 1)."""
    return clip(build, x, -1.0, 1.0)


def relu_0_to_1(build: Build, _operator: Operator, x: ir.Value) -> ir.Value:
    """min(max(x, 0), 1)."""
    return clip(build, x, 0.0, 1.0)


def leaky_relu(build: Build, operator: Operator, x: ir.Value) -> ir.Value:
    """x where x > 0, else alpha · x."""
    return build.op("LeakyRelu", [x], alpha=float(operator.option("alpha", 0.2)))


def hard_swish(build: Build, _operator: Operator, x: ir.Value) -> ir.Value:
    """x · min(max(x / 6 + 1 / 2, 0), 1)."""
    return build.op("Mul", [x, build.op("HardSigmoid", [x], alpha=1.0 / 6.0, beta=0.5)])


def gelu(build: Build, operator: Operator, x: ir.Value) -> ir.Value:
    """x · Φ(x), or its tanh approximation (https://arxiv.org/abs/1606.08415)."""
    half = build.op("Mul", [x, build.real(0.5)])
    if operator.option("approximate", False):
        cube = build.op("Mul", [build.op("Mul", [x, x]), x])
        inner = build.op("Add", [x, build.op("Mul", [cube, build.real(0.044715)])])
        curve = build.op("Tanh", [build.op("Mul", [inner, build.real(float(np.sqrt(2 / np.pi)))])])
    else:
        curve = build.op("Erf", [build.op("Mul", [x, build.real(float(np.sqrt(0.5)))])])
    return build.op("Mul", [half, build.op("Add", [curve, build.real(1.0)])])


def square(build: Build, _operator: Operator, x: ir.Value) -> ir.Value:
    """x · x."""
    return build.op("Mul", [x, x])


def reciprocal_root(build: Build, _operator: Operator, x: ir.Value) -> ir.Value:
    """1 / √x."""
    return build.op("Reciprocal", [build.op("Sqrt", [x])])


def zeros_like(build: Build, operator: Operator, x: ir.Value) -> ir.Value:
    """Zeros of the shape and type of x."""
    zero = ir.tensor(np.zeros(1, build.tensor(operator.outputs[0]).dtype))
    return build.op("ConstantOfShape", [build.op("Shape", [x])], value=zero)


def prelu(build: Build, operator: Operator) -> None:
    """x where x > 0, else slope · x; the slope broadcasts over batch and space."""
    operands = [build.input(operator, 0), build.input(operator, 1)]
    build.elementwise(operands, operator.outputs[0], lambda values: build.op("PRelu", values))


def softmax(build: Build, operator: Operator) -> None:
    """exp(beta · x) over its sum, along the last axis."""
    value = build.get(build.input(operator, 0))
    beta = float(operator.option("beta", 1.0))
    if beta != 1.0:
        value = build.op("Mul", [value, build.real(beta, "beta")])
    if build.is_quantized(operator.inputs[0]) and build.tensor(operator.inputs[0]).dtype == np.int16:
        # The 16-bit kernel takes exp from a table that ends at -10 (softmax.cc): what lies lower still adds.
        below = build.op("Sub", [value, build.op("ReduceMax", [value], axes=[-1], keepdims=1)])
        value = build.op("Max", [below, build.real(-10.0, "table_end")])
    build.put(operator.outputs[0], build.op("Softmax", [value], axis=-1))


def log_softmax(build: Build, operator: Operator) -> None:
    """Logarithm of softmax along the last axis."""
    value = build.get(build.input(operator, 0))
    build.put(operator.outputs[0], build.op("LogSoftmax", [value], axis=-1))


def l2_normalization(build: Build, operator: Operator) -> None:
    """x / max(√Σx², 1e-6) along the last axis (tensorflow/lite/kernels/l2norm.cc)."""
    value = build.get(build.input(operator, 0))
    norm = build.op("ReduceL2", [value], axes=[-1], keepdims=1)
    floor = build.op("Max", [norm, build.real(1e-6, "epsilon")])
    build.put(operator.outputs[0], fused(build, operator, build.op("Div", [value, floor])))


def local_response_normalization(build: Build, operator: Operator) -> None:
    """x / (bias + alpha · Σ x²)^beta over 2 · radius + 1 channels; ONNX divides alpha by that number."""
    size = 2 * int(operator.option("radius", 0)) + 1
    value = build.op(
        "LRN",
        [build.get_channels_first(build.input(operator, 0))],
        size=size,
        alpha=float(operator.option("alpha", 1.0)) * size,
        beta=float(operator.option("beta", 0.5)),
        bias=float(operator.option("bias", 1.0)),
    )
    build.put_channels_first(operator.outputs[0], value)
