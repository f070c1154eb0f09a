"""Whatever goes wrong on a GPU, in any combination: every cell ends as a result or with words, and soon."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.bench.cuda.contract import matrix
from pipeline.bench.cuda.course import Course, Subject
from pipeline.bench.cuda.heat import Rounds
from pipeline.bench.cuda.process import Kind, Stations
from pipeline.bench.records import CudaRecord, CudaSettings
from tests.bench.fake_gpu import FakeGpu, FakeStation

CELLS = tuple(c for c in matrix() if c.runtime == "onnxruntime" and not c.stock)[:7]
BATCHES = (1, 8)
FEEDS = {b: {"x": np.zeros((b, 1000), np.float32)} for b in BATCHES}
places = st.frozensets(st.tuples(st.integers(0, len(CELLS)), st.sampled_from(BATCHES)), max_size=3)


def strikes(where: frozenset[tuple[int, int]]) -> Any:
    """Whether something happens to a cell at a batch size; the last number is the baseline's."""

    def at(cell: CudaSettings, batch: int) -> bool:
        number = len(CELLS) if cell.stock else CELLS.index(cell)
        return (number, batch) in where

    return at


def measured(gpu: FakeGpu, limit_s: float, starts: list[Kind]) -> CudaRecord:
    def start(kind: Kind) -> FakeStation:
        starts.append(kind)
        return FakeStation(gpu, kind)

    with Stations(start) as stations:
        subject = Subject("net", {"fp32": "m.onnx"}, FEEDS)
        rounds = Rounds(rounds=8, block_ms=0.5)
        return Course(subject, CELLS, stations, {}, rounds=rounds, clock=gpu.clock).run(limit_s)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    dies=places, dies_running=places, fails=places, breaks=places, wrong=places,
    large=places, total=st.sampled_from([350.0, 900.0, 100_000.0]), limit_s=st.sampled_from([1.5, 1e9]),
)  # fmt: skip
def test_every_cell_ends_as_a_result_or_with_words(
    dies: frozenset[tuple[int, int]],
    dies_running: frozenset[tuple[int, int]],
    fails: frozenset[tuple[int, int]],
    breaks: frozenset[tuple[int, int]],
    wrong: frozenset[tuple[int, int]],
    large: frozenset[tuple[int, int]],
    total: float,
    limit_s: float,
) -> None:
    is_large, starts = strikes(large), list[Kind]()
    gpu = FakeGpu(
        total_mib=total,
        ms=lambda cell, batch: 5.0,
        mib=lambda cell, batch: 320.0 if is_large(cell, batch) else 60.0,
        dies=strikes(dies),
        dies_running=strikes(dies_running),
        fails=strikes(fails),
        breaks=strikes(breaks),
        wrong=strikes(wrong),
    )
    record = measured(gpu, limit_s, starts)
    results = [(r.batch, r.settings) for r in record.results if not r.settings.stock]
    assert len(results) == len(set(results))
    for batch in BATCHES:
        for cell in CELLS:
            line = f"batch {batch}, {cell.title}: "
            words = [one for one in record.failed if one.startswith(line)]
            assert len(words) + ((batch, cell) in results) == 1, (line, words)
    killing = {number for number, _batch in dies | dies_running | breaks}
    assert len(starts) <= 2 + 2 * len(killing) + 1
    assert gpu.most_mib <= total
    heats = {heat.name for heat in record.heats}
    assert all(r.heat in heats and r.host.rounds == 8 for r in record.results)
    healthy = [
        (batch, cell)
        for number, cell in enumerate(CELLS)
        for batch in BATCHES
        if number not in {n for n, _b in dies | dies_running | breaks | fails | large | wrong}
    ]
    # A baseline that answers wrongly, or takes all the memory, leaves nothing to be held against.
    if limit_s > 1e6 and len(CELLS) not in {n for n, _b in wrong | large}:
        assert set(results) >= set(healthy)  # what happens to others costs these nothing
    assert gpu.open == []
