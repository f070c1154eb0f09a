"""Find the fastest settings for a model on this machine, by successive elimination, under parity.

All candidates run against each other in short stages, in fresh processes each time. After a stage, a
candidate whose ratio to the leader is shown to be above 1 drops out (the confidence is shared out over all
such decisions: Bonferroni), and those left are measured longer. It ends when one is left, when the rest
cannot be told apart at the precision asked for, or when the time is over. A candidate that breaks parity
never starts.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict

from optim.contract import Feeds
from optim.errors import GateNotMetError, UserError
from pipeline.bench.contender import Contender
from pipeline.bench.host import host
from pipeline.bench.measure import Field, Schedule, usable_cpus
from pipeline.bench.stats import Groups, Ratio, compare_groups
from pipeline.sources.contract import Progress, no_progress

STAGE_S: Final = (0.1, 0.3, 1.0, 3.0)  # measured per candidate in each stage
PROCESSES: Final = 2
FINAL_PROCESSES: Final = 4
FAMILY_CONFIDENCE: Final = 0.95  # that no elimination in the whole race was wrong
RESERVE: Final = 0.2  # of the budget, for the last comparison with the default

Parity: TypeAlias = Callable[[Contender], str]
"""The reason why a candidate is not the same model; empty when it is."""
Measure: TypeAlias = Callable[[Sequence[Contender], int, Schedule], Groups]
"""Blocks of latencies of each contender in so many fresh processes."""


class Dropped(BaseModel):
    """A candidate that left the race."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    stage: int  # 0: before the race
    reason: str
    ratio: float | None = None  # to the leader
    interval: tuple[float, float] | None = None


class TuneRecord(BaseModel):
    """What the race found. ``interval`` is what to expect of winner / default on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Literal["tune"] = "tune"
    status: Literal["ok"] = "ok"
    winner: Contender
    default: str
    ratio: float
    interval: tuple[float, float]
    latency_ms: float
    undecided: tuple[str, ...]  # not shown to be slower than the winner
    dropped: tuple[Dropped, ...]
    stages: int
    seconds: float
    budget_s: float
    out_of_time: bool
    host: str  # fingerprint


class _State(BaseModel):
    """What is on disk between stages."""

    model_config = ConfigDict(extra="forbid")

    key: str
    stage: int = 0
    alive: list[str]
    dropped: list[Dropped] = []
    spent_s: float = 0.0


@dataclass(frozen=True)
class Race:
    """How to race: time, precision, and where to keep the state."""

    budget_s: float
    precision: float = 0.01  # half width of a ratio at which candidates count as equally good
    seed: int = 0
    state: Path | None = None  # JSON; an interrupted race goes on from its last stage


def tune(
    candidates: Sequence[Contender],
    feeds: Feeds,
    race: Race,
    *,
    parity: Parity = lambda _candidate: "",
    measure: Measure | None = None,
    progress: Progress = no_progress,
) -> TuneRecord:
    """Race ``candidates``; the first is the default that the winner is compared with.

    Raises:
        UserError: no candidate, shared names, or no time.
        GateNotMetError: no candidate keeps parity.
    """
    names = [c.name for c in candidates]
    if not candidates or len(set(names)) != len(names):
        raise UserError("candidates must be named, each by its own name", where=", ".join(names))
    if race.budget_s <= 0:
        raise UserError(f"a budget of {race.budget_s} s allows nothing", expected="more than 0 s")
    measure = measure or _measure_in_processes(feeds)
    by_name = {c.name: c for c in candidates}
    fingerprint = host().fingerprint
    state = _resume(race, candidates, feeds, fingerprint)
    begin = time.monotonic() - state.spent_s
    if state.stage == 0:
        _check_parity(state, candidates, parity)
        _keep(race, state, begin)
    decisions = max(1, (len(candidates) - 1) * len(STAGE_S))
    confidence = 1 - (1 - FAMILY_CONFIDENCE) / decisions
    out_of_time = False
    while len(state.alive) > 1 and state.stage < len(STAGE_S):
        out_of_time = time.monotonic() - begin > (1 - RESERVE) * race.budget_s
        if out_of_time:
            break
        progress(f"stage {state.stage + 1}: {len(state.alive)} candidates", state.stage / len(STAGE_S))
        if _stage(state, by_name, race, measure, confidence):
            _keep(race, state, begin)
            break
        _keep(race, state, begin)
    return _finish(state, by_name, candidates[0], race, measure, begin, fingerprint, out_of_time=out_of_time)


def cpu_candidates(contender: Contender) -> tuple[Contender, ...]:
    """Settings worth racing on this machine's CPUs; the first is the contender as it came."""
    cpus = len(usable_cpus()) or 1
    counts = sorted({contender.threads, 1, *(2**k for k in range(1, 8) if 2**k <= cpus), cpus})
    found = [contender]
    for threads in counts:
        for spinning in (False, True) if threads > 1 else (False,):
            for level in ("all", "extended"):
                name = f"{level}, {threads} threads, {'spinning' if spinning else 'waiting'}"
                settings = {"optimization": level, "threads": threads, "allow_spinning": spinning}
                candidate = contender.model_copy(update={"name": name, **settings})
                if candidate.model_copy(update={"name": contender.name}) != contender:
                    found.append(candidate)
    return tuple(found)


def _measure_in_processes(feeds: Feeds) -> Measure:
    def measure(contenders: Sequence[Contender], processes: int, schedule: Schedule) -> Groups:
        with Field(contenders, {c.name: processes for c in contenders}) as field:
            timed, _refused = field.measure(feeds, schedule)
        return {name: [t.blocks for t in group] for name, group in timed.items()}

    return measure


def _check_parity(state: _State, candidates: Sequence[Contender], parity: Parity) -> None:
    for candidate in [c for c in candidates if c.name in state.alive]:
        if reason := parity(candidate):
            state.dropped.append(Dropped(name=candidate.name, stage=0, reason=f"parity: {reason}"))
            state.alive.remove(candidate.name)
    if not state.alive:
        raise GateNotMetError(
            "no candidate is the same model", where="; ".join(f"{d.name}: {d.reason}" for d in state.dropped)
        )


def _stage(
    state: _State, by_name: Mapping[str, Contender], race: Race, measure: Measure, confidence: float
) -> bool:
    """One stage; changes ``state``. True when the candidates left are equally good."""
    schedule = Schedule(
        STAGE_S[state.stage], 3 * STAGE_S[state.stage] + 1, min_samples=20, seed=race.seed + state.stage
    )
    groups = measure([by_name[n] for n in state.alive], PROCESSES, schedule)
    state.stage += 1
    for name in [n for n in state.alive if n not in groups]:
        state.alive.remove(name)
        state.dropped.append(Dropped(name=name, stage=state.stage, reason="could not be opened or run"))
    if not state.alive:
        raise UserError("no candidate could be run", where="; ".join(d.name for d in state.dropped))
    leader = min(state.alive, key=lambda n: _level(groups[n]))
    ratios = {n: compare_groups(groups, leader, n, confidence=confidence) for n in state.alive if n != leader}
    for name, ratio in ratios.items():
        if ratio.low > 1:
            state.alive.remove(name)
            state.dropped.append(_slower(name, state.stage, leader, ratio))
    left = [ratios[n] for n in state.alive if n != leader]
    state.alive.sort(key=lambda n: _level(groups[n]))
    return bool(left) and all(r.high < 1 + race.precision and r.half_width < race.precision for r in left)


def _slower(name: str, stage: int, leader: str, ratio: Ratio) -> Dropped:
    return Dropped(
        name=name,
        stage=stage,
        reason=f"slower than {leader}",
        ratio=ratio.value,
        interval=(ratio.low, ratio.high),
    )


def _level(processes: Sequence[Sequence[np.ndarray]]) -> float:
    """Median of the processes' medians, in milliseconds."""
    return float(np.median([np.median(np.concatenate(list(blocks))) for blocks in processes]))


def _finish(
    state: _State,
    by_name: Mapping[str, Contender],
    default: Contender,
    race: Race,
    measure: Measure,
    begin: float,
    fingerprint: str,
    *,
    out_of_time: bool,
) -> TuneRecord:
    """The winner against the default in fresh processes: the race's own figures flatter the winner."""
    winner = by_name[state.alive[0]]
    left = max(race.budget_s - (time.monotonic() - begin), 0.0)
    schedule = Schedule(min(2.0, left / 8), max(1.0, left / 4), min_samples=30, seed=race.seed + 1000)
    pair = [winner] if winner.name == default.name else [default, winner]
    groups = measure(pair, FINAL_PROCESSES, schedule)
    if len(pair) == 2 and default.name in groups:
        ratio = compare_groups(groups, default.name, winner.name)
        value, interval = ratio.value, (ratio.low, ratio.high)
    else:
        value, interval = 1.0, (1.0, 1.0)
    seconds = time.monotonic() - begin
    if race.state is not None:
        race.state.unlink(missing_ok=True)
    return TuneRecord(
        winner=winner,
        default=default.name,
        ratio=value,
        interval=interval,
        latency_ms=_level(groups[winner.name]),
        undecided=tuple(n for n in state.alive if n != winner.name),
        dropped=tuple(state.dropped),
        stages=state.stage,
        seconds=seconds,
        budget_s=race.budget_s,
        out_of_time=out_of_time,
        host=fingerprint,
    )


def _resume(race: Race, candidates: Sequence[Contender], feeds: Feeds, fingerprint: str) -> _State:
    """The state on disk if it is of this very race on this very machine, else a fresh one."""
    identity = [fingerprint, race.seed, race.precision]
    identity += [c.model_dump_json() for c in candidates]
    identity += [f"{n} {a.dtype} {a.shape}" for n, a in feeds.items()]
    identity += [str(_stamp(Path(c.model))) for c in candidates]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    fresh = _State(key=key, alive=[c.name for c in candidates])
    if race.state is None or not race.state.is_file():
        return fresh
    try:
        found = _State.model_validate_json(race.state.read_text())
    except ValueError:
        return fresh
    return found if found.key == key and found.alive else fresh


def _stamp(model: Path) -> tuple[int, int]:
    if not model.exists():
        return (0, 0)
    facts = model.stat()
    return (facts.st_size, facts.st_mtime_ns)


def _keep(race: Race, state: _State, begin: float) -> None:
    if race.state is None:
        return
    state.spent_s = time.monotonic() - begin
    aside = race.state.with_name(race.state.name + f".{os.getpid()}.part")
    aside.write_text(state.model_dump_json(indent=1))
    aside.replace(race.state)
