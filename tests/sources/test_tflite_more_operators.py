"""Operators of TFLite that take several of ONNX's, against TFLite's own interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from optim.errors import UnsupportedModelError
from pipeline.sources.contract import ConvertRequest
from pipeline.sources.tflite import TfliteSource
from targets.reference import OrtSession
from tests.sources.tflite_builder import OneOp, Operand, write, write_unchecked

pytest.importorskip("ai_edge_litert")

RNG = np.random.default_rng(11)
SAME, VALID, TANH = 0, 1, 4


def x(*shape: int, dtype: str = "float32", name: str = "x", **more: Any) -> Operand:
    return Operand(name, shape, dtype, **more)


def const(data: Any, dtype: str = "int32", name: str = "c") -> Operand:
    array = np.asarray(data, dtype)
    return Operand(name, array.shape, dtype, array)


def weights(*shape: int, name: str = "w", scale: float = 0.4) -> Operand:
    return Operand(name, shape, "float32", (RNG.standard_normal(shape) * scale).astype(np.float32))


def out(dtype: str = "float32", name: str = "y") -> Operand:
    return Operand(name, (), dtype)


def conv_3d_transpose(result: Sequence[int], kernel: int, stride: int, padding: int) -> OneOp:
    sizes = [-(-size // stride) if padding == SAME else (size - kernel) // stride + 1 for size in result]
    options = {"strideD": stride, "strideH": stride, "strideW": stride, "padding": padding}
    operands = [const([2, *result, 3]), weights(kernel, kernel, kernel, 3, 2), x(2, *sizes, 2)]
    return OneOp("CONV_3D_TRANSPOSE", operands, [out()], "Conv3D", options)


def lstm(
    *, peepholes: bool = False, coupled: bool = False, time_major: bool = False, eight_bits: bool = False
) -> OneOp:
    batch, time, depth, units = 2, 5, 3, 4

    def matrix(rows: int, columns: int, name: str) -> Operand:
        if not eight_bits:
            return weights(rows, columns, name=name)
        data = RNG.integers(-127, 128, (rows, columns))
        return Operand(name, (rows, columns), "int8", data, [0.004], [0])

    operands: list[Operand | None] = [x(time, batch, depth) if time_major else x(batch, time, depth)]
    operands += [None if coupled and g == "i" else matrix(units, depth, f"w{g}") for g in "ifco"]
    operands += [None if coupled and g == "i" else matrix(units, units, f"r{g}") for g in "ifco"]
    operands += [weights(units, name=f"p{g}") if peepholes else None for g in "ifo"]
    operands += [None if coupled and g == "i" else weights(units, name=f"b{g}") for g in "ifco"]
    operands += [None, None]
    operands += [x(batch, units, name=name, variable=True) for name in ("h", "c")]
    operands += [None] * 4
    options = {"fusedActivationFunction": TANH, "timeMajor": time_major}
    return OneOp("UNIDIRECTIONAL_SEQUENCE_LSTM", operands, [out()], "UnidirectionalSequenceLSTM", options)


def rnn(*, time_major: bool) -> OneOp:
    operands = [
        x(5, 2, 3) if time_major else x(2, 5, 3),
        weights(4, 3, name="w"),
        weights(4, 4, name="r"),
        weights(4, name="b"),
        x(2, 4, name="h", variable=True),
    ]
    options = {"fusedActivationFunction": TANH, "timeMajor": time_major}
    return OneOp("UNIDIRECTIONAL_SEQUENCE_RNN", operands, [out()], "SequenceRNN", options)


def suppression(op: str, count: int) -> OneOp:
    corner = RNG.uniform(0, 1, (12, 2))
    boxes = np.concatenate([corner, corner + RNG.uniform(0.2, 0.6, (12, 2))], 1)
    operands = [
        const(boxes, "float32", "boxes"),
        x(12, name="scores"),
        const(count, name="most"),
        const(0.4, "float32", "iou"),
        const(-0.3, "float32", "score"),
    ]
    if op.endswith("V5"):
        operands.append(const(0.0, "float32", "sigma"))
        results = [out("int32"), out(name="kept"), out("int32", "number")]
        return OneOp(op, operands, results, "NonMaxSuppressionV5")
    return OneOp(op, operands, [out("int32"), out("int32", "number")], "NonMaxSuppressionV4")


def gather(axis: int, batch: int, indices: Any) -> OneOp:
    options = {"axis": axis, "batchDims": batch, "_version": 5}
    return OneOp("GATHER", [x(2, 3, 4, 5), const(indices)], [out()], "Gather", options)


ROWS = const([1, 0, 3, 1, -1])
CASES: dict[str, OneOp] = {
    "atan2": OneOp("ATAN2", [x(3, 40), x(3, 40, name="b")], [out()], "ATan2"),
    "bucketize": OneOp("BUCKETIZE", [x(3, 40)], [out("int32")], "Bucketize", {"boundaries": [-1, 0, 0.7]}),
    "broadcast args": OneOp("BROADCAST_ARGS", [const([3, 1, 4]), const([5, 1], name="b")], [out("int32")]),
    "3-D transposed, same": conv_3d_transpose((4, 6, 8), 3, 2, SAME),
    "3-D transposed, odd": conv_3d_transpose((5, 7, 5), 3, 2, SAME),
    "3-D transposed, valid": conv_3d_transpose((5, 7, 9), 3, 2, VALID),
    "matrix diagonal": OneOp("MATRIX_DIAG", [x(2, 5)], [out()], "MatrixDiag"),
    "set diagonal, wide": OneOp("MATRIX_SET_DIAG", [x(2, 3, 5), x(2, 3, name="d")], [out()], "MatrixSetDiag"),
    "set diagonal, tall": OneOp("MATRIX_SET_DIAG", [x(2, 5, 3), x(2, 3, name="d")], [out()], "MatrixSetDiag"),
    "segment sum": OneOp("SEGMENT_SUM", [x(4, 3), const([0, 0, 1, 2])], [out()], "SegmentSum"),
    **{
        f"segments, {kind}": OneOp(
            f"UNSORTED_SEGMENT_{kind}", [x(5, 2, 3), ROWS, const(5, name="n")], [out()],
            f"UnsortedSegment{kind.title()}",
        )
        for kind in ("SUM", "MAX", "MIN", "PROD")
    },
    "suppression 4": suppression("NON_MAX_SUPPRESSION_V4", 6),
    "suppression 5": suppression("NON_MAX_SUPPRESSION_V5", 12),
    "gather in batches": gather(1, 1, [[0, 2], [1, 1]]),
    "gather in batches, later axis": gather(3, 1, [[4, 2, 0], [1, 1, 3]]),
    "gather in two batches": gather(2, 2, RNG.integers(0, 4, (2, 3, 2))),
    "gather from the end": gather(-1, 0, [4, 0]),
    "sparse to dense": OneOp(
        "SPARSE_TO_DENSE",
        [const([[0, 1], [2, 3]]), const([3, 4], name="s"), x(2), const(-1.0, "float32", "d")],
        [out()],
        "SparseToDense",
    ),
    "unique": OneOp("UNIQUE", [const([5, 3, 5, 5, 1, 3])], [out("int32"), out("int32", "i")], "Unique"),
    "lstm": lstm(),
    "lstm with peepholes": lstm(peepholes=True),
    "lstm with coupled gates": lstm(coupled=True),
    "lstm, time first": lstm(time_major=True),
    "lstm, 8-bit weights": lstm(eight_bits=True),
    "rnn": rnn(time_major=False),
    "rnn, time first": rnn(time_major=True),
}  # fmt: skip


def assert_agrees(case: OneOp, folder: Path, opset: int = 18) -> None:
    """Compare what the converted and the native model make of random input, over three runs."""
    path = write(case, folder / "model.tflite")
    request = ConvertRequest(str(path), opset=opset)
    data = ir.to_proto(TfliteSource().convert(request).model).SerializeToString()
    rng = np.random.default_rng(0)
    with TfliteSource().open(request) as native, OrtSession(data, optimization="off") as session:
        for _ in range(3):  # state must not leak from one run into the next
            feeds = {}
            for spec in native.inputs:
                values = rng.uniform(-2, 2, tuple(int(d) for d in spec.shape))  # type: ignore[arg-type]
                feeds[spec.name] = values > 0 if spec.dtype == "bool" else values.astype(np.float32)
            expected, got = native.run(feeds), session.run(feeds)
            assert expected.keys() == got.keys()
            for name, reference in expected.items():
                assert got[name].dtype == reference.dtype
                assert got[name].shape == reference.shape
                if reference.dtype.kind == "f":
                    bound = 2e-6 * max(1.0, float(np.abs(reference).max()))
                    np.testing.assert_allclose(got[name], reference, rtol=0, atol=bound)
                else:
                    np.testing.assert_array_equal(got[name], reference)


@pytest.mark.parametrize("title", CASES)
@pytest.mark.parametrize("opset", [13, 18])
def test_operator_agrees_with_tflite(title: str, opset: int, tmp_path: Path) -> None:
    assert_agrees(CASES[title], tmp_path, opset)


def detection(*, background: int, quantised: bool = False, **changed: Any) -> OneOp:
    """The head of an SSD: 20 anchors, 4 classes."""
    from flatbuffers import flexbuffers

    options = {
        "max_detections": 6, "max_classes_per_detection": 1, "detections_per_class": 100,
        "use_regular_nms": False, "nms_score_threshold": 0.1, "nms_iou_threshold": 0.5, "num_classes": 4,
        "y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0, **changed,
    }  # fmt: skip
    centres = RNG.uniform(0.2, 0.8, (20, 2))
    anchors = np.concatenate([centres, RNG.uniform(0.1, 0.4, (20, 2))], 1)
    stored = const(anchors, "float32", "anchors")
    if quantised:
        stored = Operand("anchors", (20, 4), "uint8", np.round(anchors * 200), [0.005], [0])
    return OneOp(
        "CUSTOM",
        [x(1, 20, 4), x(1, 20, 4 + background, name="scores"), stored],
        [out(), out(name="classes"), out(name="rated"), out(name="count")],
        custom="TFLite_Detection_PostProcess",
        custom_options=bytes(flexbuffers.Dumps(options)),
    )


@pytest.mark.parametrize("background", [0, 1])
def test_detection_head(background: int, tmp_path: Path) -> None:
    assert_agrees(detection(background=background), tmp_path)


def test_detection_head_that_finds_little(tmp_path: Path) -> None:
    """Thresholds so high that results are filled up with zeros."""
    assert_agrees(detection(background=1, nms_score_threshold=1.7, nms_iou_threshold=0.1), tmp_path)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (detection(background=1, use_regular_nms=True), "use_regular_nms"),
        (detection(background=1, max_classes_per_detection=3), "max_classes_per_detection"),
        (
            OneOp("SVDF", [x(1, 4), weights(2, 4), weights(2, 3, name="t"), None,
                           x(1, 6, name="s", variable=True)], [Operand("y", (1, 2))], "SVDF", {"rank": 1}),
            "keeps state between calls",
        ),
        (OneOp("RANDOM_UNIFORM", [const([2, 3])], [Operand("y", (2, 3))], "Random"), "random numbers"),
        (OneOp("CUSTOM", [x(2, 3)], [Operand("y", (2, 3))], custom="FlexSinh"), "SELECT_TF_OPS"),
        (OneOp("BITCAST", [x(2, 3)], [Operand("y", (2, 3), "int32")], "Bitcast"), "no counterpart"),
    ],
    ids=["regular nms", "several classes", "svdf", "random", "flex", "bitcast"],
)  # fmt: skip
def test_refused_with_the_reason(case: OneOp, reason: str, tmp_path: Path) -> None:
    path = write_unchecked(case, tmp_path / "model.tflite")
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        TfliteSource().convert(ConvertRequest(str(path)))
    assert caught.value.op == (case.custom or case.op)
    assert caught.value.node == "y"
