"""The whole comparison on real small networks: what passes, what fails and what is refused."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from optim.contract import TensorSpec
from optim.errors import UserError
from optim.heads import saturating_heads
from optim.passes.freeze_shapes import FreezeShapes
from pipeline.config import GateConfig, ParityConfig
from pipeline.feeds import Dataset
from pipeline.parity.heads import comparable
from pipeline.parity.study import compare_models, feeds_for, study
from pipeline.records import ParityRecord
from targets.reference import Float64Session, OrtSession

from .networks import classifier

CONFIG = ParityConfig(batch_sizes=(1, 3))


class Rounded:
    """A source that computes in float64 and hands out float32, as an exact framework would."""

    def __init__(self, path, change=None):
        self._inner = Float64Session(path)
        self._change = change or (lambda outputs: outputs)
        self.inputs = self._inner.inputs
        self.outputs = tuple(TensorSpec(o.name, "float32", o.shape) for o in self._inner.outputs)

    def run(self, feeds):
        return self._change({k: v.astype(np.float32) for k, v in self._inner.run(feeds).items()})

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def saved(model, folder, name):
    path = folder / f"{name}.onnx"
    ir.save(model, path)
    return path


@pytest.fixture
def paths(tmp_path):
    return saved(classifier(), tmp_path, "converted"), saved(classifier(), tmp_path, "optimized")


def data(examples=40):
    rng = np.random.default_rng(3)
    return Dataset({"x": rng.random((examples, 3, 16, 16), dtype=np.float32)})


def test_the_same_model_passes(paths):
    seen = []
    record = study(Rounded(paths[0]), *paths, data(), CONFIG, lambda text, done: seen.append((text, done)))
    assert record.passed
    assert record.status == "ok"
    questions = {(c.question, c.feed.split("/")[0]) for c in record.comparisons}
    feeds = {"zeros", "random(seed=0)", "constant", "one-hot", "large", "data[0:40]"}
    assert questions == {(q, f) for q in ("source_vs_converted", "before_vs_after") for f in feeds}
    assert {c.feed.rsplit("=", 1)[1] for c in record.comparisons if c.feed.startswith("zeros")} == {"1", "3"}
    anchored = [c for c in record.comparisons if c.output != "y"]  # "y": only beside its log-probabilities
    assert len(anchored) > len(record.comparisons) / 2
    assert all(c.source_error is not None and c.b_error is not None for c in anchored)
    assert [a.contender for a in record.accuracy] == ["source", "converted", "optimized"]
    assert all(a.accuracy is None and a.top1_agreement == 1 for a in record.accuracy)
    assert record.runtime_settings["converted.optimization"] == "off"
    assert record.runtime_settings["optimized.optimization"] in {"all", "extended", "basic", "off"}
    assert record.runtime_settings["converted.threads"] == "1"
    assert [done for _, done in seen] == sorted(done for _, done in seen)
    assert ParityRecord.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize("size", [1, 4])
def test_an_optimised_model_of_one_batch_size_is_compared_at_it(paths, tmp_path, size):
    fixed = classifier()
    FreezeShapes({"x": (size, 3, 16, 16)}, batch=None).apply(fixed)
    optimized = saved(fixed, tmp_path, "fixed")
    assert OrtSession(optimized).inputs[0].shape == (size, 3, 16, 16)
    record = study(Rounded(paths[0]), paths[0], optimized, data(), CONFIG)
    assert record.passed
    assert {c.feed.rsplit("=", 1)[1] for c in record.comparisons if c.feed.startswith("zeros")} == {str(size)}
    assert [a.examples for a in record.accuracy] == [40] * 3


def test_accuracy_is_counted_on_labels(paths):
    labelled = data()
    scores = OrtSession(paths[0]).run(labelled.feeds)["y"]
    labels = scores.argmax(axis=1)
    labels[:10] = (labels[:10] + 1) % 10
    labelled = Dataset(labelled.feeds, labels.astype(np.int64))
    record = study(Rounded(paths[0]), *paths, labelled, CONFIG)
    assert [a.accuracy for a in record.accuracy] == [0.75] * 3
    strict = CONFIG.model_copy(update={"gate": GateConfig(min_accuracy=0.8)})
    record = study(Rounded(paths[0]), *paths, labelled, strict)
    assert not record.passed
    assert any("accuracy 0.7500, below 0.8000" in r for r in record.reasons)


def test_a_changed_source_is_found(paths):
    def warp(outputs):
        y = outputs["y"].copy()
        y[:, 0] *= 1.001
        return {"y": y}

    record = study(Rounded(paths[0], warp), *paths, None, CONFIG)
    assert not record.passed
    assert record.status == "gate_not_met"
    failed = {c.question for c in record.comparisons if not c.passed}
    assert failed == {"source_vs_converted"}
    assert record.metrics.max_abs_over_range > 2e-5


def test_a_changed_optimised_model_is_found(paths, tmp_path):
    model = classifier()
    bias = model.graph.initializers["weight_1"]
    bias.const_value = ir.tensor(bias.const_value.numpy() * np.float32(1.01), name="weight_1")
    record = study(Rounded(paths[0]), paths[0], saved(model, tmp_path, "wrong"), None, CONFIG)
    assert {c.question for c in record.comparisons if not c.passed} == {"before_vs_after"}
    reader = next(n for n in model.graph if any(v.name == "weight_1" for v in n.inputs))
    assert record.first_divergence is not None
    assert record.first_divergence.node == reader.name
    assert record.first_divergence.detail
    assert record.first_divergence.feed in {c.feed for c in record.comparisons if not c.passed}


def test_the_smallest_models_that_part_are_written_where_asked(paths, tmp_path):
    model = classifier()
    bias = model.graph.initializers["weight_1"]
    bias.const_value = ir.tensor(bias.const_value.numpy() * np.float32(1.01), name="weight_1")
    wrong = saved(model, tmp_path, "wrong")
    record = study(Rounded(paths[0]), paths[0], wrong, None, CONFIG, divergence=tmp_path / "part")
    assert record.first_divergence is not None
    assert record.first_divergence.folder == str(tmp_path / "part")
    assert (tmp_path / "part" / "reproduce.py").is_file()


def test_a_source_that_names_other_classes_is_found(paths):
    def swap(outputs):
        return {"y": outputs["y"][:, ::-1].copy()}

    record = study(Rounded(paths[0], swap), *paths, data(), CONFIG)
    assert any("names the source's class on" in r for r in record.reasons)


def test_non_finite_results_are_a_finding(paths):
    def poison(outputs):
        y = outputs["y"].copy()
        y[0, 0] = np.nan
        return {"y": y}

    record = study(Rounded(paths[0], poison), *paths, None, CONFIG)
    bad = [c for c in record.comparisons if not c.passed]
    assert {c.question for c in bad} == {"source_vs_converted"}
    assert "source holds 1 NaN" in bad[0].reasons[0]


def test_without_float64(paths):
    record = study(Rounded(paths[0]), *paths, None, CONFIG.model_copy(update={"float64": False}))
    assert record.passed
    assert all(c.source_error is None for c in record.comparisons)
    assert record.runtime_settings["float64_truth"] == "none"


# --- heads ---------------------------------------------------------------------------------------


def test_the_softmax_head_is_found():
    heads = saturating_heads(classifier())
    assert heads["y"].op == "Softmax"
    assert heads["y"].logits == "logits:0"
    assert not saturating_heads(classifier(softmax=False))


def test_saturation_hides_nothing():
    """Logits far apart: the softmax outputs are bit-equal, the log-probabilities and logits are not."""
    heads = saturating_heads(classifier())
    a = {"y": np.array([[1, 1e-20, 0]], np.float32), "logits:0": np.array([[90, 44, -90]], np.float32)}
    b = {"y": np.array([[1, 2e-20, 0]], np.float32), "logits:0": np.array([[90, 44.7, -80]], np.float32)}
    assert np.abs(a["y"] - b["y"]).max() < 1e-19
    pairs = comparable(a, b, heads, heads, ("y",))
    assert pairs.keys() == {"y as log-probabilities", "y before Softmax", "y"}
    left, right = pairs["y as log-probabilities"]
    np.testing.assert_allclose(np.abs(left - right), [0, np.log(2)], atol=1e-6)


def test_a_probability_that_vanished_on_one_side_only_shows():
    heads = saturating_heads(classifier())
    a, b = {"y": np.array([[0.9, 0.1]], np.float32)}, {"y": np.array([[1.0, 0.0]], np.float32)}
    assert comparable(a, b, heads, heads, ("y",)).keys() == {"y"}


# --- two models ----------------------------------------------------------------------------------


def test_compare_models(paths):
    with OrtSession(paths[0], optimization="off") as a, OrtSession(paths[1]) as b:
        record = compare_models(a, b, feeds_for(a, CONFIG, data()), GateConfig(), names=("left", "right"))
    assert record.passed
    assert {c.question for c in record.comparisons} == {"reference_vs_artefact"}
    assert record.runtime_settings["left.optimization"] == "off"


def test_compare_models_with_truth(paths):
    with OrtSession(paths[0], optimization="off") as a, OrtSession(paths[1]) as b:
        record = compare_models(a, b, feeds_for(a, CONFIG), GateConfig(), truth=Float64Session(paths[0]))
    assert all(c.b_error is not None for c in record.comparisons if c.output != "y")


def test_models_that_cannot_be_paired_are_refused(paths, tmp_path):
    other = classifier(size=32)
    renamed = classifier()
    renamed.graph.outputs[0].name = "z"
    with OrtSession(paths[0]) as a:
        for model, said in ((other, "32"), (renamed, "z float32")):
            with (
                OrtSession(saved(model, tmp_path, "other")) as b,
                pytest.raises(UserError, match="differ") as caught,
            ):
                compare_models(a, b, feeds_for(a, CONFIG), GateConfig())
            assert said in str(caught.value)
        with pytest.raises(UserError, match="nothing was compared"):
            compare_models(a, a, {}, GateConfig())
