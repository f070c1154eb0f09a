"""From what users have to an inference graph: factories, branches, frozen placeholders, outputs, edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from optim.errors import FairleadError, UnsupportedModelError, UserError
from pipeline.sources.contract import ConvertRequest, EdgeLayout, SourceFormat
from targets.reference import OrtSession
from tests.sources.tf_worker import Worker

pytestmark = pytest.mark.tensorflow

FACTORIES = "python:tests.sources.tf_factories"


def _ops(path: Path) -> set[str]:
    model = onnx.load(path)
    found = {node.op_type for node in model.graph.node}
    for node in model.graph.node:
        for attribute in node.attribute:
            found |= {inner.op_type for inner in attribute.g.node}
    return found


@pytest.mark.parametrize(
    ("factory", "inputs", "outputs"),
    [
        ("function", ["x"], ["scores"]),
        ("concrete", ["x"], ["output"]),
        ("module", ["x"], ["output"]),
        ("keras_model", ["keras_tensor"], ["scores"]),
    ],
)
def test_a_factory_makes_the_model(
    tf: Worker, tmp_path: Path, factory: str, inputs: list[str], outputs: list[str]
) -> None:
    request = ConvertRequest(f"{FACTORIES}:{factory}", allow_custom_code=True)
    done = tf.convert(request, tmp_path / "net.onnx")
    assert done.source_format is SourceFormat.TF_FUNCTION
    assert [spec.name.rstrip("_0123456789") for spec in done.inputs] == inputs
    assert [spec.name for spec in done.outputs] == outputs
    assert all(one.passed for one in done.parity)


def test_a_function_without_a_signature_takes_the_shapes_given(tf: Worker, tmp_path: Path) -> None:
    model = f"{FACTORIES}:without_signature"
    with pytest.raises(UserError, match="no input_signature") as refused:
        tf.convert(ConvertRequest(model, allow_custom_code=True), tmp_path / "net.onnx")
    assert "--inputs" in refused.value.hint
    request = ConvertRequest(model, inputs={"x": (2, 5)}, allow_custom_code=True)
    assert tf.convert(request, tmp_path / "net.onnx").outputs[0].shape == (2, 5)


def test_captured_values_become_initializers(tf: Worker, tmp_path: Path) -> None:
    request = ConvertRequest(f"{FACTORIES}:function", allow_custom_code=True)
    done = tf.convert(request, tmp_path / "net.onnx")
    graph = onnx.load(done.output).graph
    assert [value.name for value in graph.input] == ["x"]
    assert sorted(tuple(one.dims) for one in graph.initializer) == [(40, 200), (200,)]


@pytest.mark.parametrize(
    ("factory", "allowed", "error", "message"),
    [
        ("function", False, UserError, "is Python code, which is not run unasked"),
        ("number", True, UserError, "the factory returned a int"),
        ("nothing", True, UserError, "cannot import"),
        ("failing", True, UnsupportedModelError, "the weights are on the other machine"),
        ("random", True, UnsupportedModelError, "random op RandomUniform"),
        ("forgotten", True, UserError, "variables that are gone"),
    ],
)
def test_a_factory_that_gives_no_model_is_refused(
    tf: Worker, tmp_path: Path, factory: str, allowed: bool, error: type[FairleadError], message: str
) -> None:
    request = ConvertRequest(f"{FACTORIES}:{factory}", allow_custom_code=allowed)
    with pytest.raises(error, match=message):
        tf.convert(request, tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_a_checkpoint_without_meta_takes_its_graph_from_a_factory(tf: Worker, tmp_path: Path) -> None:
    prefix = tf.build("keep_prob", tmp_path / "model.ckpt")
    whole = tf.convert(ConvertRequest(str(prefix), outputs=("scores:0",)), tmp_path / "whole.onnx")
    Path(f"{prefix}.meta").unlink()
    with pytest.raises(UserError, match=r"no \.meta file") as refused:
        tf.convert(ConvertRequest(str(prefix)), tmp_path / "built.onnx")
    assert "--graph-factory" in refused.value.hint
    factory = "tests.sources.tf_factories:training_graph"
    with pytest.raises(UserError, match="not run unasked"):
        tf.convert(ConvertRequest(str(prefix), graph_factory=factory), tmp_path / "built.onnx")
    request = ConvertRequest(str(prefix), graph_factory=factory, allow_custom_code=True)
    built = tf.convert(request, tmp_path / "built.onnx")
    assert [spec.name for spec in built.outputs] == ["scores:0"]
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype(np.float32)
    with OrtSession(whole.output) as a, OrtSession(built.output) as b:
        want, got = a.run({"pictures:0": x}), b.run({"pictures:0": x})
    np.testing.assert_allclose(got["scores:0"], want["scores:0"], atol=1e-6)


@pytest.mark.parametrize("name", ["cond_v2_constant", "cond_v2_default", "cond_v2_switch"])
def test_branches_of_a_known_condition_are_resolved(tf: Worker, tmp_path: Path, name: str) -> None:
    model = tf.build(name, tmp_path / "net.pb")
    done = tf.convert(ConvertRequest(str(model), outputs=("y:0",)), tmp_path / "net.onnx")
    assert not {"If", "RandomNormalLike", "RandomNormal", "ReduceMean"} & _ops(done.output)
    assert [spec.name for spec in done.inputs] == ["x:0"]


def test_a_branch_that_depends_on_the_data_stays(tf: Worker, tmp_path: Path) -> None:
    model = tf.build("cond_v2_live", tmp_path / "net.pb")
    done = tf.convert(ConvertRequest(str(model), outputs=("y:0",)), tmp_path / "net.onnx")
    assert "If" in _ops(done.output)
    with OrtSession(done.output) as session:
        for sign in (1.0, -1.0):
            x = np.full((2, 3), sign, np.float32)
            want = x * 3 if sign > 0 else x - 1
            np.testing.assert_allclose(session.run({"x:0": x})["y:0"], want)


@pytest.mark.parametrize(
    ("model", "freeze", "message"),
    [
        ("keep_prob", {"keep": 1.0}, "no placeholder 'keep'"),
        ("keep_prob", {"kernel": 1.0}, "not a placeholder"),
    ],
)
def test_what_cannot_be_frozen_is_named(
    tf: Worker, tmp_path: Path, model: str, freeze: dict[str, float], message: str
) -> None:
    prefix = tf.build(model, tmp_path / "model.ckpt")
    with pytest.raises(FairleadError, match=message):
        tf.convert(ConvertRequest(str(prefix), freeze=freeze), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("model", "freeze", "node"),
    [
        ("keep_prob", {"k": 0.5}, "random_uniform/RandomUniform"),
        ("keep_prob", {"k:0": 0.25}, "random_uniform/RandomUniform"),
        ("rate_default", {"r": 0.5}, "dropout/random_uniform/RandomUniform"),
        ("switched_dropout", {"learning": True}, "cond/dropout/random_uniform/RandomUniform"),
    ],
)
def test_a_frozen_value_that_leaves_dropout_at_work_is_refused(
    tf: Worker, tmp_path: Path, model: str, freeze: dict[str, float], node: str
) -> None:
    prefix = tf.build(model, tmp_path / "model.ckpt")
    with pytest.raises(UnsupportedModelError, match="keeps the dropout") as refused:
        tf.convert(ConvertRequest(str(prefix), freeze=freeze), tmp_path / "model.onnx")
    assert (refused.value.op, refused.value.node) == ("RandomUniform", node)
    ((name, value),) = freeze.items()
    assert f"--freeze {name.removesuffix(':0')}={value}" in refused.value.what
    assert "dropout is then cut away" in refused.value.hint
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("model", "freeze"),
    [
        ("keep_prob", {"k": 1.0}),
        ("rate_default", {"r": 0.0}),
        ("switched_dropout", {"learning": False}),
        ("switched_dropout", {}),
        ("constant_dropout", {}),
    ],
)
def test_a_value_at_which_dropout_drops_nothing_is_taken(
    tf: Worker, tmp_path: Path, model: str, freeze: dict[str, float]
) -> None:
    prefix = tf.build(model, tmp_path / "model.ckpt")
    done = tf.convert(ConvertRequest(str(prefix), freeze=freeze), tmp_path / "model.onnx")
    asked = [(one.name, one.value) for one in done.frozen if "asked for" in one.why]
    assert asked == [(f"{name}:0", str(value)) for name, value in freeze.items()]
    assert not {"RandomUniform", "RandomUniformLike", "Floor", "If"} & _ops(done.output)


@pytest.mark.parametrize(("model", "file"), [("two_inputs_saved", "saved"), ("two_inputs", "model.keras")])
def test_an_input_of_a_function_is_frozen(tf: Worker, tmp_path: Path, model: str, file: str) -> None:
    path = tf.build(model, tmp_path / file)
    plain = tf.convert(ConvertRequest(str(path)), tmp_path / "plain.onnx")
    request = ConvertRequest(str(path), inputs={"x": (2, 3), "scale": (2, 1)}, freeze={"scale": 3.0})
    done = tf.convert(request, tmp_path / "model.onnx")
    assert [spec.name for spec in done.inputs] == ["x"]
    assert [(one.name, one.value) for one in done.frozen] == [("scale", "3.0")]
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    with OrtSession(plain.output) as a, OrtSession(done.output) as b:
        want = a.run({"x": x, "scale": np.full((2, 1), 3, np.float32)})
        got = b.run({"x": x})
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-6)


def test_an_input_with_free_dimensions_cannot_be_frozen(tf: Worker, tmp_path: Path) -> None:
    path = tf.build("two_inputs", tmp_path / "model.keras")
    with pytest.raises(FairleadError, match="free dimensions"):
        tf.convert(ConvertRequest(str(path), freeze={"scale": 3.0}), tmp_path / "model.onnx")


def test_a_switch_frozen_to_training_keeps_batch_statistics(tf: Worker, tmp_path: Path) -> None:
    prefix = tf.build("conditional_norm", tmp_path / "model.ckpt")
    trained = tf.convert(ConvertRequest(str(prefix), freeze={"switch_a:0": True}), tmp_path / "a.onnx")
    assert [(one.name, one.value) for one in trained.frozen] == [("switch_a:0", "True")]
    assert "ReduceMean" in _ops(trained.output)
    plain = tf.convert(ConvertRequest(str(prefix)), tmp_path / "b.onnx")
    assert "ReduceMean" not in _ops(plain.output)


@pytest.mark.parametrize("wanted", list(EdgeLayout))
@pytest.mark.parametrize(("name", "own"), [("channels_first", "nchw"), ("nearest", "nhwc")])
def test_the_edge_is_in_the_layout_asked_for(
    tf: Worker, tmp_path: Path, name: str, own: str, wanted: EdgeLayout
) -> None:
    model = tf.build(name, tmp_path / "net.pb")
    request = ConvertRequest(str(model), outputs=("y:0",), edge_layout=wanted)
    done = tf.convert(request, tmp_path / "net.onnx")
    plain = tf.convert(ConvertRequest(str(model), outputs=("y:0",)), tmp_path / "plain.onnx")
    assert [spec.name for spec in (*done.inputs, *done.outputs)] == ["x:0", "y:0"]
    turn = {"nhwcnchw": (0, 3, 1, 2), "nchwnhwc": (0, 2, 3, 1)}.get(own + wanted.value, (0, 1, 2, 3))
    for ours, theirs in zip((*done.inputs, *done.outputs), (*plain.inputs, *plain.outputs), strict=True):
        assert ours.shape == tuple(theirs.shape[axis] for axis in turn)
    assert any("edge layout" in note for note in done.notes) is (turn != (0, 1, 2, 3))
    assert all(one.passed for one in done.parity)
    x = np.random.default_rng(0).normal(size=plain.inputs[0].shape).astype(np.float32)
    with OrtSession(plain.output) as a, OrtSession(done.output) as b:
        want = a.run({"x:0": x})["y:0"]
        got = b.run({"x:0": np.ascontiguousarray(x.transpose(turn))})["y:0"]
    np.testing.assert_array_equal(got, want.transpose(turn))


def test_outputs_that_nobody_named_are_explained(tf: Worker, tmp_path: Path) -> None:
    prefix = tf.build("keep_prob", tmp_path / "model.ckpt")
    done = tf.convert(ConvertRequest(str(prefix)), tmp_path / "model.onnx")
    (note,) = [note for note in done.notes if note.startswith("outputs found")]
    assert "what the last trained layers compute, before losses and metrics" in note
    assert "labels set aside: anything:0" in note
    assert "others that could be named with --outputs: logits:0" in note
    named = tf.convert(ConvertRequest(str(prefix), outputs=("logits:0",)), tmp_path / "named.onnx")
    assert [spec.name for spec in named.outputs] == ["logits:0"]
    assert not any(note.startswith("outputs found") for note in named.notes)


def test_of_two_layouts_of_one_result_the_one_that_is_trained_is_the_output(
    tf: Worker, tmp_path: Path
) -> None:
    prefix = tf.build("two_layouts", tmp_path / "model.ckpt")
    done = tf.convert(ConvertRequest(str(prefix)), tmp_path / "model.onnx")
    assert [spec.name for spec in done.outputs] == ["last:0"]
    assert any("others that could be named with --outputs: first:0" in note for note in done.notes)


def test_a_shape_that_nobody_says_is_asked_for_by_its_line(tf: Worker, tmp_path: Path) -> None:
    model = tf.build("shapeless", tmp_path / "net.pb")
    with pytest.raises(UserError) as refused:
        tf.convert(ConvertRequest(str(model)), tmp_path / "net.onnx")
    assert refused.value.exit_code == 2
    assert "add --inputs 'x:0[1,224,224,3]' with your numbers" in refused.value.hint
    assert "model.inputs in the config" in refused.value.hint


@pytest.mark.parametrize(
    ("name", "file"), [("convolution", "model.keras"), ("keep_prob", "model.ckpt"), ("saved_model", "saved")]
)
def test_outputs_say_that_they_follow_the_batch(tf: Worker, tmp_path: Path, name: str, file: str) -> None:
    model = tf.build(name, tmp_path / file)
    done = tf.convert(ConvertRequest(str(model)), tmp_path / "model.onnx")
    assert {spec.shape[0] for spec in (*done.inputs, *done.outputs)} == {"batch"}


def test_outputs_that_do_not_follow_the_batch_do_not_say_so(tf: Worker, tmp_path: Path) -> None:
    model = tf.build("batch_doubled", tmp_path / "net.pb")
    done = tf.convert(ConvertRequest(str(model), outputs=("y:0", "z:0")), tmp_path / "model.onnx")
    assert done.inputs[0].shape[0] == "batch"
    assert [spec.shape[0] for spec in done.outputs][1] == "batch"
    assert done.outputs[0].shape[0] != "batch"
