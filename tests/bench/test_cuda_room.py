"""Room on a GPU: how many sessions, and how many processes, fit its memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.bench import measure
from pipeline.bench.contender import Contender
from pipeline.bench.cuda.nvml import free_in
from pipeline.bench.cuda.room import (
    UNKNOWN_MIB,
    expected_mib,
    gpu_process_mib,
    has_room,
    processes_on_gpu,
)
from pipeline.bench.measure import affordable_processes
from pipeline.bench.tune import most_in_heat


@pytest.mark.parametrize(
    ("seen", "batch", "mib"),
    [
        ({}, 8, UNKNOWN_MIB),
        ({8: 300.0}, 8, 300.0),
        ({1: 100.0, 8: 300.0}, 64, 2400.0),  # in proportion to the next smaller one
        ({8: 300.0}, 1, UNKNOWN_MIB),
    ],
)
def test_a_session_is_expected_to_take_what_others_took(
    seen: dict[int, float], batch: int, mib: float
) -> None:
    assert expected_mib(seen, batch) == mib


@pytest.mark.parametrize(
    ("free", "total", "wanted", "fits"),
    [(1000.0, 1000.0, 900.0, True), (1000.0, 1000.0, 901.0, False), (50.0, 1000.0, 0.0, False)],
)
def test_a_tenth_of_the_memory_stays_free(free: float, total: float, wanted: float, fits: bool) -> None:
    assert has_room(free, total, wanted) == fits


def test_processes_on_a_gpu_share_what_is_free() -> None:
    each = gpu_process_mib(100 << 20)
    assert each == 600 + 6 * 100
    assert processes_on_gpu(16_000.0, each) == 10
    assert processes_on_gpu(100.0, each) == 1
    assert processes_on_gpu(None, each) is None


@pytest.mark.parametrize(
    ("visible", "mib"),
    [("", 143_000.0), ("1", 500.0), ("GPU-b", 500.0), ("1,0", 500.0), ("7", None), ("MIG-1", None)],
)
def test_the_free_memory_is_that_of_the_gpu_that_is_used(visible: str, mib: float | None) -> None:
    answer = "0, GPU-a1, 143000\n1, GPU-b2, 500\nno devices were found\n"
    assert free_in(answer, visible) == mib


def test_a_heat_on_a_gpu_is_no_larger_than_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(bytes(1000))
    on_cpu = [Contender(name=str(k), kind="onnx", model=str(model)) for k in range(4)]
    on_gpu = [one.model_copy(update={"device": "cuda"}) for one in on_cpu]
    asked: list[float | None] = [None]
    monkeypatch.setattr(measure, "gpu_free_mib", lambda: asked[0])
    monkeypatch.setattr(Contender, "file_bytes", lambda _self: 100 << 20)  # 1200 MiB a process on the GPU
    assert most_in_heat(on_gpu, 2) == most_in_heat(on_cpu, 2)  # not told
    assert affordable_processes(on_gpu, 3, 1e6) == dict.fromkeys("0123", 3)
    asked[0] = 12_000.0  # room for 8 processes
    assert most_in_heat(on_gpu, 2) == 4
    assert most_in_heat(on_gpu, 4) == 2
    assert affordable_processes(on_gpu, 3, 1e6) == dict.fromkeys("0123", 2)
    asked[0] = 100.0
    assert most_in_heat(on_gpu, 2) == 2  # a race takes two
    assert affordable_processes(on_gpu, 3, 1e6) == dict.fromkeys("0123", 1)
    assert affordable_processes(on_cpu, 3, 1e6) == dict.fromkeys("0123", 3)
