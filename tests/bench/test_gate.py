"""The gate closes for what got worse beyond the intervals, and for nothing else."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from optim.errors import UserError
from pipeline.bench.gate import GateLimits, gate, junit
from pipeline.bench.records import CudaRecord, CudaResult, CudaSettings, Timing
from pipeline.records import BenchmarkRecord, BenchResult, Grade, Percentile

HOST = {"cpu_model": "x", "cores": 2, "fingerprint": "f", "packages": {"onnxruntime": "1"}}


def result(**changes: Any) -> BenchResult:
    values: dict[str, Any] = {
        "model": "m.onnx", "contender": "optimized", "device": "cpu", "batch": 1, "threads": 1,
        "latency_ms": 10.0, "interval_ms": (9.8, 10.2), "samples": 100, "raw_ms": (10.0,),
        "percentiles": (Percentile(p=0.99, value_ms=None, interval_ms=None, samples_needed=368),),
        "session_creation_ms": 1.0, "first_run_ms": 1.0, "throughput_per_s": 100.0, "peak_rss_mib": 100.0,
        "file_bytes": 1000, "warmup_runs": 1, "stable": True, "grade": Grade(letter="A", reasons=()),
    }  # fmt: skip
    return BenchResult(**(values | changes))


def benchmark(*results: BenchResult, host: dict[str, Any] | None = None) -> BenchmarkRecord:
    return BenchmarkRecord(results=results, comparisons=(), host=host or HOST, seconds=1.0)


@pytest.mark.parametrize(
    ("changes", "limits", "failing"),
    [
        ({}, {}, []),
        ({"latency_ms": 10.2, "interval_ms": (10.0, 10.4)}, {}, []),  # the intervals overlap
        ({"latency_ms": 11.0, "interval_ms": (10.8, 11.2)}, {}, ["latency_ms"]),
        ({"latency_ms": 11.0, "interval_ms": (10.8, 11.2)}, {"latency": 0.1}, []),
        ({"latency_ms": 9.0, "interval_ms": (8.9, 9.1)}, {}, []),
        ({"latency_ms": 11.0, "interval_ms": (8.0, 14.0)}, {}, []),  # too unsure to say
        ({"peak_rss_mib": 101.0}, {}, []),
        ({"peak_rss_mib": 110.0, "peak_rss_interval_mib": (99.0, 110.0)}, {}, []),  # one process only
        ({"peak_rss_mib": 110.0, "peak_rss_interval_mib": (109.0, 110.0)}, {}, ["peak_rss_mib"]),
        ({"peak_rss_mib": 110.0}, {}, ["peak_rss_mib"]),
        ({"file_bytes": 1100}, {}, ["file_bytes"]),
    ],
)
def test_gate(changes: dict[str, Any], limits: dict[str, float], failing: list[str]) -> None:
    found = gate(benchmark(result(**changes)), benchmark(result()), GateLimits(**limits))
    assert [c.figure for c in found.checks if not c.passed] == failing
    assert found.status == ("gate_not_met" if failing else "ok")
    assert len(found.checks) == 3


def test_a_machine_that_slowed_down_by_itself_is_no_regression() -> None:
    worse = result(latency_ms=11.0, interval_ms=(10.8, 11.2))
    then, now = {**HOST, "clock_probes_ms": [1.0, 1.01]}, {**HOST, "clock_probes_ms": [1.1, 1.1]}
    found = gate(benchmark(worse, host=now), benchmark(result(), host=then))
    assert found.status == "ok"
    assert "1.089 to 1.100 times as long" in found.notes[0]
    restless = gate(
        benchmark(worse, host={**HOST, "clock_probes_ms": [1.0, 1.0]}),
        benchmark(result(), host={**HOST, "clock_probes_ms": [1.0, 1.5]}),
    )
    assert restless.status == "gate_not_met"  # it was slower then, if anything
    quicker = gate(benchmark(worse, host=then), benchmark(result(), host=now))
    assert quicker.status == "gate_not_met"


def test_a_gate_that_a_restless_machine_opens_says_so() -> None:
    then, now = {**HOST, "clock_probes_ms": [1.0, 1.0]}, {**HOST, "clock_probes_ms": [1.0, 1.6]}
    found = gate(benchmark(result(), host=now), benchmark(result(), host=then))
    assert "up to 1.60 times as slow would pass" in found.notes[0]


def test_only_what_is_compared_is_distrusted() -> None:
    bad = Grade(letter="D", reasons=("busy",))
    before = benchmark(result(grade=bad), result(batch=8, grade=bad))
    found = gate(benchmark(result()), before)
    assert found.notes == ("optimized, cpu, batch 1, 1 thread: grade D then: busy",)


def cell(gpu_ms: float, memory_mib: float, **settings: Any) -> CudaResult:
    spent = Timing(median_ms=gpu_ms, interval_ms=(0.99 * gpu_ms, 1.01 * gpu_ms), samples=100)
    return CudaResult(
        model="runs/a/m.onnx", batch=1, settings=CudaSettings(**settings), session_creation_ms=1.0,
        first_run_ms=1.0, gpu=spent, host=spent, input_sets=2, device_memory_mib=memory_mib,
    )  # fmt: skip


def on_gpu(*cells: CudaResult) -> BenchmarkRecord:
    found = CudaRecord(status="measured", device="gpu", results=cells)
    return benchmark(result()).model_copy(update={"cuda": found})


@pytest.mark.parametrize(
    ("now", "failing"),
    [
        (cell(0.51, 500), []),  # within the intervals
        (cell(0.60, 500), ["gpu_ms"]),
        (cell(0.50, 600), ["device_memory_mib"]),
        (cell(0.40, 400).model_copy(update={"model": "runs/b/m.onnx"}), []),
        (cell(0.90, 900, graph=True), []),  # another cell: nothing to compare with
    ],
)
def test_the_gpus_time_and_memory_are_held_too(now: CudaResult, failing: list[str]) -> None:
    found = gate(on_gpu(now), on_gpu(cell(0.50, 500)))
    assert [c.figure for c in found.checks if not c.passed] == failing
    assert len(found.checks) == (3 if now.settings.graph else 5)
    assert all("thread" not in c.title for c in found.checks if c.device == "cuda")


def test_an_improvement_is_called_one() -> None:
    found = gate(benchmark(result(latency_ms=9.0, interval_ms=(8.9, 9.1))), benchmark(result()))
    assert found.checks[0].verdict == "better"


def test_unlike_hosts_are_refused() -> None:
    with pytest.raises(UserError, match="unlike hosts"):
        gate(benchmark(result(), host={**HOST, "cpu_model": "y"}), benchmark(result()))


def test_nothing_in_common_is_no_pass() -> None:
    with pytest.raises(UserError, match="nothing in common"):
        gate(benchmark(result(batch=8)), benchmark(result(batch=1)))


def test_what_is_missing_and_what_is_doubtful_is_said() -> None:
    doubtful = Grade(letter="C", reasons=("busy",))
    found = gate(
        benchmark(result(grade=doubtful), host={**HOST, "packages": {"onnxruntime": "2"}}),
        benchmark(result(), result(batch=8)),
    )
    assert found.only_before == ("optimized, cpu, batch 8, 1 thread",)
    assert any("onnxruntime 1 -> 2" in n for n in found.notes)
    assert any("grade C now: busy" in n for n in found.notes)


def test_junit_has_one_case_a_figure_and_a_failure_where_it_got_worse() -> None:
    worse = result(contender="a<b>", latency_ms=11.0, interval_ms=(10.8, 11.2))
    suite = ET.fromstring(junit(gate(benchmark(worse), benchmark(result(contender="a<b>")))))
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    failures = suite.findall("testcase/failure")
    assert len(failures) == 1
    assert failures[0].text == "before 10 [9.8, 10.2], now 11 [10.8, 11.2]"
