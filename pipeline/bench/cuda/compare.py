"""Cells of the CUDA matrix against each other: what launching costs, and what the settings bring.

Every ratio is paired by round. Rounds are not the whole truth: two sessions of one model differ for their
lifetime, by where their memory lies. Beside the baseline another session of it runs in every heat, a new one
each time, so that difference is measured, pooled over the heats of a record, and joined to each interval with
Student's t, as the CPU's comparisons do it for processes (``stats``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, Literal, TypeAlias

import numpy as np

from pipeline.bench.cuda.sampling import blocks_of
from pipeline.bench.records import CudaComparison, CudaHeat, CudaResult, CudaSettings, LaunchGap, Timing
from pipeline.bench.stats import (
    LEAST_ROUNDS,
    PRIOR_FREEDOM,
    PRIOR_SPREAD,
    VERDICT_CONFIDENCE,
    Floats,
    Ratio,
    judge,
    ratio_of_medians,
    student_t,
)

Figure: TypeAlias = Literal["inputs on the device", "from NumPy arrays", "from page-locked NumPy arrays"]
DRIFT: Final = 0.02  # of the log ratio: what a GPU's clock may do between two runs of fairlead claims nothing
LEAST_EFFECT: Final = 0.005  # relative, within a heat; nobody deploys for less


def launch_gaps(results: Sequence[CudaResult]) -> tuple[LaunchGap, ...]:
    """Eager less graph, for each pair of cells that differ in nothing else and were measured together."""
    eager = {_twin_key(r): r.gpu for r in results if not r.settings.graph and r.settings.bound}
    found = []
    for r in results:
        other = eager.get(_twin_key(r))
        if r.settings.graph and r.gpu is not None and other is not None:
            found.append(
                LaunchGap(
                    model=r.model,
                    batch=r.batch,
                    precision=r.settings.precision,
                    tf32=r.settings.tf32,
                    layout=r.settings.layout,
                    gap_ms=other.median_ms - r.gpu.median_ms,
                )
            )
    return tuple(found)


def with_stock(results: Sequence[CudaResult], heats: Sequence[CudaHeat]) -> tuple[CudaComparison, ...]:
    """Every cell against ``session.run`` as the package installs, in the rounds of its own heat.

    Where the inputs already lie on the device, that saves the copies too, and the figure says so.
    """
    by_name = {heat.name: heat for heat in heats}
    spread, freedom = between_sessions(heats)
    tail = student_t(1 - (1 - VERDICT_CONFIDENCE) / 2, freedom)
    bases = {heat.name: _together(heat) for heat in heats if heat.baseline_ms is not None}
    found = []
    for r in results:
        heat = by_name.get(r.heat)
        base = bases.get(r.heat, [])
        if heat is None or heat.baseline is None or r.settings.stock:
            continue
        for figure, own in _figures(r):
            blocks = _levels(own)
            if len(blocks) != len(base) or len(base) < LEAST_ROUNDS:
                continue
            part = tail * spread * math.sqrt(1 + (1 / 2 if heat.twin_ms else 1))
            ratio = widened_ratio(ratio_of_medians(base, blocks), part)
            found.append(_comparison(r, heat, heat.baseline, figure, ratio))
    return tuple(found)


def against_itself(baseline: Timing, twin: Timing) -> Ratio | None:
    """The A/A ratio of a heat; None where the rounds are too few."""
    a, b = blocks_of(baseline), blocks_of(twin)
    return ratio_of_medians(a, b) if len(a) == len(b) >= LEAST_ROUNDS else None


def between_sessions(heats: Sequence[CudaHeat]) -> tuple[float, int]:
    """By how much sessions of the same model differ (standard deviation of the log), and its freedom.

    The levels are those of the twins against the baseline, and 0 for the baseline itself: one session each.
    """
    logs = [math.log(heat.a_a_ratio) for heat in heats if heat.a_a_ratio is not None]
    if not logs:
        return PRIOR_SPREAD, PRIOR_FREEDOM
    return float(np.std([0.0, *logs], ddof=1)), len(logs)


def widened_ratio(ratio: Ratio, part: float) -> Ratio:
    """The ratio's interval joined with another cause's half width, as a log."""
    below = math.hypot(math.log(ratio.value / ratio.low), part)
    above = math.hypot(math.log(ratio.high / ratio.value), part)
    return Ratio(
        ratio.value,
        ratio.value * math.exp(-below),
        ratio.value * math.exp(above),
        ratio.confidence,
        ratio.rounds,
    )


def _together(heat: CudaHeat) -> list[Floats]:
    """The baseline's level in each round: the geometric mean of both sessions' medians."""
    timings = [_levels(one) for one in (heat.baseline_ms, heat.twin_ms) if one is not None]
    return [np.exp(np.mean(np.log(levels), axis=0)) for levels in zip(*timings, strict=True)]


def _levels(found: Timing) -> list[Floats]:
    """The median of each round's block, [1] each."""
    blocks = blocks_of(found)
    return list(np.median(blocks, axis=1)[:, np.newaxis]) if blocks else []


def _figures(r: CudaResult) -> Iterator[tuple[Figure, Timing]]:
    if not r.settings.bound:
        yield "from NumPy arrays", r.host
        return
    yield "inputs on the device", r.host
    if r.end_to_end_pageable is not None:
        yield "from NumPy arrays", r.end_to_end_pageable
    if r.end_to_end_pinned is not None:
        yield "from page-locked NumPy arrays", r.end_to_end_pinned


def _comparison(
    r: CudaResult, heat: CudaHeat, baseline: CudaSettings, figure: Figure, ratio: Ratio
) -> CudaComparison:
    a_a = None
    if heat.a_a_ratio is not None and heat.a_a_interval is not None:
        a_a = Ratio(heat.a_a_ratio, *heat.a_a_interval, VERDICT_CONFIDENCE, heat.rounds)
    return CudaComparison(
        model=r.model,
        batch=r.batch,
        settings=r.settings,
        baseline=baseline,
        figure=figure,
        ratio=ratio.value,
        interval=(ratio.low, ratio.high),
        confidence=ratio.confidence,
        rounds=ratio.rounds,
        a_a_interval=heat.a_a_interval,
        verdict=judge(ratio, a_a, least_effect=LEAST_EFFECT),
    )


def _twin_key(r: CudaResult) -> tuple[str, int, str, CudaSettings]:
    return (r.model, r.batch, r.heat, r.settings.model_copy(update={"graph": False}))
