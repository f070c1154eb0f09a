"""Heats on a fake GPU: who is measured beside whom, what a failure costs, and what is known in the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.bench.cuda.contract import matrix, stock
from pipeline.bench.cuda.course import Course, Energy, Subject, batch_weights
from pipeline.bench.cuda.heat import Rounds, Seat, affordable, block_runs, is_out_of_memory
from pipeline.bench.cuda.measure import hello
from pipeline.bench.cuda.process import Stations
from pipeline.bench.records import CudaRecord, CudaSettings
from tests.bench.fake_gpu import FakeGpu, FakeStation

OWN = tuple(
    c for p in ("fp16", "fp32") for c in matrix(precision=p) if c.runtime == "onnxruntime" and not c.stock
)
GRAPH = CudaSettings(graph=True, tf32=True, layout="NHWC")
EAGER = CudaSettings(tf32=True, layout="NHWC")
OFF = CudaSettings(graph=True)
FEW = (GRAPH, EAGER, OFF)


def subject(*batches: int, references: dict[int, Any] | None = None) -> Subject:
    feeds = {b: {"x": np.zeros((b, 1000), np.float32)} for b in batches or (1,)}
    return Subject("net", {"fp32": "m.onnx", "fp16": "h.onnx"}, feeds, references=references or {})


def run(gpu: FakeGpu, cells: tuple[CudaSettings, ...] = FEW, *batches: int, **given: Any) -> CudaRecord:
    with gpu.stations() as stations:
        given = {"rounds": Rounds(rounds=12), **given}
        limit_s = given.pop("limit_s", float("inf"))
        references = given.pop("references", None)
        course = Course(
            subject(*batches, references=references),
            cells,
            stations,
            hello(stations),
            clock=gpu.clock,
            **given,
        )
        return course.run(limit_s)


def of(record: CudaRecord, cell: CudaSettings, batch: int = 1) -> Any:
    (found,) = [r for r in record.results if (r.settings, r.batch) == (cell, batch)]
    return found


def test_all_cells_and_the_baseline_are_measured_in_the_same_rounds() -> None:
    gpu = FakeGpu()
    record = run(gpu, OWN, 1, 8)
    assert len(record.results) == 2 * (18 + 1)
    assert record.failed == ()
    assert [(h.batch, h.cells, h.rounds) for h in record.heats] == [(1, 18, 12), (8, 18, 12)]
    assert all(h.baseline == stock("fp32") for h in record.heats)
    assert all(r.host.rounds == 12 for r in record.results)
    graph = of(record, GRAPH)
    assert graph.gpu.median_ms == pytest.approx(0.4)
    assert graph.host.median_ms == pytest.approx(0.5)
    assert graph.end_to_end_pageable_ms == pytest.approx(1.15)
    assert graph.end_to_end_pinned_ms == pytest.approx(0.65)
    assert graph.host_to_device_pinned.median_ms == pytest.approx(0.2)
    assert graph.grade.letter == "B"  # 8 runs a block and 12 rounds are under a hundred samples
    plain = of(record, CudaSettings(bound=False))
    assert (plain.gpu, plain.host.median_ms) == (None, pytest.approx(1.8))
    assert {round(g.gap_ms, 6) for g in record.launch_gaps if g.batch == 1} == {0.6}
    found = {(c.settings, c.figure): c for c in record.comparisons if c.batch == 1}
    assert found[GRAPH, "inputs on the device"].ratio == pytest.approx(0.25)
    assert found[GRAPH, "from NumPy arrays"].ratio == pytest.approx(1.15 / 2)
    assert found[GRAPH, "from page-locked NumPy arrays"].ratio == pytest.approx(0.65 / 2)
    assert found[GRAPH, "from NumPy arrays"].verdict == "faster"
    assert found[plain.settings, "from NumPy arrays"].ratio == pytest.approx(0.9)
    half = GRAPH.model_copy(update={"precision": "fp16"})
    assert found[half, "inputs on the device"].baseline == stock("fp32")
    assert CudaRecord.model_validate_json(record.model_dump_json()) == record


def test_a_session_is_made_once_for_all_batch_sizes_and_both_ways_to_call_it() -> None:
    gpu = FakeGpu()
    run(gpu, OWN, 1, 8, 64)
    made = Counter(gpu.created)
    assert sum(made.values()) == 1 + 3 + 6 + 6  # the baseline, its twins, eager, graph
    assert made.pop(stock("fp32").title) == 1 + 3
    assert set(made.values()) == {1}
    assert gpu.open == []  # and all are closed


def test_each_round_has_a_block_of_each_cell_in_an_order_of_its_own() -> None:
    gpu = FakeGpu()
    run(gpu)
    main = [cell for cell, _batch, figure in gpu.taken if figure in ("run", "plain")]
    turns = [cell for k, cell in enumerate(main) if k == 0 or main[k - 1] != cell][-5 * 10 :]
    orders = [tuple(turns[k : k + 4]) for k in range(0, 40, 4)]
    assert len(set(orders)) > 3
    again = FakeGpu()
    run(again)
    assert again.taken == gpu.taken  # the seed sets it


def test_a_drift_that_hits_all_moves_no_ratio() -> None:
    """The GPU becomes several times as slow while it measures; neighbours in time do not see it."""
    gpu = FakeGpu(slower_by=2.0, noise=0.01)
    record = run(gpu, rounds=Rounds(rounds=24))
    baseline = record.heats[0].baseline_ms
    assert baseline is not None
    assert max(baseline.raw_ms) / min(baseline.raw_ms) > 1.5
    found = next(c for c in record.comparisons if c.settings == EAGER and c.figure == "from NumPy arrays")
    assert found.ratio == pytest.approx(1.75 / 2, rel=0.03)
    assert found.interval[0] < 1.75 / 2 < found.interval[1]


def test_what_sessions_differ_by_calibrates_the_verdicts() -> None:
    """Two sessions of one model differ by some percent: a cell that is 1 % quicker is not called faster."""

    def nearly_the_same(cell: CudaSettings, batch: int) -> float:
        return batch * (2.0 if cell.stock else 1.98)

    plain = CudaSettings(tf32=True, bound=False)
    claims = []
    for seed in range(7):
        gpu = FakeGpu(ms=nearly_the_same, session_spread=0.03, noise=0.003, rng=np.random.default_rng(seed))
        claims += [c.verdict for c in run(gpu, (plain,), 1, 2, 3).comparisons]
    assert claims.count("no_difference_shown") >= 0.95 * len(claims)
    steady = run(FakeGpu(ms=nearly_the_same), (plain,), 1, 2, 3)
    assert {c.verdict for c in steady.comparisons} == {"faster"}
    assert all(c.a_a_interval == (1.0, 1.0) for c in steady.comparisons)


def test_sessions_that_do_not_fit_together_are_measured_in_heats_of_their_own() -> None:
    gpu = FakeGpu(total_mib=1000.0, mib=lambda _cell, batch: 20.0 * batch)
    record = run(gpu, OWN, 1, 8)
    assert record.failed == ()
    assert len(record.results) == 2 * 19
    heats = [h for h in record.heats if h.batch == 8]
    assert len(heats) > 1
    assert sum(h.cells for h in heats) == 18
    assert all(h.baseline_ms is not None and h.twin_ms is not None for h in heats)
    assert gpu.most_mib <= 1000.0


def test_the_baseline_has_room_at_a_batch_size_that_the_cells_before_left_none_for() -> None:
    gpu = FakeGpu(total_mib=1000.0, mib=lambda _cell, batch: 60.0 if batch == 1 else 250.0)
    record = run(gpu, OWN[:6], 1, 8)
    assert record.failed == ()
    assert all(h.baseline_ms is not None and h.twin_ms is not None for h in record.heats)
    assert len(record.results) == 2 * 7


def test_a_cell_that_runs_out_of_memory_in_company_is_measured_alone() -> None:
    """It wants more than anyone knows beforehand."""

    def greedy(cell: CudaSettings, _batch: int) -> float:
        return 850.0 if cell == EAGER else 100.0

    gpu = FakeGpu(total_mib=1100.0, mib=greedy)
    record = run(gpu, (GRAPH, OFF, EAGER))
    assert record.failed == ()
    assert [h.cells for h in record.heats] == [2, 1]
    assert of(record, EAGER).heat == record.heats[1].name
    assert {c.settings for c in record.comparisons} == {GRAPH, EAGER, OFF}
    assert len([r for r in record.results if r.settings.stock]) == 1


def test_a_cell_that_never_fits_is_a_failed_cell_with_its_words() -> None:
    gpu = FakeGpu(mib=lambda cell, _batch: 10**6 if cell == EAGER else 100.0)
    record = run(gpu)
    assert {r.settings for r in record.results} == {GRAPH, OFF, stock("fp32")}
    (words,) = record.failed
    assert words.startswith(f"batch 1, {EAGER.title}: ")
    assert words.endswith("CUDA failure 2: out of memory")


@pytest.mark.parametrize("running", [False, True])
def test_a_cell_that_kills_its_process_loses_itself_only(running: bool) -> None:
    sign = lambda cell, batch: cell == EAGER and batch == 2  # noqa: E731
    gpu = FakeGpu(dies_running=sign) if running else FakeGpu(dies=sign)
    kept: list[CudaRecord] = []
    record = run(gpu, OWN, 1, 2, 3, keep=kept.append)
    assert len(record.results) == 3 * 19 - 2
    assert record.failed == (
        f"batch 2, {EAGER.title}: TF32 on: the process ended (exit status -11)",
        f"batch 3, {EAGER.title}: not tried: it brought its process down before",
    )
    assert all(c.heat for c in record.results)
    assert of(record, EAGER, 1).gpu is not None
    assert kept[-1].results == record.results


def test_an_illegal_access_is_not_blamed_on_those_who_share_the_process() -> None:
    gpu = FakeGpu(breaks=lambda cell, _batch: cell == GRAPH)
    record = run(gpu, OWN)
    assert len(record.results) == 18
    (words,) = record.failed
    assert words.startswith(f"batch 1, {GRAPH.title}: ")
    assert "illegal memory access" in words


def test_a_cell_that_the_runtime_refuses_costs_nothing_else() -> None:
    record = run(FakeGpu(fails=lambda cell, _batch: cell.layout == "NHWC" and not cell.stock), OWN)
    assert {r.settings.layout for r in record.results if not r.settings.stock} == {"NCHW"}
    assert len(record.failed) == 9
    assert all("NOT_IMPLEMENTED: no kernel" in line for line in record.failed)


def test_without_a_baseline_cells_are_measured_and_not_compared() -> None:
    record = run(FakeGpu(fails=lambda cell, _batch: cell.stock))
    assert {r.settings for r in record.results} == set(FEW)
    assert record.comparisons == ()
    assert record.heats[0].baseline is None
    assert len(record.failed) == 2  # both of its sessions
    dying = run(FakeGpu(dies=lambda cell, _batch: cell.stock))
    assert {r.settings for r in dying.results} == set(FEW)
    assert "exit status -11" in dying.failed[0]


def test_a_kind_of_cell_that_kills_everywhere_costs_a_bounded_number_of_processes() -> None:
    """Say, graphs do not work at all here: the other cells of all networks are measured, and soon."""
    gpu = FakeGpu(dies=lambda cell, _batch: cell.graph)
    started: list[str] = []

    def start(kind: Any) -> Any:
        started.append(kind)
        return FakeStation(gpu, kind)

    with Stations(start) as stations:
        for _network in range(4):
            course = Course(subject(1, 8), OWN, stations, {}, rounds=Rounds(rounds=8), clock=gpu.clock)
            record = course.run()
            assert len(record.results) == 2 * (18 - 6 + 1)
            assert len(record.failed) == 2 * 6
    assert len(started) <= 2 + 6 * 3


def test_a_kind_of_process_that_never_starts_is_given_up() -> None:
    gpu = FakeGpu()
    started: list[str] = []

    def start(kind: Any) -> Any:
        started.append(kind)
        if kind == "TF32 off":
            raise OSError("no such library")
        return FakeStation(gpu, kind)

    with Stations(start) as stations:
        record = Course(subject(1, 8), OWN, stations, {}, rounds=Rounds(rounds=8), clock=gpu.clock).run()
    assert {r.settings.tf32 for r in record.results} == {True}
    assert len(record.results) == 2 * (12 + 1)
    assert started.count("TF32 off") == 4
    assert started.count("TF32 on") == 1


def test_no_process_at_all_ends_in_words_not_in_a_loop() -> None:
    def refuse(_kind: str) -> Any:
        raise OSError("cannot fork")

    course = Course(subject(), FEW, Stations(refuse), {"name": "x"}, clock=FakeGpu().clock)
    record = course.run(10.0)
    assert record.status == "not measured"
    assert "cannot fork" in record.reason


def test_what_the_time_does_not_allow_is_named_and_the_rest_is_whole() -> None:
    gpu = FakeGpu(ms=lambda _cell, batch: 50.0 * batch)
    record = run(gpu, OWN, 1, 8, 64, limit_s=60.0)
    assert record.results
    assert all(r.host.rounds >= 8 for r in record.results)  # below that nothing can be compared
    missing = [line for line in record.failed if line.endswith("not reached in the time")]
    assert missing
    assert len(missing) + len([r for r in record.results if not r.settings.stock]) == 3 * 18
    first = [c.title for c in OWN[:2]]
    assert {r.settings.title for r in record.results} >= set(first)  # the most important were reached


def test_a_cell_that_takes_longer_than_there_is_time_is_not_begun() -> None:
    gpu = FakeGpu(ms=lambda _cell, batch: 1000.0 * batch)
    record = run(gpu, FEW, 1, 64, limit_s=30.0)
    assert record.results == ()
    assert all(line.endswith("not reached in the time") for line in record.failed)
    assert gpu.now < 60.0  # what it takes to find out, not eight rounds of six cells


@pytest.mark.parametrize(
    ("left_s", "at_most_s", "seats"), [(1.0, 1.0, 5), (0.45, 1.0, 4), (0.1, 1.0, 3), (0.1, 0.2, 2)]
)
def test_as_many_cells_take_part_as_can_have_the_least_rounds(
    left_s: float, at_most_s: float, seats: int
) -> None:
    cells = (stock("fp32"), stock("fp32"), GRAPH, EAGER, OFF)
    given = [Seat(str(k), cell, "TF32 on", turn_ms=9.0) for k, cell in enumerate(cells)]
    assert affordable(given, Rounds(least=10), left_s, at_most_s) == seats


def test_every_batch_size_is_held_against_what_is_known() -> None:
    answers = {1: {"y": np.array([1.0, 2.0, 3.0], np.float32)}}
    wrong = lambda cell, batch: cell == GRAPH and batch == 8  # noqa: E731
    record = run(FakeGpu(wrong=wrong), FEW, 1, 8, references=answers)
    (words,) = record.failed
    assert words.startswith(f"batch 8, {GRAPH.title}: its outputs are not those")
    assert of(record, GRAPH, 1).error == 0
    assert of(record, EAGER, 8).error is None  # compared with the baseline on the GPU, not with the CPU


def test_energy_stands_where_it_was_asked_for() -> None:
    energy = Energy((GRAPH, OFF), 8, 6.0)
    record = run(FakeGpu(), FEW, 1, 8, energy=energy)
    with_energy = {(r.batch, r.settings) for r in record.results if r.energy_mj is not None}
    assert with_energy == {(8, GRAPH), (8, OFF)}
    assert of(record, GRAPH, 8).energy_mj == pytest.approx(30)
    blind = run(FakeGpu(counter=False, why_unwatched="no pynvml"), FEW, 8, energy=energy)
    assert of(blind, GRAPH, 8).energy_note == "no pynvml"
    short = run(FakeGpu(), FEW, 8, energy=energy, limit_s=2.0)
    assert of(short, GRAPH, 8).energy_note == "not reached in the time"


def test_another_compiler_has_heats_of_its_own() -> None:
    compiled = CudaSettings(runtime="torch.compile", graph=True, tf32=True)
    record = run(FakeGpu(), (compiled, *FEW))
    assert [h.cells for h in record.heats] == [3, 1]
    assert of(record, compiled).end_to_end_pinned is None
    (found,) = [c for c in record.comparisons if c.settings == compiled]
    assert found.figure == "inputs on the device"


@pytest.mark.parametrize(
    ("ms", "runs"), [({"run": 0.1}, 40), ({"run": 0.01}, 50), ({"run": 30.0}, 1), ({"copy_out": 0.2}, 5)]
)
def test_blocks_are_sized_by_time(ms: dict[str, float], runs: int) -> None:
    assert list(block_runs(ms, 4.0).values()) == [runs]


@pytest.mark.parametrize(
    ("words", "out"),
    [
        ("CUDA failure 2: out of memory ; GPU=0", True),
        ("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer", True),
        ("CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA failure 700: an illegal memory access was encountered", False),
        ("CUDA failure 209: no kernel image is available", False),
    ],
)
def test_the_runtimes_words_for_want_of_memory(words: str, out: bool) -> None:
    assert is_out_of_memory(words) == out


def test_larger_batches_get_more_time_and_the_first_pays_for_the_sessions() -> None:
    first, *weights = batch_weights((1, 8, 64, 256))
    assert weights == sorted(weights)
    assert first == batch_weights((1, 1))[1] + 2


def test_files_are_written_for_half_the_numbers(tmp_path: Path) -> None:
    """float16 files get float16 inputs, whatever the user's own file takes."""
    gpu = FakeGpu()
    seen: list[np.dtype] = []

    class Looking(type(gpu.stations().get("TF32 on").device)):  # type: ignore[misc]
        def place(self, feeds: Any, sets: int) -> Any:
            seen.append(feeds["x"].dtype)
            return super().place(feeds, sets)

    stations = gpu.stations()
    station = stations.get("TF32 on")
    station.bench._device = Looking(gpu)  # type: ignore[attr-defined]
    half = replace(subject(), files={"fp32": str(tmp_path / "a"), "fp16": str(tmp_path / "b")})
    Course(half, (GRAPH, GRAPH.model_copy(update={"precision": "fp16"})), stations, {}, clock=gpu.clock).run()
    assert set(seen) == {np.dtype(np.float32), np.dtype(np.float16)}
