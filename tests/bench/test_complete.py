"""Beside latency: profile, placement, roofline, scenarios, tuning, bundles, all through real processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from optim.errors import GateNotMetError, MissingRuntimeError, UserError
from pipeline.bench.baseline import read_benchmark
from pipeline.bench.complete import measure_all
from pipeline.bench.contender import Contender
from pipeline.bench.cuda.device import find_device
from pipeline.bench.dissect import best_peaks, dissect
from pipeline.bench.expectation import compare_with_expected
from pipeline.bench.grade import grade_reasons
from pipeline.bench.records import BenchmarkRecord, BenchResult, Grade, Peaks, Percentile
from pipeline.bench.tune import Sameness
from pipeline.bench.tune_model import Subject, parity_on, tune_model
from pipeline.config import BenchmarkConfig, ScenarioConfig, TuneConfig
from targets.closeness import Gate
from targets.references import Reference
from tests.bench.models import chain, feeds
from tests.bench.test_gate import result

QUICK = BenchmarkConfig(min_duration_s=0.1, max_duration_s=2, min_samples=30)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return chain(tmp_path / "m.onnx", layers=4)


def contender(model: Path, name: str = "m") -> Contender:
    return Contender(name=name, kind="onnx", model=str(model))


def test_everything_is_in_one_record(model: Path) -> None:
    pytest.importorskip("onnxruntime")
    settings = QUICK.model_copy(update={"scenarios": ("offline", ScenarioConfig(name="server", queries=30))})
    record = measure_all([contender(model)], settings, {1: feeds(1), 4: feeds(4)})
    assert [r.batch for r in record.results] == [1, 4]
    (one,) = record.dissections
    assert one.profile is not None
    assert {o.op: o.nodes for o in one.profile.ops} == {"MatMul": 4, "Tanh": 4}
    assert one.placement is not None
    assert one.placement.proved
    assert one.roofline is not None
    assert one.roofline.operations == 4 * (2 * 64 * 64 + 64)
    assert [s.scenario.name for s in record.scenarios] == ["offline", "server"]
    assert record.results[0].processes > 1
    low, high = record.results[0].peak_rss_interval_mib or (0.0, 0.0)
    assert 0 < low <= high == record.results[0].peak_rss_mib
    assert record.cuda is not None
    assert record.cuda.status == "not measured"
    assert record.cuda.reason
    assert BenchmarkRecord.model_validate_json(record.model_dump_json()) == record


def test_cuda_is_not_replaced_by_anything_else(model: Path) -> None:
    if find_device()[0] is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(MissingRuntimeError, match="not measured"):
        measure_all([contender(model)], QUICK.model_copy(update={"device": "cuda"}), {1: feeds(1)})


def test_a_node_elsewhere_than_wanted_is_an_error_unless_allowed(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a CUDA run whose nodes fell back to the CPU; here another provider is wanted of a CPU trace."""
    pytest.importorskip("onnxruntime")
    import pipeline.bench.dissect as module
    from pipeline.bench.trace import trace

    monkeypatch.setattr(module, "PROVIDERS", {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"})
    monkeypatch.setattr(module, "trace", lambda c, f, runs, providers: trace(c, f, runs=runs))
    wanted = contender(model).model_copy(update={"device": "cuda"})
    with pytest.raises(GateNotMetError, match="8 of 8 nodes did not run on CUDAExecutionProvider"):
        dissect(wanted, feeds(), 1)
    found = dissect(wanted, feeds(), 1, allow_fallback=True)
    assert found.placement is not None
    assert len(found.placement.elsewhere) == 8


def test_what_cannot_be_traced_says_why(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    found = dissect(contender(tmp_path / "bad.onnx"), {}, 1)
    assert found.profile is None
    assert "cannot be traced" in found.failed


def test_peaks_are_the_best_that_was_seen() -> None:
    a, b = Peaks(threads=1, gflop_per_s=5, gbyte_per_s=1), Peaks(threads=1, gflop_per_s=4, gbyte_per_s=3)
    assert best_peaks(a, b) == Peaks(threads=1, gflop_per_s=5, gbyte_per_s=3)


def test_a_model_is_tuned_under_parity(model: Path, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    expected = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"]).run(None, feeds(2))[0]
    references = (Reference("r", feeds(2), {"y": expected}),)
    other = chain(tmp_path / "other.onnx", layers=3, seed=1)  # faster, and another function
    subject = Subject(contender(model, "default"), {"mine": model, "wrong": other}, model, references, Gate())
    settings = TuneConfig(
        budget_s=12, threads=(1,), recipes=(), runtimes=("onnxruntime",), optimization=("all", "basic")
    )
    record = tune_model(subject, settings, feeds(), tmp_path / "races", 0, lambda _t, _f: None)
    assert record.winner.recipe == "mine"
    lost = {d.name: d.reason for d in record.dropped if d.stage == 0}
    assert set(lost) == {"wrong, blocked layout, 1 thread", "wrong, basic, 1 thread"}
    assert all("bound 2e-05" in reason for reason in lost.values())
    assert record.winner.interval_ms[0] <= record.winner.latency_ms <= record.winner.interval_ms[1]
    assert not list((tmp_path / "races").glob("race_*"))  # its state is gone when it is over


def test_parity_is_checked_by_the_timed_call(model: Path) -> None:
    pytest.importorskip("onnxruntime")
    wrong = (Reference("r", feeds(), {"y": feeds()["x"]}),)
    found = parity_on(wrong, Gate(), model)(contender(model))
    assert found.reason
    gone = parity_on(wrong, Gate(), model)(contender(model.with_name("gone.onnx")))
    assert gone == Sameness(None, gone.reason)
    assert "no such model file" in gone.reason


@pytest.mark.parametrize(
    ("shift", "factor", "said"), [(0.0, 2.0, ""), (8e-6, None, ""), (8e-6, 2.0, "error against float64 ")]
)
def test_what_is_too_far_from_float64_for_a_bundle_does_not_race(
    model: Path, shift: float, factor: float | None, said: str
) -> None:
    """Within the gate of the source's answers, and not within the factor of the source's own error."""
    ort = pytest.importorskip("onnxruntime")
    answer = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"]).run(None, feeds())[0]
    signs = np.where(np.arange(answer.size) % 2, 1.0, -1.0).reshape(answer.shape)
    truth = answer.astype(np.float64) + shift * signs
    reference = Reference("r", feeds(), {"y": truth.astype(np.float32)}, truth={"y": truth})
    found = parity_on((reference,), Gate(source_error_factor=factor), model)(contender(model))
    assert found.reason.startswith(said)
    assert bool(found.reason) == bool(said) == (found.least_ms is None)


def test_a_variant_that_takes_too_long_is_left_out(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    subject = Subject(contender(model, "default"), {"mine": model}, model, (), Gate())
    settings = TuneConfig(budget_s=0.5, threads=(1,), recipes=("canonical",))
    with pytest.raises(GateNotMetError):  # nothing was compared, so nothing is the same
        tune_model(subject, settings, feeds(), tmp_path, 0, lambda _t, _f: None)


EXPECTED = {"latency_ms": 10.0, "interval_ms": [9.8, 10.2], "batch": 1, "threads": 1, "host": "f"}


@pytest.mark.parametrize(
    ("latency", "host", "verdict"),
    [(10.1, "f", "as_expected"), (12.0, "f", "slower"), (8.0, "f", "faster"), (10.0, "g", "not_comparable")],
)
def test_a_bundle_meets_its_expected_latency_or_not(latency: float, host: str, verdict: str) -> None:
    found = compare_with_expected(
        result(latency_ms=latency, interval_ms=(latency - 0.1, latency + 0.1)),
        EXPECTED,
        {"fingerprint": host},
    )
    assert found is not None
    assert found.verdict == verdict
    assert bool(found.reason) == (verdict == "not_comparable")
    assert compare_with_expected(result(), {}, {}) is None


def test_reasons_that_differ_in_their_numbers_are_one() -> None:
    results = [
        result(contender=name, grade=Grade(letter="C", reasons=(f"known to ±{p}% only", "busy")))
        for name, p in (("a", 6), ("b", 11), ("a", 7))
    ]
    assert grade_reasons(results) == {"known to ±6 to 11% only": ("a", "b"), "busy": ("a", "b")}


def test_a_baseline_is_found_in_a_folder_a_report_or_printed_json(tmp_path: Path) -> None:
    record = BenchmarkRecord(results=(result(),), comparisons=(), host={"fingerprint": "f"}, seconds=1.0)
    plain = record.model_dump(mode="json")
    (tmp_path / "report.json").write_text(json.dumps({"record": {"name": "r", "benchmark": plain}}))
    (tmp_path / "printed.json").write_text(json.dumps({**plain, "gate": {"status": "ok"}}))
    for place in (tmp_path, tmp_path / "report.json", tmp_path / "printed.json"):
        assert read_benchmark(place) == record


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "not JSON"),
        ("[]", "holds no benchmark"),
        ('{"record": {"benchmark": null}}', "holds no benchmark"),
        ('{"results": 1}', "not a benchmark of this version"),
    ],
)
def test_what_is_no_baseline_is_refused(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(UserError, match=said):
        read_benchmark(tmp_path / "b.json")
    with pytest.raises(UserError, match="no readable benchmark"):
        read_benchmark(tmp_path / "gone.json")


def test_old_baselines_without_the_newer_fields_are_read() -> None:
    fields = set(BenchResult.model_fields) - {"peak_rss_interval_mib", "processes"}
    kept = {k: v for k, v in result().model_dump().items() if k in fields}
    assert BenchResult.model_validate(kept).processes == 1
    assert Percentile.model_validate(kept["percentiles"][0])
