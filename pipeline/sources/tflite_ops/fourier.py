"""The real Fourier transform and complex numbers.

A complex tensor is held as two real ones. RFFT2D becomes matrix products with cosines and sines: exact to
float32 rounding, at every opset, and no slower than other layers for the frame lengths of speech models.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from pipeline.sources.tflite_model import Operator
from pipeline.sources.tflite_ops.build import Build, Handler, Held

_LONGEST = 2048  # points; beyond, the matrices outgrow the model


def rfft_2d(build: Build, operator: Operator) -> None:
    """RFFT2D(x [..., h, w], lengths (H, W)): x cut or filled up with zeros to H × W, → [..., H, W // 2 + 1].

    https://www.tensorflow.org/api_docs/python/tf/signal/rfft2d
    """
    data = build.input(operator, 0)
    lengths = build.integers_of(build.input(operator, 1))
    sizes = build.tensor(data).dims[-2:]
    if lengths is None or None in sizes:
        build.refuse("its length is computed at run time; give fixed input shapes")
    if max(lengths) > _LONGEST:
        build.refuse(f"{max(lengths)} points are more than the {_LONGEST} that are written as products")
    height, width = (size or 0 for size in sizes)
    if height > lengths[0]:
        build.refuse("it cuts rows away")
    value = build.get(data)
    cosine, sine = _waves(lengths[1], min(width, lengths[1]), lengths[1] // 2 + 1)
    if width > lengths[1]:
        bounds = (build.integers([0]), build.integers([lengths[1]]), build.integers([-1]))
        value = build.op("Slice", [value, *bounds])
    real = build.op("MatMul", [value, build.constant(cosine.T, "cosines")])
    imaginary = build.op("MatMul", [value, build.constant(-sine.T, "sines")])
    if lengths[0] > 1:
        real, imaginary = _along_rows(build, real, imaginary, lengths[0], height)
    build.held[operator.outputs[0]] = Held(source=real, imaginary=imaginary)


def _along_rows(
    build: Build, real: ir.Value, imaginary: ir.Value, length: int, rows: int
) -> tuple[ir.Value, ir.Value]:
    """(C - iS)(a + ib) = (Ca + Sb) + i(Cb - Sa) along the last axis but one."""
    cosine, sine = (build.constant(wave, "waves") for wave in _waves(length, rows, length))
    products = {
        (name, number): build.op("MatMul", [wave, part])
        for name, wave in (("c", cosine), ("s", sine))
        for number, part in enumerate((real, imaginary))
    }
    return (
        build.op("Add", [products["c", 0], products["s", 1]]),
        build.op("Sub", [products["c", 1], products["s", 0]]),
    )


def _waves(length: int, samples: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of 2π · bin · sample / length, float32 [bins, samples]; angles reduced exactly first."""
    turns = np.outer(np.arange(bins), np.arange(samples)) % length
    angles = 2.0 * np.pi * turns / length
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def both_parts(handler: Handler) -> Handler:
    """An operator that only moves elements, done to both parts where its operand is complex."""

    def handle(build: Build, operator: Operator) -> None:
        index = next((i for i in operator.inputs if i >= 0 and _is_complex(build, i)), None)
        if index is None:
            handler(build, operator)
            return
        whole, output = build.held[index], operator.outputs[0]
        handler(build, operator)
        real = build.get(output)
        build.held[index] = Held(source=whole.imaginary)
        handler(build, operator)
        imaginary = build.get(output)
        build.held[index] = whole
        build.held[output] = Held(source=real, imaginary=imaginary)

    return handle


def part(name: str) -> Handler:
    """REAL and IMAG."""

    def handle(build: Build, operator: Operator) -> None:
        real, imaginary = _parts(build, operator)
        build.put(operator.outputs[0], build.op("Identity", [real if name == "real" else imaginary]))

    return handle


def magnitude(build: Build, operator: Operator) -> None:
    """COMPLEX_ABS: √(re² + im²)."""
    real, imaginary = _parts(build, operator)
    squares = [build.op("Mul", [one, one]) for one in (real, imaginary)]
    build.put(operator.outputs[0], build.op("Sqrt", [build.op("Add", squares)]))


def _parts(build: Build, operator: Operator) -> tuple[ir.Value, ir.Value]:
    index = build.input(operator, 0)
    held = build.held.get(index)
    if held is None or held.source is None or held.imaginary is None:
        build.refuse("its operand does not come from a Fourier transform")
    return held.source, held.imaginary


def _is_complex(build: Build, index: int) -> bool:
    held = build.held.get(index)
    return held is not None and held.imaginary is not None
