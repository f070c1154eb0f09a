"""Operators of two or more operands that work element by element, with NumPy's broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from pipeline.sources.tflite_model import Operator
from pipeline.sources.tflite_ops.activations import fused
from pipeline.sources.tflite_ops.build import Build, Handler

Formula = Callable[[Build, bool, ir.Value, ir.Value], ir.Value]


def binary(op_type: str) -> Handler:
    """A handler for an operator that ONNX has under ``op_type``, with a fused activation perhaps."""

    def handle(build: Build, operator: Operator) -> None:
        operands = [build.input(operator, 0), build.input(operator, 1)]
        build.elementwise(
            operands,
            operator.outputs[0],
            lambda values: fused(build, operator, build.op(op_type, values)),
        )

    return handle


def composed(formula: Formula) -> Handler:
    """A handler for two operands that takes several ONNX operators; told whether they are integers."""

    def handle(build: Build, operator: Operator) -> None:
        operands = [build.input(operator, 0), build.input(operator, 1)]
        whole = build.tensor(operands[0]).dtype.kind in "iu" and not build.is_quantized(operands[0])
        build.elementwise(
            operands, operator.outputs[0], lambda values: formula(build, whole, values[0], values[1])
        )

    return handle


def squared_difference(build: Build, _whole: bool, a: ir.Value, b: ir.Value) -> ir.Value:
    """(a - b)²."""
    difference = build.op("Sub", [a, b])
    return build.op("Mul", [difference, difference])


def floor_div(build: Build, whole: bool, a: ir.Value, b: ir.Value) -> ir.Value:
    """⌊a / b⌋; ONNX's integer division rounds towards zero, so the remainder is taken away first."""
    if whole:
        return build.op("Div", [build.op("Sub", [a, build.op("Mod", [a, b])]), b])
    return build.op("Floor", [build.op("Div", [a, b])])


def floor_mod(build: Build, whole: bool, a: ir.Value, b: ir.Value) -> ir.Value:
    """The remainder with the divisor's sign."""
    if whole:
        return build.op("Mod", [a, b])
    # fmod has the dividend's sign: add b once and take fmod again.
    once = build.op("Mod", [a, b], fmod=1)
    return build.op("Mod", [build.op("Add", [once, b]), b], fmod=1)


def atan2(build: Build, _whole: bool, y: ir.Value, x: ir.Value) -> ir.Value:
    """The angle of (x, y) in [-π, π]; ONNX has only atan, which knows half of the circle."""
    zero, half, whole = build.real(0.0), build.real(np.pi / 2), build.real(np.pi)
    slope = build.op("Atan", [build.op("Div", [y, x])])
    upper = build.op("GreaterOrEqual", [y, zero])
    turn = build.op("Where", [upper, whole, build.real(-np.pi)])
    left = build.op("Add", [slope, turn])
    sign = build.op("Sign", [y])
    upright = build.op("Mul", [sign, half])
    below = build.op("Less", [x, zero])
    sideways: ir.Value = build.op(
        "Where", [build.op("Equal", [x, zero]), upright, build.op("Where", [below, left, slope])]
    )
    return sideways


def not_equal(build: Build, _whole: bool, a: ir.Value, b: ir.Value) -> ir.Value:
    """a ≠ b."""
    return build.op("Not", [build.op("Equal", [a, b])])


def bucketize(build: Build, operator: Operator) -> None:
    """BUCKETIZE: how many of the ascending boundaries lie at or below each element."""
    data = build.input(operator, 0)
    stated = operator.option("boundaries")
    boundaries = np.asarray([] if stated is None else stated, np.float32)
    value = build.get(data)
    if build.tensor(data).dtype.kind in "iu" and not build.is_quantized(data):
        value = build.op("Cast", [value], to=int(ir.DataType.FLOAT))
    spread = build.op("Unsqueeze", [value, build.integers([-1])])
    reached = build.op("GreaterOrEqual", [spread, build.constant(boundaries, "boundaries")])
    counted = build.op("Cast", [reached], to=int(ir.DataType.INT32))
    build.put(operator.outputs[0], build.op("ReduceSum", [counted, build.integers([-1])], keepdims=0))


def variadic(op_type: str) -> Handler:
    """A handler for any number of operands."""

    def handle(build: Build, operator: Operator) -> None:
        build.elementwise(
            list(operator.inputs), operator.outputs[0], lambda values: build.op(op_type, values)
        )

    return handle


def select(build: Build, operator: Operator) -> None:
    """SELECT, SELECT_V2: where(condition, a, b); in SELECT a vector condition picks whole rows."""
    condition, a, b = (build.input(operator, position) for position in range(3))
    mask = build.get(condition)
    rank, result_rank = build.tensor(condition).rank, build.tensor(a).rank
    if operator.name == "SELECT" and rank == 1 and result_rank > 1:
        mask = build.op("Reshape", [mask, build.integers([-1, *[1] * (result_rank - 1)])])
    build.put(operator.outputs[0], build.op("Where", [mask, build.get(a), build.get(b)]))


def cast(build: Build, operator: Operator) -> None:
    """CAST to the output's element type; half precision is rounded to, and held as float32."""
    output = operator.outputs[0]
    dtype = ir.DataType.from_numpy(build.tensor(output).dtype)

    def rounded(values: list[ir.Value]) -> ir.Value:
        value = build.op("Cast", values, to=int(dtype))
        half = dtype == ir.DataType.FLOAT16
        return build.op("Cast", [value], to=int(ir.DataType.FLOAT)) if half else value

    build.elementwise([build.input(operator, 0)], output, rounded)
