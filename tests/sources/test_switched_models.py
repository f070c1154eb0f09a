"""What a model computes at inference, where that has to be found; and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from optim.errors import UnsupportedModelError
from pipeline.sources.contract import ConvertRequest
from targets.reference import OrtSession
from tests.sources.tf_worker import Worker

pytestmark = pytest.mark.tensorflow

_RANDOM = {"RandomUniform", "RandomUniformLike", "RandomNormal", "RandomNormalLike", "If", "Where"}


@pytest.mark.parametrize(
    ("name", "file", "inputs", "frozen"),
    [
        ("noise_unless_told", "model.ckpt", {"x:0": ("batch", 8)}, {"training:0": "False"}),
        ("rate_by_switch", "model.ckpt", {"x:0": ("batch", 8)}, {"training:0": "False"}),
        ("in_parts", "model.ckpt", {"x:0": ("batch", 16)}, {}),
        ("queued", "model.ckpt", {"shuffle_batch:0": (4, 8, 8, 3)}, {}),
        ("training_argument", "saved", {"x": ("batch", 4)}, {"training": "False"}),
    ],
)
def test_the_inference_graph_is_found(
    tf: Worker, tmp_path: Path, name: str, file: str, inputs: dict[str, object], frozen: dict[str, str]
) -> None:
    model = tf.build(name, tmp_path / file)
    done = tf.convert(ConvertRequest(str(model)), tmp_path / "model.onnx")
    assert {spec.name: spec.shape for spec in done.inputs} == inputs
    assert {one.name: one.value for one in done.frozen} == frozen
    assert all(one.passed for one in done.parity)
    assert not _RANDOM & {node.op_type for node in onnx.load(done.output).graph.node}


@pytest.mark.parametrize(
    ("name", "file", "freeze"),
    [
        ("noise_unless_told", "model.ckpt", {"training": True}),
        ("rate_by_switch", "model.ckpt", {"training": True}),
        ("training_argument", "saved", {"training": True}),
    ],
)
def test_training_that_was_asked_for_is_refused_where_it_is_random(
    tf: Worker, tmp_path: Path, name: str, file: str, freeze: dict[str, float]
) -> None:
    model = tf.build(name, tmp_path / file)
    with pytest.raises(UnsupportedModelError) as refused:
        tf.convert(ConvertRequest(str(model), freeze=freeze), tmp_path / "model.onnx")
    assert refused.value.op.startswith("Random")
    assert refused.value.node


def test_parts_of_a_variable_are_put_together(tf: Worker, tmp_path: Path) -> None:
    prefix = tf.build("in_parts", tmp_path / "model.ckpt")
    done = tf.convert(ConvertRequest(str(prefix)), tmp_path / "model.onnx")
    stored = tf.call("tests.sources.test_switched_models:stored", str(prefix), "s/w")
    assert isinstance(stored, np.ndarray)
    x = np.eye(16, dtype=np.float32)
    with OrtSession(done.output) as session:
        np.testing.assert_allclose(session.run({"x:0": x})["logits:0"], stored, rtol=1e-6)


def stored(prefix: str, name: str, _progress: object) -> object:
    """A variable's value in a checkpoint; called in the child."""
    import tensorflow

    return tensorflow.train.load_checkpoint(prefix).get_tensor(name)


@pytest.mark.parametrize(
    ("name", "file", "outputs"),
    [
        ("same_names", "saved", ["x_out", "y"]),
        ("keras_handed_through", "model.keras", ["x_1", "d"]),
    ],
)
def test_inputs_and_outputs_do_not_share_names(
    tf: Worker, tmp_path: Path, name: str, file: str, outputs: list[str]
) -> None:
    model = tf.build(name, tmp_path / file)
    done = tf.convert(ConvertRequest(str(model)), tmp_path / "model.onnx")
    assert [spec.name for spec in done.inputs] == ["x"]
    assert [spec.name for spec in done.outputs] == outputs
    assert all(one.passed for one in done.parity)


def test_a_stateful_layer_starts_anew_and_says_so(tf: Worker, tmp_path: Path) -> None:
    model = tf.build("keras_stateful", tmp_path / "model.keras")
    done = tf.convert(ConvertRequest(str(model)), tmp_path / "model.onnx")
    assert all(one.passed for one in done.parity)
    assert any("start from zero in every run" in note and "remembers" in note for note in done.notes)
