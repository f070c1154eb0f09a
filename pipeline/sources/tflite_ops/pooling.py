"""Pooling windows."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir

from pipeline.sources.tflite_model import Operator
from pipeline.sources.tflite_ops.activations import fused
from pipeline.sources.tflite_ops.build import Build
from pipeline.sources.tflite_ops.windows import SAME, padding_attributes


def average_pool(build: Build, operator: Operator) -> None:
    """AVERAGE_POOL_2D: the mean over what of the window lies inside the image."""
    data, window = build.input(operator, 0), _window(build, operator)
    value = build.op("AveragePool", [build.get_channels_first(data)], **window)
    if build.is_quantized(data):
        value = _ties_away_from_zero(build, data, value, math.prod(window["kernel_shape"]))
    build.put_channels_first(operator.outputs[0], fused(build, operator, value))


def _ties_away_from_zero(build: Build, data: int, mean: ir.Value, count: int) -> ir.Value:
    """``mean``, moved a little where it lies between two integers, to the side TFLite rounds it to.

    TFLite divides the sum of the *stored* integers and rounds halves away from zero; QuantizeLinear rounds
    halves to even. Means of an even number of integers are often exact halves. The move is 2**-12 of a step:
    well above float32 rounding, and below the distance 1 / (2 · count) of any other mean to a half.
    """
    quantization = build.tensor(data).quantization
    if quantization is None or not quantization.per_tensor or count % 2 or count > 1024:
        return mean
    step, zero_point = float(quantization.scales[0]), int(quantization.zero_points[0])
    stored = build.op("Add", [mean, build.real(step * zero_point)]) if zero_point else mean
    nudge = build.op("Mul", [build.op("Sign", [stored]), build.real(step * 2.0**-12)])
    moved: ir.Value = build.op("Add", [mean, nudge])
    return moved


def max_pool(build: Build, operator: Operator) -> None:
    """MAX_POOL_2D."""
    data = build.input(operator, 0)
    value = build.op("MaxPool", [build.get_channels_first(data)], **_window(build, operator))
    build.put_channels_first(operator.outputs[0], fused(build, operator, value), on_grid_of=data)


def l2_pool(build: Build, operator: Operator) -> None:
    """L2_POOL_2D: the root of the mean of squares."""
    x = build.get_channels_first(build.input(operator, 0))
    mean = build.op("AveragePool", [build.op("Mul", [x, x])], **_window(build, operator))
    build.put_channels_first(operator.outputs[0], fused(build, operator, build.op("Sqrt", [mean])))


def _window(build: Build, operator: Operator) -> dict[str, Any]:
    kernel = (int(operator.option("filterHeight", 1)), int(operator.option("filterWidth", 1)))
    strides = (int(operator.option("strideH", 1)), int(operator.option("strideW", 1)))
    sizes = build.tensor(operator.inputs[0]).dims[1:3]
    padding = int(operator.option("padding", SAME))
    pads = padding_attributes(padding, sizes, kernel, strides, (1, 1))
    return {"kernel_shape": kernel, "strides": strides, **pads}
