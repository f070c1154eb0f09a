"""LoadGen's scenarios: single_stream, multi_stream, offline, server (MLPerf Inference rules, "Scenarios").

| scenario | next query is sent | figure |
|---|---|---|
| single_stream | when the last is done | 90th percentile of latency |
| multi_stream | when the last is done, N samples each | 99th percentile of a query's latency |
| offline | all at the start | samples per second |
| server | at random times (Poisson), through concurrent sessions | 99th percentile under a bound |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from optim.contract import Feeds
from optim.errors import UserError
from pipeline.bench.child import Child
from pipeline.bench.contender import Contender
from pipeline.bench.stats import Floats, Quantile, quantile
from pipeline.records import Percentile

Name: TypeAlias = Literal["single_stream", "multi_stream", "offline", "server"]
FIGURE: Final[dict[Name, float]] = {
    "single_stream": 0.9,
    "multi_stream": 0.99,
    "offline": 0.99,
    "server": 0.99,
}
KEPT_UP: Final = 0.95  # of the offered rate; below this the queue grows without end


class Scenario(BaseModel):
    """What load to put on, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    sessions: Annotated[int, Field(gt=0)] = 1  # concurrent, each with its own threads
    queries: Annotated[int, Field(gt=0)] = 400  # batches, in the offline scenario
    streams: Annotated[int, Field(gt=0)] = 8  # samples of a multi_stream query
    rate_per_s: Annotated[float, Field(gt=0)] = 10.0  # of a server
    bound_ms: Annotated[float, Field(gt=0)] | None = None  # of a server's 99th percentile
    seed: int = 0


class ScenarioRecord(BaseModel):
    """What came out. ``valid`` tells whether the scenario's own conditions held; ``reasons`` why not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Literal["scenario"] = "scenario"
    contender: str
    device: str
    scenario: Scenario
    batch: int
    queries: int
    median: Percentile
    tail: Percentile  # the scenario's own percentile
    throughput_per_s: float  # samples done per second
    raw_ms: tuple[float, ...]  # a query each; for offline the whole
    valid: bool
    reasons: tuple[str, ...]


def run_scenario(contender: Contender, scenario: Scenario, feeds: Feeds, *, batch: int = 1) -> ScenarioRecord:
    """Run one scenario in a fresh child process.

    Raises:
        UserError: the model does not take the inputs.
        MissingRuntimeError: its runtime is not installed.
    """
    with Child(contender) as child:
        child.open()
        child.set_feeds(feeds)
        child.run(5)
        latencies_ns, wall_ns = child.scenario(scenario.model_dump(mode="json"))
    return judge_scenario(contender, scenario, latencies_ns.astype(np.float64) / 1e6, wall_ns / 1e9, batch)


def judge_scenario(
    contender: Contender, scenario: Scenario, latencies_ms: Floats, wall_s: float, batch: int
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


def thread_variants(contender: Contender, threads: tuple[int, ...]) -> tuple[Contender, ...]:
    """The same model with other numbers of threads, for a sweep in one benchmark."""
    return tuple(
        contender.model_copy(update={"name": f"{contender.name} ({t} threads)", "threads": t})
        for t in threads
    )


def _invalid(scenario: Scenario, tail: Quantile, latencies_ms: Floats, wall_s: float) -> tuple[str, ...]:
    if scenario.name == "offline":
        return ()
    reasons = []
    if tail.value is None:
        reasons.append(
            f"{tail.samples} queries do not support percentile {tail.p:.0%}; {tail.samples_needed} do"
        )
    if scenario.name == "server":
        achieved = len(latencies_ms) / wall_s
        if achieved < KEPT_UP * scenario.rate_per_s:
            reasons.append(f"{achieved:.3g} queries a second done of {scenario.rate_per_s:.3g} offered")
        if scenario.bound_ms is not None and tail.value is not None and tail.value > scenario.bound_ms:
            reasons.append(
                f"99th percentile {tail.value:.3g} ms is over the bound of {scenario.bound_ms:.3g} ms"
            )
    return tuple(reasons)


def _percentile(q: Quantile) -> Percentile:
    return Percentile(p=q.p, value_ms=q.value, interval_ms=q.interval, samples_needed=q.samples_needed)
