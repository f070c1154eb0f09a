"""Integer, half-precision, hybrid and sparse TFLite models against TFLite's own interpreter."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.contract import Array
from pipeline.sources.contract import ConvertRequest
from pipeline.sources.tflite import TfliteSource
from pipeline.sources.tflite_sparse import densify
from targets.reference import OrtSession
from tests.sources.tflite_builder import OneOp, Operand, write

pytest.importorskip("ai_edge_litert")

RNG = np.random.default_rng(3)
SAME = 0


def quantized(name: str, shape: tuple[int, ...], scale: float, zero: int, dtype: str = "int8") -> Operand:
    return Operand(name, shape, dtype, scales=[scale], zero_points=[zero])


def filters(shape: tuple[int, ...], axis: int, dtype: str = "int8") -> Operand:
    data = RNG.integers(-127, 128, shape)
    scales = RNG.uniform(0.002, 0.02, shape[axis]).tolist()
    return Operand("w", shape, dtype, data, scales, [0] * shape[axis], axis)


def int_bias(source: Operand, weights: Operand) -> Operand:
    scales = [source.scales[0] * scale for scale in weights.scales]
    data = RNG.integers(-2000, 2000, len(scales))
    return Operand("bias", (len(scales),), "int32", data, scales, [0] * len(scales), 0)


def conv_case(act: int) -> OneOp:
    source, weights = quantized("x", (2, 9, 8, 4), 0.05, -3), filters((6, 3, 3, 4), 0)
    values = {"padding": SAME, "strideH": 2, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    operands = [source, weights, int_bias(source, weights)]
    output = quantized("y", (), 0.11, 5)
    options = {**values, "fusedActivationFunction": act, "_version": 3}
    return OneOp("CONV_2D", operands, [output], "Conv2D", options)


def depthwise_case() -> OneOp:
    source, weights = quantized("x", (1, 9, 8, 6), 0.05, -3), filters((1, 3, 3, 6), 3)
    values = {"padding": SAME, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    options = {**values, "depthMultiplier": 1, "fusedActivationFunction": 1, "_version": 3}
    operands = [source, weights, int_bias(source, weights)]
    return OneOp("DEPTHWISE_CONV_2D", operands, [quantized("y", (), 0.05, -128)], "DepthwiseConv2D", options)


def dense_case() -> OneOp:
    source = quantized("x", (3, 32), 0.04, 11)
    weights = Operand("w", (7, 32), "int8", RNG.integers(-127, 128, (7, 32)), [0.01], [0])
    bias = Operand("bias", (7,), "int32", RNG.integers(-2000, 2000, 7), [0.0004], [0])
    operands = [source, weights, bias]
    return OneOp(
        "FULLY_CONNECTED", operands, [quantized("y", (), 0.06, -9)], "FullyConnected", {"_version": 4}
    )


def pool_case(dtype: str) -> OneOp:
    zero = 7 if dtype == "int8" else 120
    source, output = quantized("x", (2, 8, 8, 16), 0.1, zero, dtype), quantized("y", (), 0.1, zero, dtype)
    values = {"padding": 1, "strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}
    return OneOp("AVERAGE_POOL_2D", [source], [output], "Pool2D", {**values, "_version": 2})


EXACT = {
    "convolution": conv_case(0),
    "convolution with relu": conv_case(1),
    "convolution with relu6": conv_case(3),
    "depthwise": depthwise_case(),
    "dense": dense_case(),
    "average pool, int8": pool_case("int8"),
    "average pool, uint8": pool_case("uint8"),
    "max pool": OneOp(
        "MAX_POOL_2D",
        [quantized("x", (2, 8, 8, 3), 0.1, 7)],
        [quantized("y", (), 0.1, 7)],
        "Pool2D",
        {"strideH": 2, "strideW": 2, "filterHeight": 3, "filterWidth": 3, "padding": SAME, "_version": 2},
    ),
    "batch matmul": OneOp(
        "BATCH_MATMUL",
        [quantized("x", (2, 5, 8), 0.03, 4), quantized("b", (2, 8, 6), 0.02, -5)],
        [quantized("y", (), 0.31, -7)],
        "BatchMatMul",
        {"_version": 2},
    ),
    "reshape": OneOp(
        "RESHAPE",
        [quantized("x", (2, 6), 0.1, 7), Operand("s", (2,), "int32", np.array([3, 4]))],
        [quantized("y", (), 0.1, 7)],
        "Reshape",
        {"newShape": [3, 4]},
    ),
    "pad": OneOp(
        "PAD",
        [quantized("x", (2, 6), 0.1, 7), Operand("p", (2, 2), "int32", np.array([[1, 0], [2, 1]]))],
        [quantized("y", (), 0.1, 7)],
        "Pad",
        {"_version": 2},
    ),
    "requantize": OneOp(
        "QUANTIZE",
        [Operand("x", (4, 50), "float32")],
        [quantized("y", (), 0.013, -20)],
        "Quantize",
        {},
    ),
}

ONE_STEP = {
    "add": OneOp(
        "ADD",
        [quantized("x", (2, 5, 6, 3), 0.031, 4), quantized("b", (2, 5, 6, 3), 0.052, -7)],
        [quantized("y", (), 0.07, 1)],
        "Add",
        {"_version": 2},
    ),
    "mul": OneOp(
        "MUL",
        [quantized("x", (2, 5, 6, 3), 0.031, 4), quantized("b", (2, 5, 6, 3), 0.052, -7)],
        [quantized("y", (), 0.2, 1)],
        "Mul",
        {"_version": 2},
    ),
    "logistic": OneOp(
        "LOGISTIC",
        [quantized("x", (4, 50), 0.05, 3)],
        [quantized("y", (), 1 / 256, -128)],
        "",
        {"_version": 2},
    ),
    "softmax": OneOp(
        "SOFTMAX",
        [quantized("x", (4, 10), 0.1, 3)],
        [quantized("y", (), 1 / 256, -128)],
        "Softmax",
        {"beta": 1.0, "_version": 2},
    ),
    "concatenation of scales": OneOp(
        "CONCATENATION",
        [quantized("x", (2, 3), 0.1, 0, "uint8"), quantized("b", (2, 4), 0.05, 9, "uint8")],
        [quantized("y", (), 0.1, 2, "uint8")],
        "Concatenation",
        {"axis": 1, "_version": 1},
    ),
}


def run(case: OneOp, folder: Path, level: Any = "off") -> tuple[Array, Array]:
    """(converted, native) outputs on random input over the whole range."""
    path = write(case, folder / "model.tflite")
    request = ConvertRequest(str(path))
    data = ir.to_proto(TfliteSource().convert(request).model).SerializeToString()
    rng = np.random.default_rng(1)
    with TfliteSource().open(request) as native, OrtSession(data, optimization=level) as session:
        feeds = {}
        for spec in native.inputs:
            sizes = tuple(int(d) for d in spec.shape if d is not None and not isinstance(d, str))
            if spec.dtype == "float32":
                feeds[spec.name] = rng.uniform(-2, 2, sizes).astype(np.float32)
            else:
                info = np.iinfo(spec.dtype)
                feeds[spec.name] = rng.integers(info.min, info.max + 1, sizes).astype(spec.dtype)
        return session.run(feeds)["y"], native.run(feeds)["y"]


@pytest.mark.parametrize("level", ["off", "all"])
@pytest.mark.parametrize("title", EXACT)
def test_equal_to_the_last_step(title: str, level: str, tmp_path: Path) -> None:
    got, expected = run(EXACT[title], tmp_path, level)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("title", ONE_STEP)
def test_within_one_step(title: str, tmp_path: Path) -> None:
    got, expected = run(ONE_STEP[title], tmp_path)
    assert got.dtype == expected.dtype
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1


def test_dequantized_to_float_rounding(tmp_path: Path) -> None:
    case = OneOp(
        "DEQUANTIZE", [quantized("x", (4, 50), 0.1, 7)], [Operand("y", ())], "Dequantize", {"_version": 2}
    )
    got, expected = run(case, tmp_path)
    np.testing.assert_allclose(got, expected, rtol=3e-7, atol=0)


def test_hybrid_weights_are_computed_in_float(tmp_path: Path) -> None:
    weights = Operand("w", (7, 32), "int8", RNG.integers(-127, 128, (7, 32)), [0.01], [0])
    case = OneOp(
        "FULLY_CONNECTED", [Operand("x", (3, 32)), weights, None], [Operand("y", ())], "FullyConnected"
    )
    got, expected = run(case, tmp_path)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    notes = TfliteSource().convert(ConvertRequest(str(tmp_path / "model.tflite"))).notes
    assert any("integer weights and float data" in note for note in notes)


def test_half_precision_weights(tmp_path: Path) -> None:
    stored = Operand("h", (4, 50), "float16", RNG.standard_normal((4, 50)).astype(np.float16))
    case = OneOp("DEQUANTIZE", [stored], [Operand("y", ())], "Dequantize", {"_version": 3})
    path = write(case, tmp_path / "model.tflite")
    model = TfliteSource().convert(ConvertRequest(str(path))).model
    with OrtSession(ir.to_proto(model).SerializeToString(), optimization="off") as session:
        got = session.run({})["y"]
    assert stored.data is not None
    np.testing.assert_array_equal(got, stored.data.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_sparse_weights_are_written_out(dtype: str, tmp_path: Path) -> None:
    matrix = RNG.integers(1, 9, (6, 10)) * (RNG.random((6, 10)) < 0.3)
    scales = [0.5] if dtype == "int8" else []
    stored = Operand("s", (6, 10), dtype, matrix, scales, sparse=True)
    result = Operand("y", (6, 10), dtype, scales=scales, zero_points=[0] if scales else [])
    path = write(OneOp("DENSIFY", [stored], [result], "Densify"), tmp_path / "model.tflite")
    request = ConvertRequest(str(path))
    model = TfliteSource().convert(request).model
    with OrtSession(ir.to_proto(model).SerializeToString(), optimization="off") as session:
        got = session.run({})["y"]
    np.testing.assert_array_equal(got, matrix)
    assert got.dtype == np.dtype(dtype)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([None, (2, 2), (1, 4)]),
    st.integers(0, 2**32 - 1),
)
def test_densify_restores_what_was_made_sparse(
    rows: int, columns: int, block: tuple[int, int] | None, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    high, wide = block or (1, 1)
    shape = (rows * high, columns * wide)
    kept = rng.random((rows, columns)) < 0.5
    dense = np.kron(kept, np.ones((high, wide))).astype(np.float32)
    dense *= rng.uniform(1, 2, shape).astype(np.float32)
    segments = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    indices = np.nonzero(kept)[1]
    blocks = dense.reshape(rows, high, columns, wide).transpose(0, 2, 1, 3)
    values = blocks[kept].reshape(-1)
    levels = [
        SimpleNamespace(format=0, denseSize=rows),
        SimpleNamespace(
            format=1,
            arraySegments=SimpleNamespace(values=segments),
            arrayIndices=SimpleNamespace(values=indices),
        ),
    ]
    order, block_map = [0, 1], None
    if block is not None:
        order, block_map = [0, 1, 2, 3], [0, 1]
        levels += [SimpleNamespace(format=0, denseSize=high), SimpleNamespace(format=0, denseSize=wide)]
    sparsity = SimpleNamespace(traversalOrder=order, blockMap=block_map, dimMetadata=levels)
    np.testing.assert_array_equal(densify(values, sparsity, shape), dense)
