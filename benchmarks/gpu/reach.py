"""What was asked of CUDA, and what the measured cells reached of it, in one place.

Asked on an H200: ResNet-50 at least 4 times as fast as plain ``session.run`` at batch 1 and 64, and at most
0.5 ms at batch 1. Each way to compute it (fp32 without TF32, TF32, fp16) and each way to bring the inputs
(they lie on the device already, come from NumPy arrays as ``session.run`` gets them, or from page-locked
ones) stands for itself. Speedups are the comparisons paired by round; one is reached where its whole
interval keeps the bound, beyond what the A/A pair of the same heat wrongly claims. A latency is reached where
the whole 95 % interval of its median keeps the bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import exp
from typing import Any, Final

from benchmarks.gpu.plan import REACH_BATCHES, REACH_NETWORK
from pipeline.bench.cuda.compare import Figure
from pipeline.bench.records import CudaComparison, CudaRecord, CudaSettings, Timing
from pipeline.bench.stats import Ratio, noise_floor

ASKED_ON: Final = "H200"
LEAST_SPEEDUP: Final = 4.0
MOST_MS: Final = 0.5
NOT_MEASURED: Final = "not measured"


@dataclass(frozen=True)
class Reached:
    """The best cell of one way to compute, for one way to bring the inputs."""

    numbers: str
    figure: Figure
    settings: str
    value: float
    interval: tuple[float, float] | None  # None: too few samples for one
    reached: bool


def reach(records: Mapping[str, CudaRecord]) -> list[dict[str, Any]]:
    """One entry for each question: what was asked, and what was found or ``not measured`` and why.

    Args:
        records: of each network.
    """
    record = records.get(REACH_NETWORK)
    speedup = f"at least {LEAST_SPEEDUP:g} times as fast as plain session.run"
    found = [
        _answer(record, batch, speedup, tuple(_best(_speedups(record, batch), most=True)))
        for batch in REACH_BATCHES
    ]
    latency = tuple(_best(_latencies(record, REACH_BATCHES[0]), most=False))
    return [*found, _answer(record, REACH_BATCHES[0], f"at most {MOST_MS:g} ms", latency)]


def _answer(record: CudaRecord | None, batch: int, asked: str, found: tuple[Reached, ...]) -> dict[str, Any]:
    answer: dict[str, Any] = {"network": REACH_NETWORK, "batch": batch, "asked": asked, "on": ASKED_ON}
    if record is None or not found:
        why = "" if record is None else record.reason
        return {**answer, "reached": NOT_MEASURED, "why": why or "its cells are not among those measured"}
    answer["device"] = record.device
    if ASKED_ON in record.device:
        reached: str | bool = any(one.reached for one in found)
    else:
        reached = f"{NOT_MEASURED} on an {ASKED_ON}"
    return {**answer, "reached": reached, "found": [asdict(one) for one in found]}


def _speedups(record: CudaRecord | None, batch: int) -> Iterator[Reached]:
    """Of each cell over session.run as installed."""
    for one in () if record is None else record.comparisons:
        if one.batch != batch or one.settings.runtime == "torch.compile":
            continue
        interval = (1 / one.interval[1], 1 / one.interval[0])
        reached = interval[0] >= LEAST_SPEEDUP * exp(_noise(one))
        yield Reached(
            _numbers(one.settings), one.figure, one.settings.title, 1 / one.ratio, interval, reached
        )


def _noise(one: CudaComparison) -> float:
    """What the baseline against itself claimed in this heat, as |log ratio|."""
    if one.a_a_interval is None:
        return 0.0
    return noise_floor(Ratio(1.0, *one.a_a_interval, one.confidence, one.rounds))


def _latencies(record: CudaRecord | None, batch: int) -> Iterator[Reached]:
    """Of each cell, on the host's clock."""
    for one in () if record is None else record.results:
        if one.batch != batch or one.settings.stock or one.settings.runtime == "torch.compile":
            continue
        figures: list[tuple[Figure, Timing | None]] = [
            ("inputs on the device", one.host if one.settings.bound else None),
            ("from NumPy arrays", one.end_to_end_pageable if one.settings.bound else one.host),
            ("from page-locked NumPy arrays", one.end_to_end_pinned),
        ]
        for figure, timing in figures:
            if timing is not None:
                interval = timing.interval_ms
                reached = interval is not None and interval[1] <= MOST_MS
                title, value = one.settings.title, timing.median_ms
                yield Reached(_numbers(one.settings), figure, title, value, interval, reached)


def _best(found: Iterator[Reached], *, most: bool) -> Iterator[Reached]:
    """The best of each way to compute and to bring the inputs."""
    groups: dict[tuple[str, Figure], list[Reached]] = {}
    for one in found:
        groups.setdefault((one.numbers, one.figure), []).append(one)
    for key in sorted(groups):
        yield (max if most else min)(groups[key], key=lambda one: one.value)


def _numbers(cell: CudaSettings) -> str:
    if cell.precision == "fp16":
        return "fp16"
    return "fp32, TF32 on" if cell.tf32 else "fp32, TF32 off"
