"""Each TFLite operator against TFLite's own interpreter: same file, same input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from pipeline.sources.contract import ConvertRequest
from pipeline.sources.tflite import TfliteSource
from targets.reference import OrtSession
from tests.sources.tflite_builder import OneOp, Operand, write

pytest.importorskip("ai_edge_litert")

RNG = np.random.default_rng(7)
SAME, VALID = 0, 1


def x(*shape: int, dtype: str = "float32", name: str = "x", **more: Any) -> Operand:
    return Operand(name, shape, dtype, **more)


def const(data: Any, dtype: str = "int32", name: str = "c", **more: Any) -> Operand:
    array = np.asarray(data, dtype)
    return Operand(name, array.shape, dtype, array, **more)


def weights(*shape: int, name: str = "w") -> Operand:
    return Operand(name, shape, "float32", RNG.standard_normal(shape).astype(np.float32) * 0.3)


def out(dtype: str = "float32", name: str = "y", **more: Any) -> Operand:
    return Operand(name, (), dtype, **more)


@dataclass
class Case:
    title: str
    op: OneOp
    low: float = -2.0
    high: float = 2.0
    bound: float = 2e-6


def unary(op: str, low: float = -2.0, high: float = 2.0, options: str = "", **values: Any) -> Case:
    return Case(op.lower(), OneOp(op, [x(2, 3, 4, 5)], [out()], options, values), low, high)


def binary(op: str, options: str = "", dtype: str = "float32", result: str = "", **values: Any) -> Case:
    operands = [x(2, 3, 4, 5, dtype=dtype), x(1, 4, 5, dtype=dtype, name="b")]
    title = f"{op.lower()} {dtype} {values or ''}"
    return Case(title, OneOp(op, operands, [out(result or dtype)], options, values), 0.5, 3.0)


def conv(title: str, size: int, kernel: int, **values: Any) -> Case:
    given = {
        "strideH": 1,
        "strideW": 1,
        "dilationHFactor": 1,
        "dilationWFactor": 1,
        "padding": SAME,
        **values,
    }
    operands = [x(2, size, size + 1, 4), weights(6, kernel, kernel, 4), weights(6, name="bias")]
    return Case(f"conv {title}", OneOp("CONV_2D", operands, [out()], "Conv2D", given), bound=1e-5)


def depthwise(title: str, multiplier: int, **values: Any) -> Case:
    given = {
        **{"strideH": 2, "strideW": 2, "dilationHFactor": 1, "dilationWFactor": 1, "padding": SAME},
        **{"depthMultiplier": multiplier},
        **values,
    }
    operands = [x(2, 7, 8, 3), weights(1, 3, 3, 3 * multiplier), weights(3 * multiplier, name="bias")]
    return Case(
        f"depthwise {title}",
        OneOp("DEPTHWISE_CONV_2D", operands, [out()], "DepthwiseConv2D", given),
        bound=1e-5,
    )


def transposed(title: str, result: Sequence[int], kernel: int, stride: int, padding: int) -> Case:
    size = -(-result[0] // stride) if padding == SAME else (result[0] - kernel) // stride + 1
    given = {"strideH": stride, "strideW": stride, "padding": padding, "_version": 1}
    operands = [const([2, *result, 5]), weights(5, kernel, kernel, 3), x(2, size, size, 3)]
    op = OneOp("TRANSPOSE_CONV", operands, [out()], "TransposeConv", given)
    return Case(f"transposed conv {title}", op, bound=1e-5)


def pool(op: str, padding: int, **values: Any) -> Case:
    given = {"strideH": 2, "strideW": 1, "filterHeight": 3, "filterWidth": 2, "padding": padding, **values}
    low = 0.1 if op == "L2_POOL_2D" else -2.0
    return Case(f"{op.lower()} {given}", OneOp(op, [x(2, 7, 6, 3)], [out()], "Pool2D", given), low)


def reduce(op: str, axes: Sequence[int], keep: bool, low: float = -2.0) -> Case:
    given = {"keepDims": keep}
    title = f"{op.lower()} over {axes} keep {keep}"
    return Case(title, OneOp(op, [x(2, 3, 4, 5), const(axes)], [out()], "Reducer", given), low, bound=1e-5)


def resize(op: str, options: str, size: Sequence[int], align: bool, half: bool) -> Case:
    given = {"alignCorners": align, "halfPixelCenters": half, "_version": 3 if half else 1}
    title = f"{op.lower()} to {size} align {align} half {half}"
    return Case(title, OneOp(op, [x(2, 5, 7, 3), const(size)], [out()], options, given))


def sliced(begin: Any, end: Any, strides: Any, /, **masks: int) -> Case:
    operands = [x(3, 4, 5), const(begin, name="b"), const(end, name="e"), const(strides, name="s")]
    given = {f"{key}Mask": value for key, value in masks.items()}
    title = f"strided slice {begin} {end} {strides} {masks}"
    return Case(title, OneOp("STRIDED_SLICE", operands, [out()], "StridedSlice", given))


CASES = [
    *(unary(op) for op in ("ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "HARD_SWISH", "LOGISTIC", "NEG")),
    *(unary(op) for op in ("RELU", "RELU_N1_TO_1", "ROUND", "SIN", "SQUARE", "TANH", "ZEROS_LIKE", "SIGN")),
    unary("RELU6", -3, 9),
    unary("RELU_0_TO_1"),
    unary("LOG", 0.1, 4),
    unary("SQRT", 0.1, 4),
    unary("RSQRT", 0.1, 4),
    unary("LEAKY_RELU", options="LeakyRelu", alpha=0.3),
    unary("GELU", options="Gelu", approximate=False),
    unary("GELU", options="Gelu", approximate=True),
    unary("SOFTMAX", options="Softmax", beta=1.0),
    unary("SOFTMAX", options="Softmax", beta=0.5),
    unary("LOG_SOFTMAX", options="LogSoftmax"),
    unary("L2_NORMALIZATION", options="L2Norm"),
    unary(
        "LOCAL_RESPONSE_NORMALIZATION",
        options="LocalResponseNormalization",
        **{"radius": 2, "bias": 1.0, "alpha": 0.5, "beta": 0.75},
    ),
    binary("ADD", "Add", fusedActivationFunction=3),
    binary("SUB", "Sub", fusedActivationFunction=1),
    binary("MUL", "Mul", fusedActivationFunction=2),
    binary("DIV", "Div"),
    binary("POW", "Pow"),
    binary("MAXIMUM", "MaximumMinimum"),
    binary("MINIMUM", "MaximumMinimum"),
    binary("SQUARED_DIFFERENCE", "SquaredDifference"),
    binary("FLOOR_DIV", "FloorDiv"),
    binary("FLOOR_MOD", "FloorMod"),
    binary("FLOOR_DIV", "FloorDiv", "int32"),
    binary("FLOOR_MOD", "FloorMod", "int32"),
    binary("GREATER", "Greater", result="bool"),
    binary("GREATER_EQUAL", "GreaterEqual", result="bool"),
    binary("LESS", "Less", result="bool"),
    binary("LESS_EQUAL", "LessEqual", result="bool"),
    binary("EQUAL", "Equal", "int32", "bool"),
    binary("NOT_EQUAL", "NotEqual", "int32", "bool"),
    binary("LOGICAL_AND", "LogicalAnd", "bool"),
    binary("LOGICAL_OR", "LogicalOr", "bool"),
    Case("not", OneOp("LOGICAL_NOT", [x(2, 3, dtype="bool")], [out("bool")], "LogicalNot")),
    Case("add_n", OneOp("ADD_N", [x(2, 3), x(2, 3, name="b"), x(2, 3, name="c")], [out()], "AddN")),
    Case("prelu", OneOp("PRELU", [x(2, 3, 4, 5), weights(1, 1, 5)], [out()])),
    conv("same", 7, 3),
    conv("same, stride 2, odd", 7, 3, strideH=2, strideW=2),
    conv("same, stride 2, even kernel", 8, 2, strideH=2, strideW=2),
    conv("valid, relu6", 8, 3, padding=VALID, fusedActivationFunction=3),
    conv("dilated", 9, 3, dilationHFactor=2, dilationWFactor=2),
    conv("dilated, valid", 9, 3, dilationHFactor=3, dilationWFactor=2, padding=VALID),
    depthwise("same", 1),
    depthwise("multiplier 2", 2),
    depthwise("valid, relu", 1, padding=VALID, fusedActivationFunction=1),
    depthwise("dilated", 1, strideH=1, strideW=1, dilationHFactor=2, dilationWFactor=2),
    transposed("same, stride 2", (8, 8), 3, 2, SAME),
    transposed("same, odd output", (7, 7), 3, 2, SAME),
    transposed("same, kernel below stride", (6, 6), 2, 3, SAME),
    transposed("valid", (9, 9), 3, 2, VALID),
    transposed("valid, adjusted output", (10, 10), 3, 2, VALID),
    *(
        pool(op, padding)
        for op in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D")
        for padding in (SAME, VALID)
    ),
    pool("MAX_POOL_2D", SAME, fusedActivationFunction=1),
    *(
        reduce(op, [1, 2], keep)
        for op in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
        for keep in (True, False)
    ),
    reduce("MEAN", [-1], True),
    reduce("REDUCE_PROD", [0, 3], False),
    Case(
        "reduce any",
        OneOp(
            "REDUCE_ANY",
            [x(2, 3, 4, dtype="bool"), const([1])],
            [out("bool")],
            "Reducer",
            {"keepDims": False},
        ),
    ),
    Case(
        "reduce all",
        OneOp(
            "REDUCE_ALL", [x(2, 3, 4, dtype="bool"), const([1])], [out("bool")], "Reducer", {"keepDims": True}
        ),
    ),
    *(
        resize(op, options, size, align, half)
        for op, options in (
            ("RESIZE_BILINEAR", "ResizeBilinear"),
            ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighbor"),
        )
        for size in ([10, 14], [3, 4], [8, 9])
        for align, half in ((False, False), (True, False), (False, True))
    ),
    sliced([0, 1, 2], [2, 4, 5], [1, 2, 1]),
    sliced([0, 0, 0], [0, 0, 0], [1, 1, 1], begin=7, end=7),
    sliced([1, 0, 0], [2, 0, 0], [1, 1, 1], begin=6, end=6, shrinkAxis=1),
    sliced([-1, 0, 0], [0, 0, 0], [1, 1, 1], begin=6, end=6, shrinkAxis=1),
    sliced([0, -1], [0, -5], [1, -2], ellipsis=1, end=2),
    sliced([0, 0, 1], [0, 0, 3], [1, 1, 1], ellipsis=1, newAxis=2),
    sliced([3, 4, 0], [0, -5, 5], [-1, -1, 2], begin=1, end=1),
    Case(
        "reshape", OneOp("RESHAPE", [x(2, 3, 4), const([4, -1])], [out()], "Reshape", {"newShape": [4, -1]})
    ),
    Case("squeeze", OneOp("SQUEEZE", [x(2, 1, 4, 1)], [out()], "Squeeze", {"squeezeDims": [1]})),
    Case("squeeze all", OneOp("SQUEEZE", [x(2, 1, 4, 1)], [out()], "Squeeze", {"squeezeDims": []})),
    Case("expand dims", OneOp("EXPAND_DIMS", [x(2, 3), const([-1])], [out()], "ExpandDims")),
    Case("transpose", OneOp("TRANSPOSE", [x(2, 3, 4), const([2, 0, 1])], [out()], "Transpose")),
    Case(
        "concatenation",
        OneOp("CONCATENATION", [x(2, 3, 4), x(2, 2, 4, name="b")], [out()], "Concatenation", {"axis": 1}),
    ),
    Case("pack", OneOp("PACK", [x(2, 3), x(2, 3, name="b")], [out()], "Pack", {"axis": 1, "valuesCount": 2})),
    Case("unpack", OneOp("UNPACK", [x(2, 3)], [out(), out(name="z")], "Unpack", {"axis": 0, "num": 2})),
    Case("split", OneOp("SPLIT", [const(1), x(2, 4)], [out(), out(name="z")], "Split", {"numSplits": 2})),
    Case(
        "split sizes",
        OneOp(
            "SPLIT_V",
            [x(2, 5), const([2, -1]), const(1, name="a")],
            [out(), out(name="z")],
            "SplitV",
            {"numSplits": 2},
        ),
    ),
    Case("tile", OneOp("TILE", [x(2, 3), const([2, 3])], [out()], "Tile")),
    Case(
        "broadcast to",
        OneOp("BROADCAST_TO", [x(1, 3), const([4, 2, 3])], [out()], "BroadcastTo", {"_version": 2}),
    ),
    Case("pad", OneOp("PAD", [x(1, 3, 4, 2), const([[0, 0], [1, 2], [0, 3], [1, 0]])], [out()], "Pad")),
    Case(
        "pad with a value",
        OneOp("PADV2", [x(2, 3), const([[1, 0], [0, 2]]), const(1.5, "float32", "v")], [out()], "PadV2"),
    ),
    Case(
        "mirror reflect",
        OneOp("MIRROR_PAD", [x(3, 4), const([[1, 2], [0, 3]])], [out()], "MirrorPad", {"mode": 0}),
    ),
    Case(
        "mirror symmetric",
        OneOp("MIRROR_PAD", [x(3, 4), const([[1, 2], [0, 3]])], [out()], "MirrorPad", {"mode": 1}),
    ),
    Case("reverse", OneOp("REVERSE_V2", [x(2, 3, 4), const([1])], [out()], "ReverseV2")),
    Case(
        "reverse sequence",
        OneOp(
            "REVERSE_SEQUENCE",
            [x(2, 5, 3), const([2, 4])],
            [out()],
            "ReverseSequence",
            {"seqDim": 1, "batchDim": 0},
        ),
    ),
    Case(
        "depth to space", OneOp("DEPTH_TO_SPACE", [x(2, 3, 4, 8)], [out()], "DepthToSpace", {"blockSize": 2})
    ),
    Case(
        "space to depth", OneOp("SPACE_TO_DEPTH", [x(2, 4, 6, 3)], [out()], "SpaceToDepth", {"blockSize": 2})
    ),
    Case(
        "space to batch",
        OneOp(
            "SPACE_TO_BATCH_ND", [x(2, 4, 5, 3), const([2, 3]), const([[0, 2], [1, 0]], name="p")], [out()]
        ),
    ),
    Case(
        "batch to space",
        OneOp(
            "BATCH_TO_SPACE_ND", [x(12, 2, 3, 3), const([2, 3]), const([[1, 0], [0, 2]], name="p")], [out()]
        ),
    ),
    Case("shape", OneOp("SHAPE", [x(2, 3, 4)], [out("int32")], "Shape", {"outType": 2})),
    Case("fill", OneOp("FILL", [const([2, 3]), x()], [out()], "Fill")),
    Case("cast", OneOp("CAST", [x(2, 3)], [out("int32")], "Cast", {"inDataType": 0, "outDataType": 2})),
    Case(
        "slice", OneOp("SLICE", [x(3, 4, 5), const([1, 0, 2]), const([2, -1, 3], name="s")], [out()], "Slice")
    ),
    Case("gather", OneOp("GATHER", [x(3, 4, 5), const([2, 0])], [out()], "Gather", {"axis": 1})),
    Case("gather nd", OneOp("GATHER_ND", [x(3, 4, 5), const([[2, 0], [1, 3]])], [out()], "GatherNd")),
    Case(
        "scatter nd",
        OneOp("SCATTER_ND", [const([[1], [3]]), x(2, 4), const([5, 4], name="s")], [out()], "ScatterNd"),
    ),
    Case("embedding", OneOp("EMBEDDING_LOOKUP", [const([2, 0, 2]), x(4, 3)], [out()])),
    Case("arg max", OneOp("ARG_MAX", [x(2, 3, 4), const(1)], [out("int64")], "ArgMax", {"outputType": 4})),
    Case("arg min", OneOp("ARG_MIN", [x(2, 3, 4), const(-1)], [out("int32")], "ArgMin", {"outputType": 2})),
    Case("top k", OneOp("TOPK_V2", [x(2, 6), const(3)], [out(), out("int32", "i")], "TopKV2")),
    Case(
        "cumsum",
        OneOp("CUMSUM", [x(2, 5), const(1)], [out()], "Cumsum", {"exclusive": True, "reverse": True}),
    ),
    Case(
        "select",
        OneOp(
            "SELECT_V2", [x(2, 3, dtype="bool", name="m"), x(2, 3), x(1, 3, name="b")], [out()], "SelectV2"
        ),
    ),
    Case(
        "select rows",
        OneOp("SELECT", [x(2, dtype="bool", name="m"), x(2, 3), x(2, 3, name="b")], [out()], "Select"),
    ),
    Case(
        "one hot",
        OneOp(
            "ONE_HOT",
            [x(3, dtype="int32"), const(4), const(2.0, "float32", "on"), const(-1.0, "float32", "off")],
            [out()],
            "OneHot",
            {"axis": -1},
        ),
    ),
    Case(
        "batch matmul",
        OneOp("BATCH_MATMUL", [x(2, 3, 4), x(2, 5, 4, name="b")], [out()], "BatchMatMul", {"adjY": True}),
        bound=1e-5,
    ),
    Case(
        "fully connected",
        OneOp(
            "FULLY_CONNECTED",
            [x(2, 3, 4), weights(5, 4), weights(5, name="bias")],
            [out()],
            "FullyConnected",
            {"fusedActivationFunction": 1},
        ),
        bound=1e-5,
    ),
    Case(
        "fully connected, keep",
        OneOp(
            "FULLY_CONNECTED",
            [x(2, 3, 4), weights(5, 4), None],
            [out()],
            "FullyConnected",
            {"keepNumDims": True},
        ),
        bound=1e-5,
    ),
    Case(
        "conv 3d",
        OneOp(
            "CONV_3D",
            [x(1, 4, 5, 6, 2), weights(2, 3, 3, 2, 4), weights(4, name="bias")],
            [out()],
            "Conv3D",
            {
                "strideD": 1,
                "strideH": 2,
                "strideW": 1,
                "dilationDFactor": 1,
                "dilationHFactor": 1,
                "dilationWFactor": 1,
                "padding": SAME,
            },
        ),
        bound=1e-5,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
@pytest.mark.parametrize("opset", [13, 18])
def test_operator_agrees_with_tflite(case: Case, opset: int, tmp_path: Path) -> None:
    path = write(case.op, tmp_path / "model.tflite")
    request = ConvertRequest(str(path), opset=opset)
    converted = TfliteSource().convert(request)
    assert converted.model.opset_imports[""] == opset
    data = ir.to_proto(converted.model).SerializeToString()
    rng = np.random.default_rng(0)
    with TfliteSource().open(request) as native, OrtSession(data, optimization="off") as session:
        feeds = {spec.name: _random(rng, spec.shape, spec.dtype, case) for spec in native.inputs}
        expected, got = native.run(feeds), session.run(feeds)
    assert expected.keys() == got.keys()
    for name, reference in expected.items():
        assert got[name].dtype == reference.dtype
        assert got[name].shape == reference.shape
        if reference.dtype.kind == "f":
            bound = case.bound * max(1.0, float(np.abs(reference).max(initial=0.0)))
            np.testing.assert_allclose(got[name], reference, rtol=0, atol=bound)
        else:
            np.testing.assert_array_equal(got[name], reference)


def _random(rng: np.random.Generator, shape: tuple[Any, ...], dtype: str, case: Case) -> np.ndarray:
    sizes = tuple(int(size) for size in shape)
    if dtype == "bool":
        return rng.integers(0, 2, sizes).astype(bool)
    if dtype.startswith("int"):
        return rng.integers(1, 4, sizes).astype(dtype)
    return rng.uniform(case.low, case.high, sizes).astype(np.float32)
