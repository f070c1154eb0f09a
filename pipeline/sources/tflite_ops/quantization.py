"""Operators that change between integers and the reals they stand for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from pipeline.sources.tflite_model import Operator, Quantization
from pipeline.sources.tflite_ops.build import Build


def quantize(build: Build, operator: Operator) -> None:
    """QUANTIZE: reals, or integers on another scale, are rounded to the output's."""
    build.elementwise([build.input(operator, 0)], operator.outputs[0], lambda values: values[0])


def dequantize(build: Build, operator: Operator) -> None:
    """DEQUANTIZE: a quantised tensor is held as reals already; half-precision weights become float32."""
    build.elementwise([build.input(operator, 0)], operator.outputs[0], lambda values: values[0])


def densify(build: Build, operator: Operator) -> None:
    """DENSIFY: sparse constants were written out when the file was read."""
    build.put(operator.outputs[0], build.get(build.input(operator, 0)))


def fake_quant(build: Build, operator: Operator) -> None:
    """FAKE_QUANT: rounding to 8 bits between min and max, nudged so that zero is on the grid.

    tensorflow/lite/kernels/internal/reference/fake_quant.h and quantization_util.h (NudgeQuantizationRange).
    """
    if int(operator.option("numBits", 8)) != 8:
        build.refuse("only 8 bits are carried over")
    lowest, highest = float(operator.option("min", 0.0)), float(operator.option("max", 0.0))
    first = 1.0 if operator.option("narrowRange", False) else 0.0
    scale = (highest - lowest) / (255.0 - first)
    zero_point = int(np.clip(np.floor(first - lowest / scale + 0.5), first, 255.0))
    grid = Quantization(np.asarray([scale], np.float32), np.asarray([zero_point], np.int64), 0)
    low, high = (first - zero_point) * scale, (255.0 - zero_point) * scale

    def rounded(values: list[ir.Value]) -> ir.Value:
        clipped = build.op("Clip", [values[0], build.real(low), build.real(high)])
        steps = build.quantize(clipped, np.dtype(np.uint8), grid)
        return build.dequantize(steps, np.dtype(np.uint8), grid)

    build.elementwise([build.input(operator, 0)], operator.outputs[0], rounded)
