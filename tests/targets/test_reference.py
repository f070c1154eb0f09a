"""The reference runs: plain ONNX Runtime as oracle, sessions that check their inputs, float64."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import targets.reference as reference
from optim.contract import TensorSpec
from optim.errors import MissingRuntimeError, UserError
from targets.contract import Session
from targets.reference import Float64Session, OrtOracle, OrtSession
from targets.validate_feeds import validate_feeds

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3] x) => (float[N, 2] y)
<float[3, 2] w = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}>
{ h = MatMul (x, w)  y = Relu (h) }
"""
X = np.array([[1, 2, 3], [-1, -2, -3]], np.float32)


def small() -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(TEXT))


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "small.onnx"
    ir.save(small(), file)
    return file


@pytest.mark.parametrize("open_session", [OrtSession, Float64Session])
def test_sessions_follow_the_contract(path, open_session):
    session: Session = open_session(path)
    with session:
        assert [(s.name, s.shape) for s in session.inputs] == [("x", ("N", 3))]
        assert [s.name for s in session.outputs] == ["y"]
        got = session.run({"x": X})
    assert got.keys() == {"y"}
    np.testing.assert_allclose(got["y"], [[2.2, 2.8], [0, 0]], rtol=1e-6)


def test_float64_keeps_the_models_own_weights(path):
    """The truth is of the float32 weights as stored, not of the decimal numbers they came from."""
    got = Float64Session(path).run({"x": X})["y"]
    w = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], np.float32).astype(np.float64)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, np.maximum(X.astype(np.float64) @ w, 0))


def test_float64_takes_feeds_finer_than_float32(path):
    fine = X + np.array([1e-12, 0, 0])
    moved = Float64Session(path).run({"x": fine})["y"] - Float64Session(path).run({"x": X})["y"]
    np.testing.assert_allclose(moved[0], [1e-13, 2e-13], rtol=1e-3)


@pytest.mark.parametrize("open_session", [OrtSession, Float64Session])
def test_intermediate_tensors_can_be_exposed(path, open_session):
    got = open_session(path, expose=["h"]).run({"x": X})
    np.testing.assert_allclose(got["h"], [[2.2, 2.8], [-2.2, -2.8]], rtol=1e-6)
    with pytest.raises(UserError, match="no tensor named 'nothing'"):
        open_session(path, expose=["nothing"])


@pytest.mark.parametrize("open_session", [OrtSession, Float64Session])
@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, r"missing \['x'\]"),
        ({"x": X, "z": X}, r"unknown \['z'\]"),
        ({"x": X.astype(np.int32)}, r"int32\[2, 3\][\s\S]*x float32\[N, 3\]"),
        ({"x": X[:, :2]}, r"float32\[2, 2\][\s\S]*x float32\[N, 3\]"),
        ({"x": X[0]}, r"float32\[3\][\s\S]*x float32\[N, 3\]"),
    ],
)
def test_misfit_feeds_are_refused_with_both_sides(path, open_session, feeds, said):
    with pytest.raises(UserError, match=said):
        open_session(path).run(feeds)


def test_one_symbol_has_one_size():
    specs = (TensorSpec("a", "float32", ("N", 2)), TensorSpec("b", "float32", ("N",)))
    validate_feeds(specs, {"a": np.zeros((3, 2), np.float32), "b": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="dimension 'N' is 3 in a and 4 in b"):
        validate_feeds(specs, {"a": np.zeros((3, 2), np.float32), "b": np.zeros(4, np.float32)})


def test_missing_and_damaged_files_are_the_users_mistake(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    for open_session in (OrtSession, Float64Session):
        with pytest.raises(UserError):
            open_session(tmp_path / "none.onnx")
        with pytest.raises(UserError):
            open_session(tmp_path / "bad.onnx")


def test_an_absent_provider_is_named(path):
    with pytest.raises(MissingRuntimeError, match="NoSuchProvider"):
        OrtSession(path, providers=["NoSuchProvider"])


def test_settings_say_how_it_ran(path):
    settings = OrtSession(path, optimization="basic", threads=2, allow_spinning=True).settings
    assert settings["optimization"] == "basic"
    assert (settings["threads"], settings["allow_spinning"]) == ("2", "true")


def test_the_oracle_sees_every_change_of_the_model():
    """Weights replaced, weights overwritten in place, nodes rewired: the oracle never answers from memory."""
    model, oracle = small(), OrtOracle()
    first = oracle(model, {"x": X})["y"]
    np.testing.assert_array_equal(first, oracle(model, {"x": X})["y"])
    weight = model.graph.initializers["w"]
    array = np.ones((3, 2), np.float32)
    weight.const_value = ir.tensor(array, name="w")
    np.testing.assert_array_equal(oracle(model, {"x": X})["y"][0], [6, 6])
    array[:] = 2
    np.testing.assert_array_equal(oracle(model, {"x": X})["y"][0], [12, 12])
    relu = model.graph.node(1)
    relu.op_type = "Neg"
    np.testing.assert_array_equal(oracle(model, {"x": X})["y"][0], [-12, -12])


def test_the_oracle_does_not_change_the_model():
    model = small()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    OrtOracle()(model, {"x": X})
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_the_oracle_keeps_few_models():
    oracle = OrtOracle(keep=1)
    for scale in range(3):
        model = small()
        model.graph.initializers["w"].const_value = ir.tensor(np.full((3, 2), scale, np.float32), name="w")
        assert oracle(model, {"x": X})["y"][0, 0] == 6 * scale
    assert len(oracle._sessions) == 1


def test_large_models_go_through_a_file(monkeypatch):
    """The route of models beyond protobuf's 2 GiB, tried with the limit lowered."""
    monkeypatch.setattr(reference, "IN_MEMORY_BYTES", 8)
    np.testing.assert_allclose(OrtOracle()(small(), {"x": X})["y"][0], [2.2, 2.8], rtol=1e-6)


def test_values_are_freed_after_their_last_reader():
    """A chain of 50 layers holds a few of its values at once, not all."""
    body = "".join(f"  v{i + 1} = Relu (v{i})\n" for i in range(50))
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[4] v0) => (float[4] v50) {{\n{body}}}'
    evaluator = Float64Session(ir.from_proto(onnx.parser.parse_model(text))).evaluator
    sizes = []
    original = evaluator._node

    def counted(node, environment):
        sizes.append(len(environment))
        return original(node, environment)

    evaluator._node = counted  # type: ignore[method-assign]
    evaluator.run({"v0": np.ones(4, np.float32)}, ("v50",))
    assert len(sizes) == 50
    assert max(sizes) <= 2


@pytest.mark.corpus
def test_float64_agrees_with_onnxruntime_on_real_models(corpus):
    """Every real ONNX model that both can run; what float64 cannot do is refused, not guessed."""
    import json

    from optim.errors import UnsupportedModelError

    compared, refused = 0, []
    for item in json.loads((corpus / "manifest.json").read_text()):
        folder = corpus / item["family"] / item["name"]
        if item["kind"] != "onnx" or item["family"] == "onnx_light" or not (folder / "io.npz").exists():
            continue
        stored = np.load(folder / "io.npz", allow_pickle=False)
        feeds = {k[3:]: stored[k] for k in stored.files if k.startswith("in|")}
        try:
            want = OrtSession(folder / "model.onnx", optimization="off").run(feeds)
        except (UserError, UnsupportedModelError):
            continue  # ONNX Runtime itself cannot
        try:
            got = Float64Session(folder / "model.onnx").run(feeds)
        except UnsupportedModelError as error:
            refused.append(error.op)
            continue
        for name, value in want.items():
            if value.dtype == object or value.size == 0:
                continue
            assert got[name].shape == value.shape, (item["name"], name)
            scale = np.abs(value).max() or 1
            assert np.abs(got[name] - value.astype(np.float64)).max() <= 2e-5 * scale, (item["name"], name)
            compared += 1
    assert compared > 150
    assert all(op.startswith("QLinear") for op in refused), refused
