"""A whole benchmark through real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from optim.errors import UserError
from pipeline.bench.contender import Contender
from pipeline.bench.study import benchmark, comparable
from pipeline.config import BenchmarkConfig
from pipeline.records import BenchmarkRecord
from tests.bench.models import chain, feeds

CONFIG = BenchmarkConfig(min_duration_s=0.3, max_duration_s=4, min_samples=50)


def test_a_model_twice_as_deep_is_slower_at_each_batch_size(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    raw = Contender(name="raw", kind="onnx", model=str(chain(tmp_path / "raw.onnx", layers=60)))
    optimized = Contender(name="optimized", kind="onnx", model=str(chain(tmp_path / "opt.onnx", layers=20)))
    gone = Contender(name="gone", kind="onnx", model=str(tmp_path / "gone.onnx"))
    heard: list[float] = []
    record = benchmark(
        [raw, optimized, gone],
        CONFIG,
        {1: feeds(1), 8: feeds(8)},
        lambda _text, fraction: heard.append(fraction),
        processes=2,
    )
    assert [(r.contender, r.batch) for r in record.results] == [
        ("raw", 1), ("optimized", 1), ("raw", 8), ("optimized", 8)
    ]  # fmt: skip
    for r in record.results:
        assert r.interval_ms[0] <= r.latency_ms <= r.interval_ms[1]
        assert r.samples == len(r.raw_ms) >= CONFIG.min_samples
        assert r.percentiles[0].value_ms == r.latency_ms
        assert all(
            (p.value_ms is None) == (p.interval_ms is None) and (p.value_ms or p.samples_needed > 0)
            for p in r.percentiles
        )
        assert r.throughput_per_s > 0
        assert r.session_creation_ms > 0
        assert r.first_run_ms > 0
        assert r.file_bytes > 0
    assert [(c.a, c.b, c.batch, c.verdict) for c in record.comparisons] == [
        ("raw", "optimized", 1, "faster"),
        ("raw", "optimized", 8, "faster"),
    ]
    for c in record.comparisons:
        assert c.interval[0] <= c.ratio <= c.interval[1] < 1
        assert c.a_a_ratio_interval is not None
        assert c.a_a_ratio_interval[0] < c.a_a_ratio_interval[1]
    assert len(record.skipped) == 1
    assert record.skipped[0].startswith("gone: ")
    assert record.host["runtimes"]["raw"].startswith("onnxruntime ")
    assert max(heard) == 1.0
    assert BenchmarkRecord.model_validate_json(record.model_dump_json()) == record


def test_nothing_to_measure_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        benchmark([], CONFIG, {1: {}})
    pytest.importorskip("onnxruntime")
    gone = Contender(name="gone", kind="onnx", model=str(tmp_path / "gone.onnx"))
    with pytest.raises(UserError, match="gone"):
        benchmark([gone], CONFIG, {1: feeds()})


@pytest.mark.parametrize(
    ("pairs", "compared"),
    [
        ([("x", 1), ("y", 1)], {(0, 1)}),
        ([("x", 1), ("x", 2)], {(0, 1)}),
        ([("x", 1), ("y", 1), ("x", 2), ("y", 2)], {(0, 1), (0, 2), (1, 3), (2, 3)}),  # a sweep
        ([("x", 2), ("y", 1)], {(0, 1)}),  # bundles with settings of their own
        ([("x", 2), ("y", 1), ("y", 2)], {(0, 2), (1, 2)}),
    ],
)
def test_which_pairs_are_compared(pairs: list[tuple[str, int]], compared: set[tuple[int, int]]) -> None:
    contenders = [
        Contender(name=f"{model} {threads}", kind="onnx", model=model, threads=threads)
        for model, threads in pairs
    ]
    found = {
        (i, j)
        for i, a in enumerate(contenders)
        for j, b in enumerate(contenders)
        if i < j and comparable(a, b, contenders)
    }
    assert found == compared
