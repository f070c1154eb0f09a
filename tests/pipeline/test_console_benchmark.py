"""What a benchmark says on a terminal: missing samples, scenarios with their grades, CUDA cells."""

from __future__ import annotations

import io

import numpy as np
from rich.console import Console

from pipeline.bench.contender import Contender
from pipeline.bench.records import (
    BenchmarkRecord,
    CudaComparison,
    CudaRecord,
    CudaResult,
    CudaSettings,
    Grade,
    Timing,
)
from pipeline.bench.scenarios import judge_scenario
from pipeline.config import ScenarioConfig
from pipeline.console_benchmark import print_benchmark
from tests.bench.test_gate import result

BUSY = Contender(name="busy", kind="busy_wait", model="500")


def said(record: BenchmarkRecord) -> str:
    out = io.StringIO()
    print_benchmark(Console(file=out, width=240, markup=False, highlight=False), record)
    return " ".join(out.getvalue().split())


def benchmark(**more: object) -> BenchmarkRecord:
    plain = BenchmarkRecord(results=(result(),), comparisons=(), host={}, seconds=1.0)
    return plain.model_copy(update=more)


def test_a_percentile_says_how_many_samples_it_still_needs() -> None:
    assert "needs 268 more" in said(benchmark())  # 368 less the 100 that were taken


def test_scenarios_stand_with_their_grade_and_the_interval_of_offline() -> None:
    offline = ScenarioConfig(name="offline", queries=40)
    found = judge_scenario(BUSY, offline, np.array([20.0, 20.0, 20.0, 25.0, 20.0, 16.0, 20.0]), 1.0, 1)
    graded = found.model_copy(update={"grade": Grade(letter="C", reasons=("busy neighbours",))})
    text = said(benchmark(scenarios=(graded,)))
    assert "7 x 40" in text
    assert "2000.0 [1600.0 – 2500.0] C valid" in text
    assert "trust: busy neighbours (offline of busy)" in text


def cell(ms: float, **settings: object) -> CudaResult:
    spent = Timing(median_ms=ms, interval_ms=(0.99 * ms, 1.01 * ms), samples=100)
    bound = bool(settings.get("bound", True))
    return CudaResult(
        model="m.onnx", batch=8, settings=CudaSettings.model_validate(settings), session_creation_ms=1.0,
        first_run_ms=1.0, gpu=spent if bound else None, host=spent, input_sets=2, device_memory_mib=300.0,
        end_to_end_pinned=spent if bound else None, energy_mj=12.5 if bound else None, error=1.5e-6,
        grade=Grade(letter="B", reasons=("power limit",)),
    )  # fmt: skip


def test_cells_of_a_gpu_stand_with_their_ratio_energy_and_grade() -> None:
    cells = (cell(0.5, graph=True), cell(4.0, stock=True, bound=False))
    quicker = CudaComparison(
        model="m.onnx", batch=8, settings=cells[0].settings, baseline=cells[1].settings,
        figure="inputs on the device", ratio=0.125, interval=(0.12, 0.13), confidence=0.98, rounds=16,
        a_a_interval=(0.99, 1.01), verdict="faster",
    )  # fmt: skip
    record = CudaRecord(
        status="measured", device="GPU", results=cells, comparisons=(quicker,), failed=("batch 1: no kernel",)
    )
    text = said(benchmark(cuda=record))
    assert "CUDA on GPU: m.onnx" in text
    assert "fp32, TF32 off, NCHW, graph, bound 8 0.500 0.500 - 0.500 - 0.125 1.5e-06 B" in text
    assert "fp32, session.run as installed 8 - 4.000" in text
    assert "12.50 300" in text
    assert "trust: power limit (2 of 2 cells)" in text
    assert "could not run: batch 1: no kernel" in text
