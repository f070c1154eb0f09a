# ruff: noqa: E501 - graphs in tables are easier to read in one line
"""A form is used where a timer says it is faster, and nowhere else; what the timer said is kept."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from optim.catalog import FORMS
from optim.contract import Feeds
from optim.cut_site import Cut, cut, outline
from optim.facts import dims
from optim.model import op_counts
from optim.passes.faster_sites import FasterSites
from optim.recipes import Recipe, recipe_named, recipe_of
from optim.schedule import optimize
from optim.timing import Stopwatch, Timing
from optim.verify import difference, probes_for
from tests.optim.table import Unoptimised, graph, normal

FASTER, SLOWER = Timing(0.6, 0.55, 0.65), Timing(1.7, 1.6, 1.8)
# Two convolutions with a ReLU between: 4 → 6 channels on 9×9, 6 → 8 on 7×7.
_TEXT = (
    "g (float[N, 4, 9, 9] X) => (float[N, 8, 5, 5] Y)"
    " { A = Conv<pads = [0, 0, 0, 0]>(X, V) B = Relu(A) C = Conv(B, W, b) Y = Relu(C) }"
)
_WEIGHTS = {"V": normal(6, 4, 3, 3), "W": normal(8, 6, 3, 3, seed=1), "b": normal(8, seed=2)}


@dataclass
class ScriptedTimer:
    """Answers by the size of the graph and the number of channels in it; counts what it is asked."""

    small: Timing = FASTER  # a site whose first input has at most five channels
    large: Timing = FASTER
    whole: Timing = FASTER
    tile_4: Timing | None = None  # if given: of the form with tiles of 6×6
    fingerprint: str = "host"
    asked: list[str] = field(default_factory=list)

    def __call__(self, before: ir.Model, after: ir.Model, feeds: Feeds) -> Timing:
        self.asked.append(outline(after))
        assert {v.name for v in before.graph.inputs} == set(feeds) == {v.name for v in after.graph.inputs}
        oracle = Unoptimised()  # both run, and agree: what is timed is the same work
        assert difference(oracle(after, feeds), oracle(before, feeds)).max_abs_over_range < 1e-5
        if op_counts(before).get("Conv", 0) > 1:
            return self.whole
        if self.tile_4 is not None and "kernel_shape=(6, 6)" in self.asked[-1]:
            return self.tile_4
        channels = next(iter(feeds.values())).shape[1]
        return self.small if channels <= 5 else self.large


def winograd(timer: ScriptedTimer, file: Path | None = None) -> Recipe:
    return recipe_of(("winograd_convolution",)).timed_by(Stopwatch(timer, file))


def test_only_the_faster_site_is_rewritten_and_the_other_says_why() -> None:
    model = graph(_TEXT, _WEIGHTS)
    ledger = optimize(model, winograd(ScriptedTimer(large=SLOWER)), oracle=Unoptimised())
    record = ledger.records[0]
    assert record.sites == ("A",)
    assert [(r.site, r.reason) for r in record.refusals] == [
        ("C", "not measured to be faster: 1.70 (1.60 to 1.80) of the time it takes as it is")
    ]
    assert record.certificate is not None
    assert record.certificate.passed
    assert record.rolled_back == ()
    assert op_counts(model)["MatMul"] == 2


@pytest.mark.parametrize(
    "undecided",
    [Timing(0.9, 0.7, 1.1), Timing(0.995, 0.99, 0.999)],
    ids=["wide interval", "no gain worth it"],
)
def test_what_is_not_shown_to_be_faster_stays(undecided: Timing) -> None:
    model = graph(_TEXT, _WEIGHTS)
    outcome = winograd(ScriptedTimer(undecided, undecided)).lines[0].make().apply(model)
    assert not outcome.modified
    assert len(outcome.refusals) == 2
    assert op_counts(model) == {"Conv": 2, "Relu": 2}


def test_the_best_form_is_taken() -> None:
    model = graph(_TEXT, _WEIGHTS)
    timer = ScriptedTimer(tile_4=Timing(0.4, 0.3, 0.5))
    outcome = winograd(timer).lines[0].make().apply(model)
    assert set(outcome.sites) == {"A", "C"}
    kernels = [list(n.attributes["kernel_shape"].as_ints()) for n in model.graph if n.op_type == "Conv"]
    assert kernels == [[6, 6], [6, 6]]


def test_sites_that_are_no_gain_together_stay() -> None:
    model = graph(_TEXT, _WEIGHTS)
    outcome = winograd(ScriptedTimer(whole=SLOWER)).lines[0].make().apply(model)
    assert outcome.sites == ()
    assert {r.site for r in outcome.refusals} == {"A", "C"}
    assert all("not in the whole graph: 1.70" in r.reason for r in outcome.refusals)


def test_without_a_timer_nothing_is_rewritten() -> None:
    model = graph(_TEXT, _WEIGHTS)
    outcome = recipe_of(("winograd_convolution",)).lines[0].make().apply(model)
    assert outcome.sites == ()
    assert all("no timer" in r.reason for r in outcome.refusals)


def test_a_second_run_measures_nothing_and_changes_nothing() -> None:
    model, timer = graph(_TEXT, _WEIGHTS), ScriptedTimer(large=SLOWER)
    rewrite = winograd(timer).lines[0].make()
    assert rewrite.apply(model).modified
    asked = len(timer.asked)
    assert not rewrite.apply(model).modified
    assert len(timer.asked) == asked


def test_decisions_outlive_the_process(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "timings.json"
    first, second, elsewhere = ScriptedTimer(), ScriptedTimer(), ScriptedTimer(fingerprint="other")
    for timer in (first, second, elsewhere):
        model = graph(_TEXT, _WEIGHTS)
        assert set(winograd(timer, file).lines[0].make().apply(model).sites) == {"A", "C"}
    assert first.asked
    assert second.asked == []
    assert len(elsewhere.asked) == len(first.asked)
    assert set(json.loads(file.read_text())["hosts"]) == {"host", "other"}
    assert [p.name for p in file.parent.iterdir()] == ["timings.json"]


def test_a_file_that_cannot_be_written_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").write_text("a file, where a folder is needed")
    timer = ScriptedTimer()
    assert winograd(timer, tmp_path / "taken" / "timings.json").lines[0].make().apply(graph(_TEXT, _WEIGHTS))
    assert len(timer.asked) > 1
    assert sum("timings cannot be kept" in line for line in caplog.messages) == 1


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": 99, "hosts": {}}', '{"format": 1, "hosts": {"host": {"x": {}}}}']
)
def test_a_damaged_file_is_measured_anew(tmp_path: Path, content: str) -> None:
    file = tmp_path / "timings.json"
    file.write_text(content)
    timer = ScriptedTimer()
    assert winograd(timer, file).lines[0].make().apply(graph(_TEXT, _WEIGHTS)).modified
    assert timer.asked
    assert json.loads(file.read_text())["format"] == 1


def test_like_sites_are_measured_once() -> None:
    text = (
        "g (float[N, 4, 9, 9] X) => (float[N, 4, 9, 9] Y)"
        " { A = Conv<pads = [1, 1, 1, 1]>(X, V) B = Conv<pads = [1, 1, 1, 1]>(A, W) Y = Conv<pads = [1, 1, 1, 1]>(B, V) }"
    )
    model = graph(text, {"V": normal(4, 4, 3, 3), "W": normal(4, 4, 3, 3, seed=1)})
    timer = ScriptedTimer()
    winograd(timer).lines[0].make().apply(model)
    # The first stands at the input, the second between two convolutions, the third at the output.
    forms, whole = len(FORMS["winograd_convolution"]), 1
    assert len(timer.asked) == 3 * forms + whole


def test_a_cut_runs_and_stands_between_pools_where_convolutions_stood() -> None:
    text = (
        "g (float[N, 4, 9, 9] X) => (float[N, 8, 5, 5] Y, float[N, 6, 7, 7] D)"
        " { A = Conv(X, V) B = Relu(A) D = LRN<size = 3>(B) Y = Conv(D, W) }"
    )
    model = graph(text, {k: v for k, v in _WEIGHTS.items() if k != "b"})
    piece = cut(model, [next(n for n in model.graph if n.op_type == "LRN")], batch=2)
    assert isinstance(piece, Cut)
    assert op_counts(piece.model) == {"MaxPool": 2, "LRN": 1}
    assert {k: v.shape for k, v in piece.feeds.items()} == {"cut/B": (2, 6, 7, 7)}
    (output,) = Unoptimised()(piece.model, piece.feeds).values()
    assert output.shape == (2, 6, 7, 7)
    assert op_counts(model) == {"Conv": 2, "Relu": 1, "LRN": 1}
    assert dims(model.graph.outputs[1]) == ("N", 6, 7, 7)


def test_what_has_no_shape_cannot_be_timed() -> None:
    model = graph("g (float[N, 4, H, 9] X) => (float[N, 4, H, 9] Y) { Y = LRN<size = 3>(X) }")
    timer = ScriptedTimer()
    outcome = FasterSites(FORMS["lrn_as_convolution"], Stopwatch(timer)).apply(model)
    assert "shape of X is not known" in outcome.refusals[0].reason
    assert timer.asked == []


@pytest.mark.parametrize("answer", [FASTER, SLOWER], ids=["all faster", "all slower"])
def test_the_fast_recipe_keeps_the_outputs(answer: Timing) -> None:
    text = (
        "g (float[N, 4, 12, 12] X) => (float[N, 6, 10, 10] Y) {"
        " A = Conv<pads = [1, 1, 1, 1]>(X, V) B = Relu(A) L = LRN<size = 3, alpha = 0.5>(B)"
        " C = Concat<axis = 1>(L, X) D = Mul(C, s) E = Add(D, t) F = Relu(E)"
        " M = ReduceMean<keepdims = 1>(F, axes) G = Sigmoid(M) H = Mul(F, G) Y = Conv(H, W) }"
    )
    weights = {
        "V": normal(6, 4, 3, 3), "W": normal(6, 10, 3, 3), "s": normal(10, 1, 1), "t": normal(10, 1, 1),
        "axes": np.asarray([2, 3]),
    }  # fmt: skip
    model, original, oracle = graph(text, weights), graph(text, weights), Unoptimised()
    recipe = recipe_named("fast").timed_by(Stopwatch(ScriptedTimer(answer, answer, answer)))
    ledger = optimize(model, recipe, oracle=oracle)
    rewritten = {r.name: len(r.sites) for r in ledger.records if r.name in FORMS}
    expected = {
        "lrn_as_convolution": 1,
        "affine_as_depthwise": 1,
        "expand_gates": 1,
        "winograd_convolution": 2,
    }
    assert rewritten == (expected if answer is FASTER else dict.fromkeys(expected, 0))
    assert not any(r.rolled_back for r in ledger.records)
    for probe in probes_for(original):
        found = difference(oracle(model, probe.feeds), oracle(original, probe.feeds))
        assert found.max_abs_over_range < 2e-5, probe.name
