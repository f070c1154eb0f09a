"""LoadGen's scenarios: single_stream, multi_stream, offline, server (MLPerf Inference rules, "Scenarios").

| scenario | next query is sent | figure |
|---|---|---|
| single_stream | when the last is done | 90th percentile of latency |
| multi_stream | when the last is done, N samples each | 99th percentile of a query's latency |
| offline | all at the start | samples per second, of several repeats |
| server | at random times (Poisson), through concurrent sessions | 99th percentile under a bound |

Throughput counts the time in which samples were worked on, never the load generator's own start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from optim.contract import Feeds
from optim.errors import FairleadError, UserError
from pipeline.bench.child import Child
from pipeline.bench.contender import Contender
from pipeline.bench.grade import Seen, grade
from pipeline.bench.host import Snapshot, host, snapshot
from pipeline.bench.load import START_S, poisson_arrivals
from pipeline.bench.records import Grade, Percentile, ScenarioRecord
from pipeline.bench.stats import Floats, Quantile, is_settled, median, quantile
from pipeline.config import ScenarioConfig, ScenarioName
from pipeline.sources.contract import Progress, no_progress

FIGURE: Final[dict[ScenarioName, float]] = {
    "single_stream": 0.9,
    "multi_stream": 0.99,
    "offline": 0.99,
    "server": 0.99,
}
LEAST_QUERIES: Final = 20
GENERATOR_PER_S: Final = (
    2000.0  # arrivals nearer than half a millisecond measure the generator, not the server
)
_GENERATOR: Final = "is the most that our generator times well"
KEPT_UP: Final = 0.95  # of the offered rate; below this the queue grows without end
OFFLINE_REPEATS: Final = 7  # the median of six or more has an interval
WARM_UP_WINDOW_S: Final = 0.05
WARM_UP_LIMIT_S: Final = 10.0


def run_scenario(
    contender: Contender, scenario: ScenarioConfig, feeds: Feeds, *, batch: int = 1
) -> ScenarioRecord:
    """Run one scenario in a fresh child process.

    Raises:
        UserError: the model does not take the inputs.
        MissingRuntimeError: its runtime is not installed.
    """
    if scenario.name == "server" and scenario.rate_per_s is None:
        raise UserError("a server needs a rate of arrivals", where=contender.name, expected="rate_per_s")
    if scenario.name == "single_stream":  # one query at a time: a second session would idle
        scenario = scenario.model_copy(update={"sessions": 1})
    settings = scenario.model_dump(mode="json")
    repeats = OFFLINE_REPEATS if scenario.name == "offline" else 1
    with Child(contender) as child:
        child.open()
        child.set_feeds(feeds)
        settled = _warm_up(child)
        before, cpu_s = snapshot(), child.usage().cpu_s
        begin = time.perf_counter()
        parts = [child.scenario(settings) for _ in range(repeats)]
        elapsed_s = time.perf_counter() - begin
        cpu_share = (child.usage().cpu_s - cpu_s) / elapsed_s
        after, pid = snapshot(), child.pid
    latencies_ms = np.concatenate([latencies for latencies, _wall in parts]).astype(np.float64) / 1e6
    found = judge_scenario(contender, scenario, latencies_ms, sum(wall for _, wall in parts) / 1e9, batch)
    trust = _grade(contender, found, settled=settled, cpu_share=cpu_share, seen=(before, after), pid=pid)
    return found.model_copy(update={"grade": trust})


def _warm_up(child: Child) -> bool:
    """Run until latency has settled; False where the time for that is over before."""
    medians: list[float] = []
    runs, end = 1, time.monotonic() + WARM_UP_LIMIT_S
    while time.monotonic() < end:
        window = child.run(runs).astype(np.float64) / 1e9
        middle = float(np.median(window))
        if window.sum() < WARM_UP_WINDOW_S / 2 and runs < 1000:
            runs = min(1000, max(2 * runs, int(WARM_UP_WINDOW_S / max(middle, 1e-7))))
            continue  # too short to judge by
        medians.append(middle)
        if is_settled(medians):
            return True
    return False


def _grade(
    contender: Contender,
    found: ScenarioRecord,
    *,
    settled: bool,
    cpu_share: float,
    seen: tuple[Snapshot, Snapshot],
    pid: int,
) -> Grade:
    """As of every measurement; all sessions' threads together must fit the machine."""
    load = found.scenario
    sessions = min(load.sessions, load.streams) if load.name == "multi_stream" else load.sessions
    middle = found.median.interval_ms
    width = None if middle is None else (middle[1] - middle[0]) / 2 / (found.median.value_ms or middle[1])
    return grade(
        Seen(
            samples=load.queries * (found.queries if load.name == "offline" else 1),
            settled=settled,
            relative_half_width=width,
            threads=contender.threads * sessions,
            cpu_share=cpu_share,
            allow_spinning=contender.allow_spinning and contender.threads > 1,
        ),
        host(),
        *seen,
        own=(os.getpid(), pid),
    )


def run_scenarios(
    contenders: Sequence[Contender],
    scenarios: Sequence[ScenarioConfig],
    feeds: Feeds,
    *,
    batch: int,
    latencies_ms: Mapping[str, float],
    most_seconds: float,
    progress: Progress = no_progress,
) -> tuple[tuple[ScenarioRecord, ...], tuple[str, ...]]:
    """Each scenario on each ONNX contender that was measured, and what could not be run, with the reason.

    What the config leaves open is filled in from ``latencies_ms``: a server is offered half of what its
    sessions could do, and no scenario sends more queries than fit ``most_seconds``.
    """
    found: list[ScenarioRecord] = []
    failed: list[str] = []
    todo = [
        (one, load)
        for one in contenders
        for load in scenarios
        if one.kind != "source" and one.name in latencies_ms
    ]
    for k, (one, load) in enumerate(todo):
        progress(f"{load.name} of {one.name}", k / len(todo))
        chosen = fitted(load, latencies_ms[one.name], most_seconds)
        try:
            record = run_scenario(one, chosen, feeds, batch=batch)
            record = record.model_copy(update={"notes": generator_notes(load, latencies_ms[one.name])})
            if chosen.bound_ms is not None and chosen.name == "server":
                record = _with_highest_rate(record, one, chosen, feeds, latencies_ms[one.name])
            found.append(record)
        except FairleadError as error:
            failed.append(f"scenario {load.name} of {one.name}: {error}")
    return tuple(found), tuple(failed)


def fitted(load: ScenarioConfig, latency_ms: float, most_seconds: float) -> ScenarioConfig:
    """The scenario with its open values set for a model of this latency.

    ``queries`` of the offline scenario are those of one of its repeats.
    """
    one_query_ms = latency_ms * (load.streams if load.name == "multi_stream" else 1)
    capacity_per_s = load.sessions * 1e3 / latency_ms
    rate = load.rate_per_s or min(0.5 * capacity_per_s, GENERATOR_PER_S)
    per_s = min(rate, capacity_per_s) if load.name == "server" else load.sessions * 1e3 / one_query_ms
    repeats = OFFLINE_REPEATS if load.name == "offline" else 1
    most = max(-(-LEAST_QUERIES // repeats), int(most_seconds * per_s / repeats))
    return load.model_copy(update={"rate_per_s": rate, "queries": min(load.queries, most)})


def _with_highest_rate(
    record: ScenarioRecord, one: Contender, load: ScenarioConfig, feeds: Feeds, latency_ms: float
) -> ScenarioRecord:
    """The record with the highest rate of arrivals that still keeps the bound."""
    capacity_per_s = load.sessions * 1e3 / latency_ms

    def measure(rate: float) -> ScenarioRecord:
        return run_scenario(one, load.model_copy(update={"rate_per_s": rate}), feeds, batch=record.batch)

    most = min(1.1 * capacity_per_s, GENERATOR_PER_S)
    best = highest_rate(measure, min(0.05 * capacity_per_s, most / 2), most)
    notes = record.notes
    if most < 1.1 * capacity_per_s:
        notes += (f"the highest rate was searched up to {most:,.0f}/s only, which {_GENERATOR}",)
    return record.model_copy(update={"highest_rate_per_s": best, "notes": notes})


def generator_notes(load: ScenarioConfig, latency_ms: float) -> tuple[str, ...]:
    """Where our own generator bounds a server's load, and not the config or the model.

    Args:
        load: as in the config.
        latency_ms: of one query in one session.
    """
    half = 0.5 * load.sessions * 1e3 / latency_ms
    if load.name != "server":
        return ()
    if load.rate_per_s is None and half > GENERATOR_PER_S:
        offered = f"offered {GENERATOR_PER_S:,.0f} queries a second, which {_GENERATOR}"
        return (f"{offered}; half of what its sessions can do would be {half:,.0f}",)
    if load.rate_per_s is not None and load.rate_per_s > GENERATOR_PER_S:
        offered = f"{load.rate_per_s:,.0f} queries a second are more than {GENERATOR_PER_S:,.0f}, which"
        return (f"{offered} {_GENERATOR}: latencies hold the generator's own delay",)
    return ()


def judge_scenario(
    contender: Contender, scenario: ScenarioConfig, latencies_ms: Floats, wall_s: float, batch: int
) -> ScenarioRecord:
    """Figures and validity of a scenario from its timings.

    Args:
        contender: what ran.
        scenario: with nothing left open.
        latencies_ms: [queries] in order of arrival; for offline [repeats], each of the whole.
        wall_s: from the generator's start to the last answer, of all repeats.
        batch: examples in one sample.
    """
    tail = quantile(latencies_ms, FIGURE[scenario.name])
    reasons = _invalid(scenario, tail, latencies_ms, wall_s)
    rate, rates = _throughput(scenario, latencies_ms, wall_s, batch)
    return ScenarioRecord(
        contender=contender.name,
        device=contender.device,
        scenario=scenario,
        batch=batch,
        queries=len(latencies_ms),
        median=_percentile(quantile(latencies_ms, 0.5)),
        tail=_percentile(tail),
        throughput_per_s=rate,
        throughput_interval_per_s=rates,
        raw_ms=tuple(round(float(v), 6) for v in latencies_ms),
        valid=not reasons,
        reasons=reasons,
    )


def _throughput(
    scenario: ScenarioConfig, latencies_ms: Floats, wall_s: float, batch: int
) -> tuple[float, tuple[float, float] | None]:
    """Examples per second, and for offline the interval of its repeats' median."""
    if scenario.name == "offline":
        middle, done = median(latencies_ms), scenario.queries * batch * 1e3
        value = middle.value if middle.value is not None else float(np.median(latencies_ms))
        interval = middle.interval
        return done / value, None if interval is None else (done / interval[1], done / interval[0])
    if scenario.name == "server":
        return len(latencies_ms) * batch / (wall_s - START_S), None
    # One query after the other: what lies between two of them is the generator's.
    size = batch * (scenario.streams if scenario.name == "multi_stream" else 1)
    return len(latencies_ms) * size * 1e3 / float(latencies_ms.sum()), None


def highest_rate(
    measure: Callable[[float], ScenarioRecord], low_per_s: float, high_per_s: float, *, steps: int = 6
) -> float:
    """Highest rate of arrivals that is still valid, by bisection; 0 where not even ``low_per_s`` is.

    ``measure`` runs the server scenario at a rate. Geometric steps, since rates span orders of magnitude.
    """
    if not 0 < low_per_s < high_per_s:
        raise UserError(f"rates {low_per_s} to {high_per_s} are no range", expected="0 < low < high")
    if not measure(low_per_s).valid:
        return 0.0
    good, bad = low_per_s, high_per_s
    for _ in range(steps):
        middle = (good * bad) ** 0.5
        good, bad = (middle, bad) if measure(middle).valid else (good, middle)
    return good


def _invalid(
    scenario: ScenarioConfig, tail: Quantile, latencies_ms: Floats, wall_s: float
) -> tuple[str, ...]:
    if scenario.name == "offline":
        return ()
    reasons = []
    if tail.value is None:
        reasons.append(
            f"{tail.samples} queries do not support percentile {100 * tail.p:g}: "
            f"{tail.samples_needed - tail.samples} more are needed"
        )
    if scenario.name == "server":
        offered = scenario.rate_per_s or 1.0
        last_due_s = float(poisson_arrivals(offered, len(latencies_ms), scenario.seed)[-1])
        last_s = wall_s - START_S - float(latencies_ms[-1]) / 1e3
        if last_s > last_due_s / KEPT_UP:
            reasons.append(
                f"{len(latencies_ms) / wall_s:,.4g} queries a second done of {offered:,.4g} offered"
            )
        if scenario.bound_ms is not None and tail.value is not None and tail.value > scenario.bound_ms:
            reasons.append(
                f"99th percentile {tail.value:.3g} ms is over the bound of {scenario.bound_ms:.3g} ms"
            )
    return tuple(reasons)


def _percentile(q: Quantile) -> Percentile:
    return Percentile(p=q.p, value_ms=q.value, interval_ms=q.interval, samples_needed=q.samples_needed)
