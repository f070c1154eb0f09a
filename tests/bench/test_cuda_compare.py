"""Comparisons of a CUDA record: what is claimed of cells that differ, and of cells that do not."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.bench.cuda.compare import against_itself, between_sessions, widened_ratio, with_stock
from pipeline.bench.cuda.contract import stock
from pipeline.bench.cuda.sampling import timing
from pipeline.bench.records import CudaComparison, CudaHeat, CudaResult, CudaSettings, Timing
from pipeline.bench.stats import PRIOR_FREEDOM, PRIOR_SPREAD, Ratio

CELLS = tuple(
    CudaSettings(bound=False, tf32=tf32, layout=layout)
    for tf32 in (False, True)
    for layout in ("NCHW", "NHWC")
)
ROUNDS, RUNS = 16, 5


def taken(rng: np.random.Generator, level: float, drift: np.ndarray, noise: float = 0.01) -> Timing:
    """Rounds of runs round a level of the log, with what all have in common in each round."""
    return timing(
        [np.exp(level + one + rng.normal(0, noise / 2) + rng.normal(0, noise, RUNS)) for one in drift]
    )


def compared(rng: np.random.Generator, effect: float, sessions: float) -> tuple[CudaComparison, ...]:
    """Four heats of one network: sessions differ by ``sessions`` (of the log), cells by ``effect`` too."""
    own, levels = rng.normal(0, sessions), np.log(effect) + rng.normal(0, sessions, len(CELLS))
    results, heats = [], []
    for batch in range(1, 5):
        drift = np.cumsum(rng.normal(0, 0.003, ROUNDS))
        baseline, twin = taken(rng, own, drift), taken(rng, rng.normal(0, sessions), drift)
        a_a = against_itself(baseline, twin)
        assert a_a is not None
        heats.append(
            CudaHeat(
                name=str(batch), model="m", batch=batch, cells=len(CELLS), rounds=ROUNDS,
                baseline=stock("fp32"), baseline_ms=baseline, twin_ms=twin,
                a_a_ratio=a_a.value, a_a_interval=(a_a.low, a_a.high),
            )
        )  # fmt: skip
        for cell, level in zip(CELLS, levels, strict=True):
            results.append(
                CudaResult(
                    model="m", batch=batch, settings=cell, session_creation_ms=1.0, first_run_ms=1.0,
                    host=taken(rng, level, drift), input_sets=2, device_memory_mib=1.0, heat=str(batch),
                )
            )  # fmt: skip
    return with_stock(results, heats)


@pytest.mark.parametrize("sessions", [0.0, 0.002, 0.005])
def test_few_claims_are_wrong_and_five_percent_are_found(sessions: float) -> None:
    rng = np.random.default_rng(7)
    same = [c for _ in range(12) for c in compared(rng, 1.0, sessions)]
    wrong = [c for c in same if c.verdict != "no_difference_shown"]
    assert len(wrong) <= 0.05 * len(same)
    quicker = [c for _ in range(12) for c in compared(rng, 0.95, sessions)]
    assert len(quicker) == 12 * 16
    assert sum(c.verdict == "faster" for c in quicker) >= 0.8 * len(quicker)
    assert sum(c.interval[0] <= 0.95 <= c.interval[1] for c in quicker) >= 0.95 * len(quicker)
    assert all(c.rounds == ROUNDS and c.a_a_interval is not None for c in quicker)


def heat(a_a: float | None) -> CudaHeat:
    return CudaHeat(name="h", model="m", batch=1, cells=1, rounds=9, baseline=stock("fp32"), a_a_ratio=a_a)


def test_what_sessions_differ_by_is_learnt_from_all_pairs() -> None:
    assert between_sessions([]) == (PRIOR_SPREAD, PRIOR_FREEDOM)
    assert between_sessions([heat(None)]) == (PRIOR_SPREAD, PRIOR_FREEDOM)
    spread, freedom = between_sessions([heat(np.exp(0.02)), heat(np.exp(-0.02)), heat(None)])
    assert freedom == 2
    assert spread == pytest.approx(0.02)  # of 0, 0.02 and -0.02


def test_another_cause_widens_an_interval_on_both_sides() -> None:
    ratio = Ratio(2.0, 1.9, 2.2, 0.98, 16)
    unchanged = widened_ratio(ratio, 0.0)
    assert (unchanged.low, unchanged.high) == pytest.approx((1.9, 2.2))
    wider = widened_ratio(ratio, 0.3)
    assert wider.value == 2.0
    assert wider.low < 2 * np.exp(-0.3)
    assert wider.high > 2 * np.exp(0.3)


def test_a_cell_of_no_heat_or_of_too_few_rounds_is_not_compared() -> None:
    few = timing([np.ones(3)] * 5)
    result = CudaResult(
        model="m", batch=1, settings=CELLS[0], session_creation_ms=1.0, first_run_ms=1.0, host=few,
        input_sets=2, device_memory_mib=1.0, heat="h",
    )  # fmt: skip
    short = heat(None).model_copy(update={"baseline_ms": few})
    assert with_stock([result], [short]) == ()
    assert with_stock([result.model_copy(update={"heat": "another"})], [short]) == ()
    assert with_stock([result], [heat(None)]) == ()
    assert against_itself(few, few) is None
