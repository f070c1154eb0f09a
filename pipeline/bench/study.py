"""A benchmark as a whole: all contenders at each batch size, with an A/A pair in the same measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Final

import numpy as np
import psutil

from optim.contract import Feeds
from optim.errors import UserError
from pipeline.bench.contender import Contender
from pipeline.bench.grade import Seen, grade
from pipeline.bench.host import Host, Snapshot, environment, host, snapshot
from pipeline.bench.measure import Field, Schedule, Timed, affordable_processes
from pipeline.bench.records import BenchComparison, BenchmarkRecord, BenchResult, Percentile
from pipeline.bench.stats import (
    LEAST_ROUNDS,
    Floats,
    Groups,
    Quantile,
    Ratio,
    compare_groups,
    judge,
    median,
    quantile,
    spread_over_processes,
    throughput_per_s,
    widened,
)
from pipeline.config import BenchmarkConfig
from pipeline.sources.contract import Progress, no_progress

PERCENTILES: Final = (0.5, 0.9, 0.95, 0.99, 0.999)
CLOCK_PROBES: Final = "clock_probes_ms"  # key in the host's facts: times of the same work, the machine's pace
# Of each contender. What processes differ by rules the interval: 6 make it 0.72 times as wide as 4 do.
PROCESSES: Final = 6
LEAST_EFFECT: Final = 0.005  # relative; nobody deploys for less

AllTimed = Mapping[str, tuple[Timed, ...]]


def benchmark(
    contenders: Sequence[Contender],
    config: BenchmarkConfig,
    feeds_by_batch: Mapping[int, Feeds],
    progress: Progress = no_progress,
    *,
    processes: int = PROCESSES,
) -> BenchmarkRecord:
    """Measure all contenders, interleaved, at each batch size, and compare every pair (b against a).

    Each contender but the source framework runs in several processes; half of one contender's processes
    against the other half is the A/A comparison that calibrates the verdicts.

    Args:
        contenders: what to measure; those that cannot be opened or fed are listed as skipped.
        config: how long, and the seed of the order.
        feeds_by_batch: inputs by name for each batch size.
        processes: how many of each contender, as memory allows.

    Raises:
        UserError: no contender is left.
        MissingRuntimeError: likewise, for want of a runtime.
    """
    begin = time.perf_counter()
    schedule = Schedule(
        min_duration_s=config.min_duration_s,
        max_duration_s=config.max_duration_s,
        min_samples=config.min_samples,
        seed=config.seed,
    )
    free_mib = psutil.virtual_memory().available / 2**20
    counts = affordable_processes(contenders, processes, free_mib)
    facts = host()
    load = os.getloadavg()[0]
    results: list[BenchResult] = []
    comparisons: list[BenchComparison] = []
    runtimes: dict[str, str] = {}
    probes_ms: list[float] = []
    progress("starting the contenders' processes", 0.0)
    # CUDA maps host memory of its own; a bound meant for arrays would end the process.
    bound_mib = 0 if any(c.device == "cuda" for c in contenders) else int(free_mib)
    with Field(contenders, counts, memory_mib=bound_mib) as field:
        skipped = [f"{name}: {error}" for name, error in field.refused.items()]
        if not field.children:
            raise next(iter(field.refused.values()), UserError("there is nothing to measure"))
        for k, (batch, feeds) in enumerate(feeds_by_batch.items()):
            before = snapshot()
            shown = _part(progress, k, len(feeds_by_batch), batch)
            # Each batch size draws its own orders.
            timed, refused = field.measure(feeds, replace(schedule, seed=schedule.seed + k), shown)
            after = snapshot()
            probes_ms += [before.clock_probe_ms, after.clock_probe_ms]
            skipped += [f"{name}, batch {batch}: {error}" for name, error in refused.items()]
            results += _results(timed, batch, facts, before, after)
            comparisons += _comparisons(timed, batch)
            runtimes |= {name: group[0].opened.runtime for name, group in timed.items()}
    if not results:
        raise UserError("no contender took the inputs: " + "; ".join(skipped))
    return BenchmarkRecord(
        results=tuple(results),
        comparisons=tuple(comparisons),
        host={
            **environment(),
            "load_average": load,
            "runtimes": runtimes,
            "processes": counts,
            CLOCK_PROBES: [round(ms, 4) for ms in probes_ms],
        },
        skipped=tuple(skipped),
        seconds=time.perf_counter() - begin,
    )


def _groups(timed: AllTimed) -> Groups:
    return {name: [t.blocks for t in group] for name, group in timed.items()}


def calibration(groups: Groups) -> Ratio | None:
    """The A/A comparison: odd processes of the first contender that has several, against its even ones."""
    for name, blocks in groups.items():
        if len(blocks) > 1 and len(blocks[0]) >= LEAST_ROUNDS:
            others = {k: v for k, v in groups.items() if k != name}
            halves = {f"{name}, one half": blocks[0::2], f"{name}, other half": blocks[1::2]}
            return compare_groups({**others, **halves}, *halves)
    return None


def _comparisons(timed: AllTimed, batch: int) -> list[BenchComparison]:
    groups = _groups(timed)
    names = list(groups)
    a_a = calibration(groups)
    measured = [group[0].contender for group in timed.values()]
    found = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            if not comparable(timed[a][0].contender, timed[b][0].contender, measured):
                continue
            ratio = compare_groups(groups, a, b)
            found.append(
                BenchComparison(
                    a=a,
                    b=b,
                    device=timed[b][0].contender.device,
                    batch=batch,
                    verdict=judge(ratio, a_a, least_effect=LEAST_EFFECT),
                    ratio=ratio.value,
                    interval=(ratio.low, ratio.high),
                    confidence=ratio.confidence,
                    a_a_ratio_interval=(a_a.low, a_a.high) if a_a else None,
                )
            )
    return found


def comparable(a: Contender, b: Contender, measured: Sequence[Contender]) -> bool:
    """In a sweep over threads: different models at the same number of threads, or one model at two.

    Where no sweep has such a pair, as with bundles that bring their own settings, as they are.
    """
    if a.threads == b.threads or a.model == b.model:
        return True
    counts = {(c.model, c.threads) for c in measured}
    return (a.model, b.threads) not in counts and (b.model, a.threads) not in counts


def _results(
    timed: AllTimed, batch: int, facts: Host, before: Snapshot, after: Snapshot
) -> list[BenchResult]:
    if not timed:
        return []
    spread = spread_over_processes(_groups(timed))
    own = [os.getpid(), *(t.pid for t in chain.from_iterable(timed.values()))]
    return [_result(group, batch, spread, facts, before, after, own) for group in timed.values()]


def _result(
    group: Sequence[Timed],
    batch: int,
    spread: tuple[float, int],
    facts: Host,
    before: Snapshot,
    after: Snapshot,
    own: Sequence[int],
) -> BenchResult:
    contender = group[0].contender
    samples = in_order_of_time(group)
    middle = median(samples)
    value = middle.value if middle.value is not None else float(np.median(samples))
    interval = middle.interval or (float(samples.min()), float(samples.max()))
    interval = widened(value, interval, spread=spread[0], freedom=spread[1], processes=len(group))
    settled = all(t.settled for t in group)
    seen = Seen(
        samples=len(samples),
        settled=settled,
        relative_half_width=None if middle.interval is None else (interval[1] - interval[0]) / 2 / value,
        threads=contender.threads,
        cpu_share=max(t.cpu_share for t in group),
        allow_spinning=contender.allow_spinning,
        spinning_controlled=contender.kind != "source",
        process_spread=spread[0],
    )
    return BenchResult(
        model=contender.model,
        contender=contender.name,
        device=contender.device,
        batch=batch,
        threads=contender.threads,
        latency_ms=value,
        interval_ms=interval,
        percentiles=tuple(_percentile(quantile(samples, p)) for p in PERCENTILES),
        samples=len(samples),
        raw_ms=tuple(round(float(v), 6) for v in samples),  # to the nanosecond, as measured
        session_creation_ms=float(np.median([t.opened.session_creation_ms for t in group])),
        first_run_ms=float(np.median([t.first_run_ms for t in group])),
        throughput_per_s=throughput_per_s(samples, batch),
        peak_rss_mib=max(t.usage.peak_rss_mib for t in group),
        peak_rss_interval_mib=(
            min(t.usage.peak_rss_mib for t in group),
            max(t.usage.peak_rss_mib for t in group),
        ),
        processes=len(group),
        file_bytes=contender.file_bytes(),
        warmup_runs=sum(t.warmup_runs for t in group),
        stable=settled,
        grade=grade(seen, facts, before, after, own),
    )


def in_order_of_time(group: Sequence[Timed]) -> Floats:
    """All samples of a contender in milliseconds, round by round."""
    return np.concatenate([block for row in zip(*(t.blocks for t in group), strict=True) for block in row])


def _percentile(q: Quantile) -> Percentile:
    return Percentile(p=q.p, value_ms=q.value, interval_ms=q.interval, samples_needed=q.samples_needed)


def _part(progress: Progress, k: int, of: int, batch: int) -> Progress:
    """Progress of the k-th batch size within the whole."""

    def show(text: str, fraction: float) -> None:
        progress(f"batch {batch}: {text}", (k + fraction) / of)

    return show
