"""TensorFlow 1 models with branches, loops, arrays, tables and transforms, against TensorFlow's own answers.

Each case is compared on inputs that convert itself does not see: both branches, no round of a loop and many,
other batches, empty sequences. Stored in turn as a frozen graph, a checkpoint and a SavedModel.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from optim.errors import FairleadError, UnsupportedModelError
from pipeline.sources.contract import ConvertRequest
from tests.sources.tf_worker import Worker

pytestmark = pytest.mark.tensorflow

KINDS = ("frozen", "checkpoint", "saved")
LIMIT = 5e-6  # of the largest number, in float32 over a few rounds
FEWEST = {"branch": 26, "loop": 20, "array": 38, "recurrent": 30, "table": 8, "signal": 14}
REFUSED = {("table", "hashed"): "StringToHashBucketFast"}
ONLY = {("table", "from_file"): ("saved",)}  # whose contents other kinds do not hold


def _check(tf: Worker, family: str, name: str, kind: str, folder: Path) -> dict[str, object]:
    folder.mkdir()
    found = tf.call("tests.sources.tf_flow:check", family, name, kind, folder)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("family", FEWEST)
def test_every_case_answers_as_tensorflow_does(tf: Worker, tmp_path: Path, family: str) -> None:
    names = tf.call("tests.sources.tf_flow:names", family)
    assert isinstance(names, list)
    assert len(names) >= FEWEST[family]
    wrong: list[str] = []
    kinds = KINDS[1:] if family == "table" else KINDS
    for number, name in enumerate(names):
        kind = ONLY.get((family, name), kinds)[number % len(ONLY.get((family, name), kinds))]
        reason = REFUSED.get((family, name))
        try:
            found = _check(tf, family, name, kind, tmp_path / f"{name}_{kind}")
        except FairleadError as error:
            if reason is None or reason not in str(error) or not isinstance(error, UnsupportedModelError):
                wrong.append(f"{name} as {kind}: {error}")
            continue
        worst = found["worst"]
        assert isinstance(worst, float)
        if reason is not None or worst > LIMIT or found["frozen"]:
            wrong.append(f"{name} as {kind}: {found}")
    assert wrong == []


@pytest.mark.parametrize(
    ("family", "name", "has"),
    [
        ("recurrent", "lstm_lengths_v1", "LSTM"),
        ("recurrent", "gru_both_v1", "GRU"),
        ("branch", "with_weights_v1", "If"),
        ("loop", "nested_v2", "Loop"),
        ("table", "words", "LabelEncoder"),
    ],
)
def test_onnx_has_an_operator_for_it(tf: Worker, tmp_path: Path, family: str, name: str, has: str) -> None:
    ops = _check(tf, family, name, "checkpoint", tmp_path / name)["ops"]
    assert isinstance(ops, list)
    assert has in ops


@pytest.mark.parametrize(
    ("name", "kind"), [("labels", "frozen"), ("from_file", "checkpoint"), ("words", "frozen")]
)
def test_a_table_without_contents_is_refused(tf: Worker, tmp_path: Path, name: str, kind: str) -> None:
    with pytest.raises(UnsupportedModelError, match="contents of the look-up table 'hash_table'") as refused:
        _check(tf, "table", name, kind, tmp_path / name)
    assert refused.value.op == "LookupTableFindV2"
    assert "SavedModel" in refused.value.hint


def test_a_switch_that_draws_random_numbers_is_frozen_though_named(tf: Worker, tmp_path: Path) -> None:
    prefix = tf.build("switched_dropout", tmp_path / "model.ckpt")
    done = tf.convert(ConvertRequest(str(prefix), inputs={"learning:0": None}), tmp_path / "model.onnx")
    assert [one.name for one in done.frozen] == ["learning:0"]


def test_a_switch_of_statistics_stays_an_input_where_named(tf: Worker, tmp_path: Path) -> None:
    prefix = tf.build("conditional_norm", tmp_path / "model.ckpt")
    done = tf.convert(ConvertRequest(str(prefix), inputs={"switch_a:0": None}), tmp_path / "model.onnx")
    assert not done.frozen
    assert {spec.name for spec in done.inputs} == {"pictures:0", "switch_a:0"}
    assert all(one.passed for one in done.parity)


def test_a_keras_lstm_stays_one_operator(tf: Worker, tmp_path: Path) -> None:
    import onnx

    model = tf.build("recurrent", tmp_path / "model.keras")
    done = tf.convert(ConvertRequest(str(model)), tmp_path / "model.onnx")
    assert "LSTM" in [node.op_type for node in onnx.load(done.output).graph.node]
