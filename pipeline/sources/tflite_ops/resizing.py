"""Image resizing with TFLite's three conventions for where an output pixel samples.

============================  ===============================  ======================================
TFLite                        bilinear                         nearest
============================  ===============================  ======================================
align_corners                 ``align_corners``                ``align_corners``, round_prefer_ceil
half_pixel_centers            ``half_pixel``                   ``half_pixel``, round_prefer_ceil
neither                       ``asymmetric``                   ``asymmetric``, floor
============================  ===============================  ======================================

Nearest with half pixels takes floor((i + 0.5) · in / out), which is round_prefer_ceil of that less 0.5
(tensorflow/lite/kernels/internal/reference/resize_nearest_neighbor.h).
"""

from __future__ import annotations

import numpy as np

from optim.contract import Array
from pipeline.sources.tflite_model import Operator
from pipeline.sources.tflite_ops.build import Build, Handler


def resize(mode: str) -> Handler:
    """A handler for RESIZE_BILINEAR (``linear``) or RESIZE_NEAREST_NEIGHBOR (``nearest``)."""

    def handle(build: Build, operator: Operator) -> None:
        data, size = build.input(operator, 0), build.input(operator, 1)
        if mode == "linear" and build.is_quantized(data) and build.tensor(data).dtype == np.int16:
            _in_1024ths(build, operator)
            return
        if operator.option("alignCorners", False):
            coordinates, rounding = "align_corners", "round_prefer_ceil"
        elif operator.option("halfPixelCenters", False):
            coordinates, rounding = "half_pixel", "round_prefer_ceil"
        else:
            coordinates, rounding = "asymmetric", "floor"
        value = build.get_channels_first(data)
        batch, _, _, channels = build.tensor(data).dims
        target = build.integers_of(size)
        if target is not None and batch is not None and channels is not None:
            sizes = build.integers([batch, channels, *target], "sizes")
        else:
            kept = build.op("Slice", [build.op("Shape", [value]), build.integers([0]), build.integers([2])])
            sizes = build.op("Concat", [kept, build.int64(size)], axis=0)
        result = build.op(
            "Resize",
            [value, None, None, sizes],
            mode=mode,
            coordinate_transformation_mode=coordinates,
            nearest_mode=rounding if mode == "nearest" else None,
        )
        build.put_channels_first(operator.outputs[0], result, on_grid_of=data if mode == "nearest" else None)

    return handle


def _in_1024ths(build: Build, operator: Operator) -> None:
    """Bilinear resizing of 16-bit images, whose kernel keeps coordinates in 1/1024 of a pixel.

    With 8 bits that is far below a step; with 16 it is many, so the interpolation is written out as two
    matrix products (tensorflow/lite/kernels/internal/reference/resize_bilinear.h, ResizeBilinearInteger).
    """
    data = build.input(operator, 0)
    target, sizes = build.integers_of(build.input(operator, 1)), build.tensor(data).dims[1:3]
    if target is None or None in sizes:
        build.refuse("16-bit images are resized only between known sizes; give fixed input shapes")
    corners, half = bool(operator.option("alignCorners")), bool(operator.option("halfPixelCenters"))
    rows, columns = (
        _weights(size or 0, result, corners=corners, half_pixel=half)
        for size, result in zip(sizes, target, strict=True)
    )
    value = build.op("MatMul", [build.constant(rows, "rows"), build.get_channels_first(data)])
    value = build.op("MatMul", [value, build.constant(np.ascontiguousarray(columns.T), "columns")])
    build.put_channels_first(operator.outputs[0], value)


def _weights(size: int, result: int, *, corners: bool, half_pixel: bool) -> Array:
    """Interpolation along one axis, float32 [result, size]."""
    if corners and result > 1:
        scale = (1024 * (size - 1) + (result - 1) // 2) // (result - 1)
    else:
        scale = (1024 * size + result // 2) // result
    matrix = np.zeros((result, size), np.float32)
    for place in range(result):
        at = place * scale + (scale // 2 - 512 if half_pixel else 0)
        low = max(int(at / 1024), 0)  # C++ division rounds towards zero
        high = min((at + 1023) // 1024, size - 1)
        low = min(low, size - 1)
        matrix[place, low] += (1024 - (at - 1024 * low)) / 1024
        matrix[place, high] += (at - 1024 * low) / 1024
    return matrix
