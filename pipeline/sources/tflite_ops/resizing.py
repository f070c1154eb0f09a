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

from pipeline.sources.tflite_model import Operator
from pipeline.sources.tflite_ops.activations import Handler
from pipeline.sources.tflite_ops.build import Build


def resize(mode: str) -> Handler:
    """A handler for RESIZE_BILINEAR (``linear``) or RESIZE_NEAREST_NEIGHBOR (``nearest``)."""

    def handle(build: Build, operator: Operator) -> None:
        data, size = build.input(operator, 0), build.input(operator, 1)
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
