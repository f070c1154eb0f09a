"""The ONNX source as a whole: untrusted files, signatures, foreign operators, the original as reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from optim.contract import Array
from optim.errors import FairleadError, UnsupportedModelError, UserError
from pipeline.sources.contract import ConvertRequest
from pipeline.sources.onnx import OnnxSource
from targets.reference import OrtSession

HEAD = '<ir_version: {ir}, opset_import: ["" : {opset}]>\n'


def write(
    path: Path, text: str, opset: int = 13, weights: Mapping[str, Array] | None = None, ir_version: int = 7
) -> Path:
    model = onnx.parser.parse_model(HEAD.format(ir=ir_version, opset=opset) + text)
    for name, array in (weights or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    path.write_bytes(model.SerializeToString())
    return path


def convert(path: Path, **request: object) -> ir.Model:
    return OnnxSource().convert(ConvertRequest(str(path), **request)).model  # type: ignore[arg-type]


def run(model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    with OrtSession(ir.to_proto(model).SerializeToString(), optimization="off") as session:
        return session.run(feeds)


def test_converted_agrees_with_the_original(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx",
        "g (float[N,4] x) => (float[N,3] y) { h = MatMul (x, w) y = Softmax (h) }",
        9,
        {"w": np.arange(12, dtype=np.float32).reshape(4, 3) / 7},
    )
    model = convert(path)
    assert model.opset_imports == {"": 18}
    feeds = {"x": np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)}
    with OnnxSource().open(ConvertRequest(str(path))) as native:
        expected = native.run(feeds)
    np.testing.assert_allclose(run(model, feeds)["y"], expected["y"], rtol=1e-6)


def test_two_conversions_are_equal_byte_for_byte(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx",
        "g (float[2,3,4] x) => (float[2,3,4] y) { c = Clip <min=0.0, max=6.0> (x) y = Softmax (c) }",
        9,
    )
    first, second = (ir.to_proto(convert(path)).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_a_newer_opset_is_kept_and_said(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "g (float[2] x) => (float[2] y) { y = Relu (x) }", 21, ir_version=10)
    converted = OnnxSource().convert(ConvertRequest(str(path), opset=18))
    assert converted.model.opset_imports[""] == 21
    assert any("opset 21" in note for note in converted.notes)


def test_weights_among_the_inputs_are_lifted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx",
        "g (float[2,3] x, float[3] w) => (float[2,3] y) { y = Add (x, w) }",
        7,
        {"w": np.ones(3, np.float32)},
        ir_version=3,
    )
    converted = OnnxSource().convert(ConvertRequest(str(path)))
    assert [value.name for value in converted.model.graph.inputs] == ["x"]
    assert any("initializers only" in note for note in converted.notes)


def test_unused_opset_imports_are_pruned(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "g (float[2] x) => (float[2] y) { y = Relu (x) }")
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    path.write_bytes(model.SerializeToString())
    assert set(convert(path).opset_imports) == {""}


def test_cut_and_frozen(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx",
        """g (float[2] x, float[1] keep, float[2] other) => (float[2] z) {
            a = Mul (x, keep)
            b = Relu (a)
            z = Add (b, other)
        }""",
    )
    converted = OnnxSource().convert(ConvertRequest(str(path), outputs=("b",), freeze={"keep": 2.0}))
    graph = converted.model.graph
    assert [value.name for value in graph.inputs] == ["x"]
    assert [value.name for value in graph.outputs] == ["b"]
    assert [frozen.name for frozen in converted.frozen] == ["keep"]
    got = run(converted.model, {"x": np.array([-1, 3], np.float32)})
    np.testing.assert_array_equal(got["b"], [0, 6])


def test_cut_at_an_inner_tensor(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx", "g (float[2] x) => (float[2] z) { a = Exp (x) b = Neg (a) z = Abs (b) }"
    )
    model = convert(path, inputs={"a": None}, outputs=("z",))
    assert [value.name for value in model.graph.inputs] == ["a"]
    np.testing.assert_array_equal(run(model, {"a": np.array([1, -2], np.float32)})["z"], [1, 2])


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"outputs": ("nothing",)}, "no tensor 'nothing'"),
        ({"inputs": {"x": (2, 2)}}, "rank 2"),
        ({"freeze": {"y": 1}}, "only an input"),
    ],
)
def test_wrong_requests_are_the_users_mistake(request_: dict[str, object], says: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "g (float[2] x) => (float[2] y) { y = Relu (x) }")
    with pytest.raises(UserError, match=says):
        convert(path, **request_)


def test_an_operator_that_exists_nowhere_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Tricks", ["x"], ["y"], name="t1", domain="com.example")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opsets)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError) as caught:
        convert(path)
    assert (caught.value.op, caught.value.node) == ("com.example::Tricks", "t1")


def test_operators_of_onnx_runtime_are_kept(tmp_path: Path) -> None:
    node = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    opsets = [helper.make_opsetid("", 11), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opsets, ir_version=7)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert convert(path).opset_imports == {"": 18, "com.microsoft": 1}


def test_model_functions_are_inlined(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 16, "own" : 1]>
    g (float[2] x) => (float[2] y) { y = own.Twice (x) }
    <domain: "own", opset_import: ["" : 16]>
    Twice (a) => (b) { b = Add (a, a) }
    """
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    model = convert(path)
    assert not model.functions
    assert [node.op_type for node in model.graph] == ["Add"]


def test_pooling_of_pytorch_before_0_4_counts_its_padding(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx",
        """g (float[1,1,2,2] x) => (float[1,1,3,3] y) {
            y = AveragePool <kernel_shape=[2,2], pads=[1,1,1,1]> (x)
        }""",
        6,
        ir_version=3,
    )
    model = onnx.load(path)
    feeds = {"x": np.ones((1, 1, 2, 2), np.float32)}
    corners = {}
    for version in ("0.3", "0.4"):
        model.producer_name, model.producer_version = "pytorch", version
        path.write_bytes(model.SerializeToString())
        corners[version] = float(run(convert(path), feeds)["y"][0, 0, 0, 0])
        with OnnxSource().open(ConvertRequest(str(path))) as native:
            assert float(native.run(feeds)["y"][0, 0, 0, 0]) == corners[version]
    assert corners == {"0.3": 0.25, "0.4": 1.0}


def test_ranges_of_large_integers_stay_exact(tmp_path: Path) -> None:
    start = 10**18 + 1
    path = write(
        tmp_path / "m.onnx",
        "g (int64[4] x) => (int64[4] y) { r = Range (a, b, c) y = Add (x, r) }",
        13,
        {"a": np.array(start), "b": np.array(start + 7), "c": np.array(2)},
    )
    got = run(convert(path), {"x": np.zeros(4, np.int64)})
    np.testing.assert_array_equal(got["y"], np.arange(4) * 2 + start)


@pytest.mark.parametrize(
    "location", ["../outside.bin", "/etc/hostname", "link.bin", "missing.bin", "short.bin"]
)
def test_external_data_stay_in_the_models_folder(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(64))
    (folder / "short.bin").write_bytes(bytes(3))
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    path = write(
        folder / "m.onnx",
        "g (float[4] x) => (float[4] y) { y = Add (x, w) }",
        13,
        {"w": np.zeros(4, np.float32)},
    )
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="external data"):
        convert(path)


def test_damaged_files_end_in_a_deliberate_error(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx",
        "g (float[2,4] x) => (float[2,3] y) { y = MatMul (x, w) }",
        9,
        {"w": np.ones((4, 3), np.float32)},
    )
    whole, rng, outcomes = path.read_bytes(), np.random.default_rng(0), set()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        outcomes.add(_outcome(path))
    for _ in range(150):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            broken[place] = int(rng.integers(0, 256))
        path.write_bytes(bytes(broken))
        outcomes.add(_outcome(path))
    assert "UserError" in outcomes


def _outcome(path: Path) -> str:
    try:
        convert(path)
    except FairleadError as error:
        return type(error).__name__
    return "converted"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        convert(tmp_path / "nothing.onnx")


def test_nodes_that_share_a_name_are_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "g (float[2,3] x) => (float[2,3] y) { h = Relu (x) y = Abs (h) }")
    proto = onnx.load(path)
    for node in proto.graph.node:
        node.name = "same"
    onnx.save(proto, path)
    converted = OnnxSource().convert(ConvertRequest(str(path)))
    assert [node.name for node in converted.model.graph] == ["same", "same__1"]
    assert "1 nodes bore the name of another and were renamed" in converted.notes
    x = np.array([[-1, 2, -3], [4, -5, 6]], np.float32)
    with OnnxSource().open(ConvertRequest(str(path))) as native:
        np.testing.assert_array_equal(native.run({"x": x})["y"], np.maximum(x, 0))


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_outputs_without_a_shape_get_one(tmp_path: Path, opset: int) -> None:
    path = write(tmp_path / "m.onnx", "g (float[2,3] x) => (float[2,3] y) { y = Transpose (x) }", opset)
    proto = onnx.load(path)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(proto, path)
    (output,) = convert(path).graph.outputs
    assert output.shape == ir.Shape([3, 2])


@pytest.mark.parametrize("opset", [18, 19, 20])
def test_a_withdrawn_group_normalisation_is_written_out(tmp_path: Path, opset: int) -> None:
    norm = "GroupNormalization <num_groups=3, epsilon=0.01> (x, s, b)"
    text = f"g (float[2,6,4,5] x) => (float[2,6,4,5] y) {{ y = {norm} }}"
    scale, bias = np.array([1, 2, 3], np.float32), np.array([0.5, -1, 0], np.float32)
    path = write(tmp_path / "m.onnx", text, opset, {"s": scale, "b": bias}, ir_version=9)
    model = convert(path)
    assert "GroupNormalization" not in [node.op_type for node in model.graph]
    x = np.random.default_rng(0).standard_normal((2, 6, 4, 5)).astype(np.float32)
    groups = x.reshape(2, 3, -1).astype(np.float64)
    mean, variance = groups.mean(-1, keepdims=True), groups.var(-1, keepdims=True)
    normal = (groups - mean) / np.sqrt(variance + 0.01) * scale[:, None] + bias[:, None]
    np.testing.assert_allclose(run(model, {"x": x})["y"], normal.reshape(x.shape), atol=1e-5)
    onnx.checker.check_model(ir.to_proto(model))
