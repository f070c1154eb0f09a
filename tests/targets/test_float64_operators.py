"""Every operator with a float64 kernel against ONNX Runtime without optimisation, on small graphs."""

# ruff: noqa: E501  the table of cases reads better in long lines

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optim.errors import UnsupportedModelError
from targets.float64.evaluate import KERNELS
from targets.reference import Float64Session, OrtSession

F, I64, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def one_node(op, inputs, constants=None, outputs=1, opset=18, domain="", **attributes):
    """A model of one node; ``inputs`` maps names to example arrays, ``constants`` follow them as initializers."""
    constants = constants or {}
    names = [*inputs, *constants]
    node = helper.make_node(
        op,
        [n if not n.startswith("_") else "" for n in names],
        [f"y{i}" for i in range(outputs)],
        name="node",
        domain=domain,
        **attributes,
    )
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(f"y{i}") for i in range(outputs)],
        [onnx.numpy_helper.from_array(v, n) for n, v in constants.items() if not n.startswith("_")],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def rand(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ints(*values):
    return np.array(values, dtype=np.int64)


X = {"x": rand(2, 3, 5, 6)}
XY = {"x": rand(2, 3, 4), "y": rand(1, 3, 1, seed=1)}
POSITIVE = {"x": np.abs(rand(2, 3, 4)) + 0.1}
MASK = {"a": rand(2, 3) > 0, "b": rand(2, 3, seed=1) > 0}
BN = {n: np.abs(rand(3, seed=i)) + 0.1 for i, n in enumerate(("scale", "shift", "mean", "var"))}

CASES = [
    ("OneHot", {"i": np.array([[0, 2], [-1, 5]], np.int64)}, {"depth": ints(4), "values": np.array([0.5, 2.0], np.float32)}, {}),
    ("OneHot", {"i": np.array([1, -3, 3], np.int64)}, {"depth": ints(3), "values": np.array([0, 1], np.int64)}, {"axis": 0}),
    ("Unique", {"x": np.array([3, 1, 3, 2, 1, 0], np.float32)}, {}, {"sorted": 0, "outputs": 4}),
    ("Unique", {"x": np.array([[3, 1], [2, 1]], np.float32)}, {}, {"outputs": 4}),
    *[(op, X, {}, {}) for op in (
        "Abs", "Ceil", "Cos", "Elu", "Celu", "Erf", "Exp", "Floor", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid",
        "HardSwish", "Identity", "LeakyRelu", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign",
        "Sin", "Softplus", "Softsign", "Tanh", "ThresholdedRelu", "Dropout", "Flatten", "Shape", "Size", "Transpose",
        "ReduceMean", "Softmax", "LogSoftmax",
    )],
    *[(op, POSITIVE, {}, {}) for op in ("Log", "Sqrt")],
    *[(op, XY, {}, {}) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "Equal", "Greater",
                                  "GreaterOrEqual", "Less", "LessOrEqual", "PRelu")],
    *[(op, MASK, {}, {}) for op in ("And", "Or")],
    ("Not", {"a": MASK["a"]}, {}, {}),
    ("Pow", POSITIVE, {"e": np.float32(1.7)}, {}),
    ("Div", {"x": ints(7, -7, 7, -7, 0)}, {"y": ints(2, 2, -2, -2, 3)}, {}),
    ("Where", {"c": MASK["a"], "x": rand(2, 3), "y": rand(1, 3, seed=2)}, {}, {}),
    ("Clip", X, {"low": np.float32(-0.5), "high": np.float32(0.3)}, {}),
    ("Clip", X, {"_": None, "high": np.float32(0.3)}, {}),
    ("Clip", X, {}, {"min": -0.5, "max": 0.25, "opset": 10}),
    ("Gelu", X, {}, {"opset": 20}),
    ("Gelu", X, {}, {"opset": 20, "approximate": "tanh"}),
    ("Conv", X, {"w": rand(4, 3, 3, 3), "b": rand(4)}, {"strides": [2, 1], "pads": [0, 1, 2, 1]}),
    ("Conv", X, {"w": rand(6, 1, 3, 3)}, {"group": 3, "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("Conv", X, {"w": rand(4, 3, 1, 1)}, {"strides": [2, 2]}),
    ("ConvTranspose", X, {"w": rand(3, 2, 3, 3), "b": rand(2)}, {"strides": [2, 2], "output_padding": [1, 1]}),
    ("ConvTranspose", X, {"w": rand(3, 2, 3, 3)}, {"strides": [2, 3], "pads": [1, 0, 0, 2], "dilations": [1, 2]}),
    ("ConvTranspose", X, {"w": rand(3, 2, 3, 3)}, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("ConvTranspose", X, {"w": rand(3, 2, 3, 3)}, {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ("ConvTranspose", X, {"w": rand(3, 2, 4, 4)}, {"strides": [2, 2], "output_shape": [11, 12]}),
    ("MaxPool", X, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("MaxPool", X, {}, {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "dilations": [1, 2]}),
    ("AveragePool", X, {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("AveragePool", X, {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1, "opset": 19}),
    ("AveragePool", X, {}, {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "opset": 19}),
    ("LpPool", X, {}, {"kernel_shape": [2, 2], "p": 3}),
    ("LRN", {"x": rand(2, 7, 3, 3)}, {}, {"size": 5, "alpha": 0.3, "beta": 0.6, "bias": 2.0}),
    ("BatchNormalization", X, BN, {"epsilon": 1e-3}),
    ("InstanceNormalization", X, {"s": rand(3), "b": rand(3)}, {}),
    ("LayerNormalization", X, {"s": rand(6), "b": rand(6)}, {}),
    ("LayerNormalization", X, {"s": rand(5, 6)}, {"axis": -2}),
    ("Softmax", X, {}, {"axis": 1}),
    ("Softmax", X, {}, {"opset": 12}),
    ("LogSoftmax", X, {}, {"axis": 2, "opset": 11}),
    ("Gemm", {"a": rand(4, 3)}, {"b": rand(5, 4), "c": rand(5)}, {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("MatMul", {"a": rand(2, 4, 3)}, {"b": rand(3, 5)}, {}),
    ("Einsum", {"a": rand(2, 4, 3), "b": rand(3, 5)}, {}, {"equation": "abc,cd->adb"}),
    ("Concat", XY | {"y": rand(2, 3, 2)}, {}, {"axis": -1}),
    ("Cast", X, {}, {"to": TensorProto.INT32}),
    ("Cast", {"x": rand(3) > 0}, {}, {"to": F}),
    ("ConstantOfShape", {}, {"s": ints(2, 3)}, {"value": helper.make_tensor("v", F, [1], [2.5])}),
    ("Expand", {"x": rand(3, 1)}, {"s": ints(2, 1, 6)}, {}),
    ("Gather", X, {"i": ints(0, 2, -1)}, {"axis": 1}),
    ("Pad", X, {"p": ints(0, 0, 1, 2, 0, 1, 0, 3), "v": np.float32(1.5)}, {}),
    ("Pad", X, {"p": ints(0, 0, 1, 2, 0, 0, 2, 1)}, {"mode": "reflect"}),
    ("Pad", X, {"p": ints(1, 2), "v": np.float32(0), "a": ints(-1)}, {}),
    ("Pad", X, {"p": ints(0, 0, -1, 0, 0, 0, 0, 1)}, {}),  # a crop
    ("Range", {"a": np.array(2, np.int64), "b": np.array(11, np.int64), "c": np.array(3, np.int64)}, {}, {}),
    ("Reshape", X, {"s": ints(0, -1, 6)}, {}),
    ("Slice", X, {"s": ints(4, 0), "e": ints(-100, 2), "a": ints(2, 1), "t": ints(-2, 1)}, {}),
    ("Split", X, {}, {"axis": -2, "num_outputs": 2, "outputs": 2}),
    ("Split", X, {"s": ints(1, 2)}, {"axis": 1, "outputs": 2}),
    ("Squeeze", {"x": rand(1, 3, 1)}, {"a": ints(-1)}, {}),
    ("Unsqueeze", {"x": rand(3, 2)}, {"a": ints(0, -1)}, {}),
    ("Tile", {"x": rand(3, 2)}, {"r": ints(2, 3)}, {}),
    ("DepthToSpace", {"x": rand(1, 8, 2, 3)}, {}, {"blocksize": 2}),
    ("DepthToSpace", {"x": rand(1, 8, 2, 3)}, {}, {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", {"x": rand(1, 2, 4, 6)}, {}, {"blocksize": 2}),
    *[(op, X, {"a": ints(1, -1)}, {"keepdims": k}) for k in (0, 1) for op in (
        "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
        "ReduceSumSquare")],
    ("QuantizeLinear", X, {"s": np.float32(0.02), "z": np.uint8(120)}, {}),
    ("QuantizeLinear", X, {"s": np.abs(rand(3)) + 0.01, "z": np.zeros(3, np.int8)}, {"axis": 1}),
    ("DequantizeLinear", {"x": np.arange(24, dtype=np.int8).reshape(2, 3, 4)},
     {"s": np.abs(rand(3)), "z": np.array([1, 2, 3], np.int8)}, {"axis": 1}),
    ("Upsample", X, {"s": np.array([1, 1, 2, 3], np.float32)}, {"opset": 9}),
    ("Upsample", X, {"s": np.array([1, 1, 2, 2], np.float32)}, {"opset": 9, "mode": "linear"}),
    ("TopK", {"x": rand(3, 7)}, {"k": ints(3)}, {"outputs": 2}),  # no kernel of ours: the reference one
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[3]}"[:60])
def test_operator_agrees_with_onnxruntime(case):
    op, inputs, constants, attributes = case
    data = one_node(op, inputs, constants, **attributes).SerializeToString()
    want = OrtSession(data, optimization="off").run(inputs)
    got = run(data, inputs)
    assert want.keys() == got.keys()
    for name, value in want.items():
        assert got[name].shape == value.shape
        if value.dtype.kind == "f":
            assert got[name].dtype == np.float64
            np.testing.assert_allclose(got[name], value, rtol=2e-5, atol=2e-6)
        else:
            np.testing.assert_array_equal(got[name], value)


def run(data, feeds):
    import onnx_ir as ir

    return Float64Session(ir.from_proto(onnx.load_model_from_string(data))).run(feeds)


COORDINATES = ["half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric"]


@pytest.mark.parametrize("coordinate", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("sizes", [(1, 2, 10, 9), (1, 2, 3, 4), (1, 2, 5, 12)])
def test_resize_agrees_with_onnxruntime(mode, coordinate, sizes):
    inputs = {"x": rand(1, 2, 5, 6)}
    constants = {"_r": None, "_s": None, "n": ints(*sizes)}
    data = one_node(
        "Resize", inputs, constants, mode=mode, coordinate_transformation_mode=coordinate, opset=19
    ).SerializeToString()
    want = OrtSession(data, optimization="off").run(inputs)["y0"]
    np.testing.assert_allclose(run(data, inputs)["y0"], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest_rounding_agrees_with_onnxruntime(rounding):
    inputs = {"x": rand(1, 1, 4, 5)}
    constants = {"_r": None, "s": np.array([1, 1, 2, 0.5], np.float32)}
    data = one_node("Resize", inputs, constants, mode="nearest", nearest_mode=rounding).SerializeToString()
    want = OrtSession(data, optimization="off").run(inputs)["y0"]
    np.testing.assert_array_equal(run(data, inputs)["y0"].astype(np.float32), want)


def test_the_size_of_a_resize_is_computed_as_runtimes_do():
    """7 times float32(11 / 7) is 11 in float32 and just below in float64."""
    for length, wanted in ((7, 11), (9, 5), (7, 4), (9, 13), (3, 7)):
        scale = np.float32(wanted) / np.float32(length)
        inputs = {"x": rand(1, 1, length, length)}
        constants = {"_r": None, "s": np.array([1, 1, scale, scale], np.float32)}
        for mode in ("nearest", "linear"):
            data = one_node(
                "Resize", inputs, constants, mode=mode, coordinate_transformation_mode="asymmetric"
            ).SerializeToString()
            want = OrtSession(data, optimization="off").run(inputs)["y0"]
            np.testing.assert_allclose(run(data, inputs)["y0"], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trips", [0, 1, 5])
def test_what_a_loop_collects_is_stacked(trips):
    """Scan outputs gain an axis; a loop may stop by its own condition, and may never run."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (float[2,3] x, int64 n) => (float[2,3] z, float[k,2,3] all, int64[k] steps)
    {
      t = Constant <value_int = 1> ()
      tb = Cast <to = 9> (t)
      z, all, steps = Loop (n, tb, x) <
        body = l (int64 i, bool go, float[2,3] s) => (bool again, float[2,3] r, float[2,3] c, int64 j) {
          three = Constant <value_int = 3> ()
          again = Less (i, three)
          r = Add (s, x)
          c = Identity (s)
          j = Identity (i)
        }
      >
    }
    """
    data = onnx.parser.parse_model(text).SerializeToString()
    feeds = {"x": rand(2, 3), "n": np.array(trips, np.int64)}
    want = OrtSession(data, optimization="off").run(feeds)
    got = run(data, feeds)
    for name, value in want.items():
        assert got[name].shape == value.shape, name
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6)


def test_every_kernel_is_tried():
    """A kernel without a case here would be an untested claim."""
    tried = {case[0] for case in CASES} | {"Resize"}
    assert set(KERNELS) - tried <= {"Constant", "Swish"}


def test_constant_nodes_and_branches_and_loops():
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (float[3] x, bool c, int64 n) => (float[3] y, float[3] z)
    <float[3] w = {0.1, 0.2, 0.3}>
    {
      k = Constant <value_floats = [1.5, 2.5, 3.5]> ()
      y = If (c) <
        then_branch = a () => (float[3] p) { p = Add (x, k) },
        else_branch = b () => (float[3] q) { u = Mul (x, w)  q = Sub (u, k) }
      >
      t = Constant <value_int = 1> ()
      tb = Cast <to = 9> (t)
      z = Loop (n, tb, x) <
        body = l (int64 i, bool go, float[3] s) => (bool again, float[3] r) {
          again = Identity (go)  r = Add (s, w)
        }
      >
    }
    """
    model = onnx.parser.parse_model(text)
    data = model.SerializeToString()
    for condition in (True, False):
        feeds = {"x": rand(3), "c": np.array(condition), "n": np.array(4, np.int64)}
        want = OrtSession(data, optimization="off").run(feeds)
        got = run(data, feeds)
        for name in ("y", "z"):
            np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6)
            assert got[name].dtype == np.float64


def test_swish_of_opset_24():
    data = one_node("Swish", {"x": rand(4)}, opset=24, alpha=0.5)
    x = rand(4).astype(np.float64)
    got = run(data.SerializeToString(), {"x": rand(4)})["y0"]
    np.testing.assert_allclose(got, x / (1 + np.exp(-0.5 * x)), rtol=1e-12)


@pytest.mark.parametrize(
    ("op", "domain", "said"),
    [("RandomNormalLike", "", "random numbers"), ("Mystery", "some.vendor", "no float64 implementation")],
)
def test_what_has_no_single_truth_is_refused(op, domain, said):
    import onnx_ir as ir

    model = one_node(op, {"x": rand(3)}, domain=domain)
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    with pytest.raises(UnsupportedModelError, match=said) as caught:
        Float64Session(ir.from_proto(model)).run({"x": rand(3)})
    assert caught.value.node == "node"
