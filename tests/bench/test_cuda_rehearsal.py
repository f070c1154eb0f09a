"""The whole way of a GPU measurement with the CPU in the GPU's place: real processes, the real runtime."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
from benchmarks.gpu.check import Models, on_this_gpu, run_parts
from benchmarks.gpu.networks import Network
from benchmarks.gpu.plan import plan
from pipeline.bench.cuda import course as cuda_course
from pipeline.bench.cuda.contract import stock
from pipeline.bench.cuda.heat import Rounds
from pipeline.bench.cuda.measure import hello
from pipeline.bench.cuda.process import CudaProcess, Stations
from pipeline.bench.cuda.roofline import measure_peaks

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tests.bench.cpu_as_gpu")


def small(out: Path) -> Path:
    """Two convolutions and a classifier."""
    net = Network()
    x = net.conv("image", (1, 4), 3, act="relu")
    x = net.conv(x, (4, 8), 3, stride=2, act="relu6")
    return net.save(out, net.pooled(x, 8, 5), (1, 16, 16), 5)


def test_every_cell_is_opened_checked_timed_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cuda_course, "Rounds", lambda: Rounds(rounds=8, block_ms=0.2))
    (part,) = plan(["small"], tensorrt=False, torch=False)
    with Stations(lambda kind: CudaProcess(kind, COMMAND)) as stations:
        said = hello(stations)
        peaks = measure_peaks(stations, said["l2_bytes"], products=(64,), copies=(1 << 16,))
        models = Models(tmp_path, {"small": small})
        measure = on_this_gpu(stations, said, peaks)
        records, not_reached = run_parts([replace(part, batches=(1, 8))], models, 120.0, measure)
        pids = stations.pids()
    record = records["small"]
    assert (not_reached, record.failed, peaks.failed) == ([], (), ())
    assert len(record.results) == 2 * (12 + 6 + 1)
    assert len(pids) == 1 + 2  # this process, and one for each kind of TF32
    assert all(r.limit is not None for r in record.results)
    errors = [r.error for r in record.results if r.batch == 1]
    assert all(error is not None and error < 1e-2 for error in errors)
    assert len(record.comparisons) == 2 * (6 * 3 + 6 * 3 + 6)
    assert {c.baseline for c in record.comparisons} == {stock("fp32")}
    assert [h.rounds for h in record.heats] == [8] * 2
    graph = next(r for r in record.results if r.settings.graph and r.batch == 8)
    assert graph.gpu is not None
    assert graph.gpu.median_ms <= graph.host.median_ms
