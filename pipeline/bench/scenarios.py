"""LoadGen's scenarios: single_stream, multi_stream, offline, server (MLPerf Inference rules, "Scenarios").

| scenario | next query is sent | figure |
|---|---|---|
| single_stream | when the last is done | 90th percentile of latency |
| multi_stream | when the last is done, N samples each | 99th percentile of a query's latency |
| offline | all at the start | samples per second |
| server | at random times (Poisson), through concurrent sessions | 99th percentile under a bound |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from optim.contract import Feeds
from optim.errors import FairleadError, UserError
from pipeline.bench.child import Child
from pipeline.bench.contender import Contender
from pipeline.bench.load import START_S, poisson_arrivals
from pipeline.bench.records import Percentile, ScenarioRecord
from pipeline.bench.stats import Floats, Quantile, quantile
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
KEPT_UP: Final = 0.95  # of the offered rate; below this the queue grows without end


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
    with Child(contender) as child:
        child.open()
        child.set_feeds(feeds)
        child.run(5)
        latencies_ns, wall_ns = child.scenario(scenario.model_dump(mode="json"))
    return judge_scenario(contender, scenario, latencies_ns.astype(np.float64) / 1e6, wall_ns / 1e9, batch)


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
            if chosen.bound_ms is not None and chosen.name == "server":
                record = _with_highest_rate(record, one, chosen, feeds, latencies_ms[one.name])
            found.append(record)
        except FairleadError as error:
            failed.append(f"scenario {load.name} of {one.name}: {error}")
    return tuple(found), tuple(failed)


def fitted(load: ScenarioConfig, latency_ms: float, most_seconds: float) -> ScenarioConfig:
    """The scenario with its open values set for a model of this latency."""
    one_query_ms = latency_ms * (load.streams if load.name == "multi_stream" else 1)
    capacity_per_s = load.sessions * 1e3 / latency_ms
    rate = load.rate_per_s or min(0.5 * capacity_per_s, GENERATOR_PER_S)
    per_s = min(rate, capacity_per_s) if load.name == "server" else load.sessions * 1e3 / one_query_ms
    most = max(LEAST_QUERIES, int(most_seconds * per_s))
    return load.model_copy(update={"rate_per_s": rate, "queries": min(load.queries, most)})


def _with_highest_rate(
    record: ScenarioRecord, one: Contender, load: ScenarioConfig, feeds: Feeds, latency_ms: float
) -> ScenarioRecord:
    """The record with the highest rate of arrivals that still keeps the bound."""
    capacity_per_s = load.sessions * 1e3 / latency_ms

    def measure(rate: float) -> ScenarioRecord:
        return run_scenario(one, load.model_copy(update={"rate_per_s": rate}), feeds, batch=record.batch)

    best = highest_rate(measure, 0.05 * capacity_per_s, 1.1 * capacity_per_s)
    return record.model_copy(update={"highest_rate_per_s": best})


def judge_scenario(
    contender: Contender, scenario: ScenarioConfig, latencies_ms: Floats, wall_s: float, batch: int
) -> ScenarioRecord:
    """Figures and validity of a scenario from its timings; ``latencies_ms`` [queries] in order of arrival."""
    tail = quantile(latencies_ms, FIGURE[scenario.name])
    samples = len(latencies_ms) * batch
    if scenario.name == "multi_stream":
        samples *= scenario.streams
    if scenario.name == "offline":
        samples = scenario.queries * batch
    reasons = _invalid(scenario, tail, latencies_ms, wall_s)
    return ScenarioRecord(
        contender=contender.name,
        device=contender.device,
        scenario=scenario,
        batch=batch,
        queries=len(latencies_ms),
        median=_percentile(quantile(latencies_ms, 0.5)),
        tail=_percentile(tail),
        throughput_per_s=samples / wall_s,
        raw_ms=tuple(round(float(v), 6) for v in latencies_ms),
        valid=not reasons,
        reasons=reasons,
    )


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
            f"{tail.samples} queries do not support percentile {tail.p:.0%}; {tail.samples_needed} do"
        )
    if scenario.name == "server":
        offered = scenario.rate_per_s or 1.0
        last_due_s = float(poisson_arrivals(offered, len(latencies_ms), scenario.seed)[-1])
        last_s = wall_s - START_S - float(latencies_ms[-1]) / 1e3
        if last_s > last_due_s / KEPT_UP:
            reasons.append(f"{len(latencies_ms) / wall_s:.3g} queries a second done of {offered:.3g} offered")
        if scenario.bound_ms is not None and tail.value is not None and tail.value > scenario.bound_ms:
            reasons.append(
                f"99th percentile {tail.value:.3g} ms is over the bound of {scenario.bound_ms:.3g} ms"
            )
    return tuple(reasons)


def _percentile(q: Quantile) -> Percentile:
    return Percentile(p=q.p, value_ms=q.value, interval_ms=q.interval, samples_needed=q.samples_needed)
