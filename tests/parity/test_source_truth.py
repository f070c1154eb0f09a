"""The source's own float64 run beside the converted graph's: what is said of it, and what is judged by it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from optim.contract import TensorSpec
from optim.errors import UnsupportedModelError
from pipeline.config import ParityConfig
from pipeline.parity.source_truth import EXACT
from pipeline.parity.source_truth_words import in_words, told
from pipeline.parity.study import study
from pipeline.records import ParityRecord, SourceTruthRecord
from targets.reference import Float64Session

from .networks import classifier

CONFIG = ParityConfig(batch_sizes=(1, 2))


class Framework:
    """A source that runs in float32 and in float64; ``change``: what its float64 run does to the graph's."""

    def __init__(self, path, change=lambda y: y, refusal=""):
        self._inner = Float64Session(path)
        self._change, self._refusal = change, refusal
        self.inputs = self._inner.inputs
        self.outputs = tuple(TensorSpec(o.name, "float32", o.shape) for o in self._inner.outputs)
        self.asked = []

    def run(self, feeds):
        return {k: self._change(v).astype(np.float32) for k, v in self._inner.run(feeds).items()}

    def run_float64(self, feeds):
        if self._refusal:
            raise UnsupportedModelError(self._refusal, where="a/node")
        self.asked.append(next(iter(feeds.values())).shape[0])
        return {k: self._change(v) for k, v in self._inner.run(feeds).items()}

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.fixture
def paths(tmp_path):
    for name in ("converted", "optimized"):
        ir.save(classifier(softmax=False), tmp_path / f"{name}.onnx")
    return tmp_path / "converted.onnx", tmp_path / "optimized.onnx"


def test_an_exact_conversion_is_certified(paths):
    source = Framework(paths[0])
    record = study(source, *paths, None, CONFIG)
    truth = record.source_float64
    assert truth is not None
    assert (truth.state, truth.max_abs_over_range) == ("exact", 0.0)
    assert truth.feeds == ("zeros/batch=1", "random(seed=0)/batch=1")
    assert source.asked == [1, 1]  # not the edge cases, nor the other batch size
    assert record.passed
    assert not any("float64" in notice for notice in record.notices)
    assert "exact to 0.0e+00 of the range" in in_words(truth)
    assert ParityRecord.model_validate_json(record.model_dump_json()) == record


def test_what_folding_leaves_is_within_rounding(paths):
    record = study(Framework(paths[0], lambda y: y * (1 + 3e-7)), *paths, None, CONFIG)
    truth = record.source_float64
    assert truth is not None
    assert truth.state == "within_rounding"
    assert EXACT < truth.max_abs_over_range < 1e-6
    assert record.passed
    assert "what folding constants leaves" in in_words(truth)


def test_a_conversion_that_is_another_function_is_said_and_fails(paths):
    """The graph's own float64 run would call the converted model perfect; the source's tells."""
    change = lambda y: y + 1e-5 * np.ptp(y) * np.eye(1, y.shape[1])  # noqa: E731
    record = study(Framework(paths[0], change), *paths, None, CONFIG)
    truth = record.source_float64
    assert truth is not None
    assert truth.state == "apart"
    assert truth.max_abs_over_range == pytest.approx(1e-5, rel=0.2)
    assert [n for n in record.notices if "float64 the source and the converted graph" in n] == told(truth)
    failed = [c for c in record.comparisons if not c.passed]
    assert {c.question for c in failed} >= {"source_vs_converted"}
    assert all("error against float64" in " ".join(c.reasons) for c in failed)
    usual = [c for c in record.comparisons if c.feed.startswith(("zeros/batch=1", "random(seed=0)/batch=1"))]
    assert all(c.b_error is not None and c.b_error > 5e-6 for c in usual)


def test_a_framework_that_cannot_says_why(paths):
    record = study(Framework(paths[0], refusal="Op knows no float64"), *paths, None, CONFIG)
    truth = record.source_float64
    assert truth is not None
    assert (truth.state, truth.reason) == ("not_evaluated", "Op knows no float64 (a/node)")
    assert record.passed
    assert in_words(truth).endswith("Op knows no float64 (a/node)")
    assert all(c.source_error is not None for c in record.comparisons)  # the graph's truth stands in


def test_another_function_in_float64_is_no_truth(paths):
    class Deciding(Framework):
        """Rounding decides what it computes: its float64 run is no more precise than its own, but another."""

        def run(self, feeds):
            return {k: v.astype(np.float32) for k, v in self._inner.run(feeds).items()}

    record = study(Deciding(paths[0], lambda y: y[:, ::-1]), *paths, None, CONFIG)
    truth = record.source_float64
    assert truth is not None
    assert truth.state == "not_evaluated"
    assert "the two are not one function" in truth.reason
    assert record.passed


def test_nothing_is_asked_where_float64_is_off(paths):
    source = Framework(paths[0])
    record = study(source, *paths, None, CONFIG.model_copy(update={"float64": False}))
    assert record.source_float64 is None
    assert source.asked == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("exact", "is exact to 3.0e-14"),
        ("within_rounding", "is right to 3.0e-14"),
        ("apart", "is 3.0e-14 of"),
    ],
)
def test_words(state, words):
    record = SourceTruthRecord(
        state=state, max_abs_over_range=3e-14, source_rounding=2e-7, feed="zeros", feeds=("zeros",), seconds=1
    )
    assert words in in_words(record)
    assert "on 1 input; its own rounding is 2.0e-07" in in_words(record)
