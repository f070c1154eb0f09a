"""Non-maximum suppression, and the detection head of the SSD models."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from pipeline.sources.tflite_model import Operator
from pipeline.sources.tflite_ops.build import Build


def non_max_suppression(build: Build, operator: Operator) -> None:
    """NON_MAX_SUPPRESSION_V4 and V5(boxes [N, 4], scores [N], most, IoU, score[, sigma]).

    Results are filled up with zeros to ``most``: indices, (V5: scores,) and how many are real.
    """
    soft = operator.name == "NON_MAX_SUPPRESSION_V5"
    if soft:
        sigma = build.constant_of(build.input(operator, 5))
        if sigma is None or float(sigma.reshape(-1)[0]) != 0.0:
            build.refuse("it lowers scores (soft suppression); set soft_nms_sigma to 0")
    boxes, scores = (build.get(build.input(operator, position)) for position in range(2))
    most = build.op("Reshape", [build.int64(build.input(operator, 2)), build.integers([1])])
    limits = [
        build.op("Reshape", [build.get(build.input(operator, position)), build.integers([1])])
        for position in (3, 4)
    ]
    chosen = build.op(
        "NonMaxSuppression",
        [
            build.op("Unsqueeze", [boxes, build.integers([0])]),
            build.op("Unsqueeze", [scores, build.integers([0, 1])]),
            most,
            *limits,
        ],
    )
    indices = build.op("Squeeze", [_column(build, chosen, 2), build.integers([1])])
    count = build.op("Shape", [indices])
    missing = build.op("Concat", [build.integers([0]), build.op("Sub", [most, count])], axis=0)
    padded = build.op("Cast", [build.op("Pad", [indices, missing])], to=int(ir.DataType.INT32))
    build.put(operator.outputs[0], padded)
    if soft:
        kept = build.op("Gather", [scores, indices], axis=0)
        build.put(operator.outputs[1], build.op("Pad", [kept, missing]))
    total = build.op("Reshape", [count, build.integers([], "scalar")])
    build.put(operator.outputs[-1], build.op("Cast", [total], to=int(ir.DataType.INT32)))


def _column(build: Build, table: ir.Value, column: int) -> ir.Value:
    value: ir.Value = build.op(
        "Slice", [table, build.integers([column]), build.integers([column + 1]), build.integers([1])]
    )
    return value


def detection_postprocess(build: Build, operator: Operator) -> None:
    """TFLite_Detection_PostProcess(box encodings [1, N, 4], class scores [1, N, C], anchors [N, 4]).

    Encodings (y, x, h, w) are relative to their anchors; each anchor takes part with its best class only
    (the "fast" form). Results of length D = max_detections, zeros behind the last: boxes (ymin, xmin, ymax,
    xmax) [1, D, 4], classes [1, D], scores [1, D], and their number [1], all float32.

    Source: tensorflow/lite/kernels/detection_postprocess.cc.
    """
    options = _options(build, operator)
    if options.get("use_regular_nms", False):
        build.refuse("suppression for each class (use_regular_nms) is not carried over")
    if int(options["max_classes_per_detection"]) != 1:
        build.refuse("several classes for one box (max_classes_per_detection) are not carried over")
    encodings, scores, anchors = (build.input(operator, position) for position in range(3))
    stored = build.constant_of(anchors)
    if stored is None:
        build.refuse("its anchors are computed at run time")
    quantization = build.tensor(anchors).quantization
    if quantization is not None and build.is_quantized(anchors):
        stored = quantization.reals(stored)
    most = int(options["max_detections"])
    boxes = _decoded(build, build.get(encodings), stored.astype(np.float32), options)
    classes = int(options["num_classes"])
    every = build.tensor(scores).dims[-1]
    if every is None:
        build.refuse("the number of its classes is not known")
    background = every - classes
    rated = build.op(
        "Slice",
        [build.get(scores), build.integers([background]), build.integers([every]), build.integers([2])],
    )
    best = build.op("ReduceMax", [rated], axes=[2], keepdims=0)  # [1, N]
    # Kept are scores at or above the threshold; ONNX keeps those above.
    threshold = np.nextafter(np.float32(options["nms_score_threshold"]), np.float32(-np.inf))
    chosen = build.op(
        "NonMaxSuppression",
        [
            boxes,
            build.op("Unsqueeze", [best, build.integers([1])]),
            build.integers([most]),
            build.constant(np.asarray([options["nms_iou_threshold"]], np.float32)),
            build.constant(np.asarray([threshold], np.float32)),
        ],
    )
    indices = build.op("Squeeze", [_column(build, chosen, 2), build.integers([1])])
    count = build.op("Shape", [indices])
    missing = build.op("Sub", [build.integers([most]), count])
    kind = build.op("Cast", [build.op("ArgMax", [rated], axis=2, keepdims=0)], to=int(ir.DataType.FLOAT))
    none = build.integers([0])
    vector = build.op("Concat", [none, none, none, missing], axis=0)
    matrix = build.op("Concat", [none, none, none, none, missing, none], axis=0)
    results = [
        build.op("Pad", [build.op("Gather", [boxes, indices], axis=1), matrix]),
        build.op("Pad", [build.op("Gather", [kind, indices], axis=1), vector]),
        build.op("Pad", [build.op("Gather", [best, indices], axis=1), vector]),
        build.op("Cast", [count], to=int(ir.DataType.FLOAT)),
    ]
    for output, value in zip(operator.outputs, results, strict=True):
        build.put(output, value)


def _decoded(build: Build, encodings: ir.Value, anchors: Array, options: dict[str, Any]) -> ir.Value:
    """Corners (ymin, xmin, ymax, xmax) [1, N, 4] of encodings (y, x, h, w) relative to anchors."""
    where, size = anchors[:, :2], anchors[:, 2:]
    shift = np.asarray([options["y_scale"], options["x_scale"]], np.float32)
    stretch = np.asarray([options["h_scale"], options["w_scale"]], np.float32)
    bounds = [(0, 2), (2, 4)]
    offset, growth = (
        build.op("Slice", [encodings, build.integers([a]), build.integers([b]), build.integers([2])])
        for a, b in bounds
    )
    scaled = build.op("Div", [offset, build.constant(shift, "scale")])
    centre = build.op("Add", [build.op("Mul", [scaled, build.constant(size)]), build.constant(where)])
    grown = build.op("Exp", [build.op("Div", [growth, build.constant(stretch, "scale")])])
    half = build.op("Mul", [grown, build.constant(0.5 * size)])
    corners = [build.op("Sub", [centre, half]), build.op("Add", [centre, half])]
    boxes: ir.Value = build.op("Concat", corners, axis=2)
    return boxes


def _options(build: Build, operator: Operator) -> dict[str, Any]:
    """The custom operator's options: a FlexBuffer map."""
    from flatbuffers import flexbuffers

    try:
        options: dict[str, Any] = flexbuffers.Loads(operator.options)
        needed = ("max_detections", "max_classes_per_detection", "num_classes", "nms_score_threshold",
                  "nms_iou_threshold", "y_scale", "x_scale", "h_scale", "w_scale")  # fmt: skip
        missing = [key for key in needed if key not in options]
    except Exception as error:  # a damaged buffer fails in any way
        build.refuse(f"its options cannot be read ({type(error).__name__})")
    if missing:
        build.refuse(f"its options lack {', '.join(missing)}")
    return options
