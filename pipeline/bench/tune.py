"""Find the fastest settings for a model on this machine, by successive elimination, under parity.

Candidates run against each other in short stages, in heats small enough for the machine, in fresh processes
each time. After a heat, a candidate whose ratio to the heat's leader is shown to be above 1 drops out (the
confidence is shared out over all such decisions: Bonferroni), and those left are measured longer. It ends
when one is left of each runtime, when the rest cannot be told apart at the precision asked for, or when the
next heat and the last comparison would not both fit into the budget, judged by what heats took so far. A
candidate that breaks parity never starts.

Runtimes race apart, since each has a bundle of its own to go into; the best of each then meet the default.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
import psutil

from optim.contract import Feeds
from optim.errors import GateNotMetError, UserError
from pipeline.bench.contender import Contender
from pipeline.bench.host import host
from pipeline.bench.measure import MEMORY_SHARE, Field, Schedule, process_mib, usable_cpus
from pipeline.bench.race_state import RaceState, keep, race_key, resume
from pipeline.bench.records import Dropped, Raced, TunedChoice, TuneRecord
from pipeline.bench.stats import (
    VERDICT_CONFIDENCE,
    Groups,
    Ratio,
    compare_groups,
    judge,
    median,
    rounds_needed,
    spread_over_processes,
    widened,
)
from pipeline.sources.contract import Progress, no_progress

STAGE_S: Final = (0.05, 0.2, 0.8, 2.4)  # measured per candidate in each stage
STAGE_PROCESSES: Final = (1, 2, 2, 4)
FINAL_PROCESSES: Final = 4
LEAST_FINAL_PROCESSES: Final = 2  # with one, nothing would be known of what differs between processes
FINAL_S: Final = (0.2, 3.0)  # measured per candidate in the last comparison, at least and at most
WALL_PER_MEASURED: Final = 2.5  # seconds on the clock for each that counts: a run to settle comes before each
MOST_PROCESSES: Final = 12  # alive at a time
FAMILY_CONFIDENCE: Final = 0.95  # that no elimination in the whole race was wrong
PARITY_AT_ONCE: Final = 4
HOPELESS: Final = 3.0  # times the runtime's quickest, in the few calls of the parity check
RUNTIMES: Final[Mapping[str, Literal["onnxruntime", "openvino"]]] = {"openvino": "openvino"}


@dataclass(frozen=True)
class Sameness:
    """Whether a candidate is still the same model. ``reason`` is empty when it is."""

    error: float | None = None  # max|Δ| / range on the references
    reason: str = ""
    least_ms: float | None = None  # the quickest of a few calls on a reference


Parity: TypeAlias = Callable[[Contender], Sameness]
Measure: TypeAlias = Callable[[Sequence[Contender], int, Schedule], Groups]
"""Blocks of latencies of each contender in so many fresh processes."""
Refine: TypeAlias = Callable[[Contender], Sequence[Contender]]
"""Small variants of a winner."""


@dataclass(frozen=True)
class Race:
    """How to race: time, precision, and where to keep the state."""

    budget_s: float
    precision: float = 0.01  # half width of a ratio at which candidates count as equally good
    seed: int = 0
    batch: int = 1
    state: Path | None = None  # JSON; an interrupted race goes on from its last heat
    spent_s: float = 0.0  # of the budget, before the race: making variants of the graph
    recipes: Mapping[str, str] = field(default_factory=dict)  # what made a model file, by its path


def tune(
    candidates: Sequence[Contender],
    feeds: Feeds,
    race: Race,
    *,
    parity: Parity = lambda _candidate: Sameness(),
    refine: Refine = lambda _winner: (),
    measure: Measure | None = None,
    progress: Progress = no_progress,
) -> TuneRecord:
    """Race ``candidates``; the first is the default that the winners are compared with.

    Raises:
        UserError: no candidate, shared names, or no time.
        GateNotMetError: no candidate keeps parity.
    """
    names = [c.name for c in candidates]
    if not candidates or len(set(names)) != len(names):
        raise UserError("candidates must be named, each by its own name", where=", ".join(names))
    if race.budget_s <= 0:
        raise UserError(f"a budget of {race.budget_s} s allows nothing", expected="more than 0 s")
    key = race_key(race.seed, race.precision, candidates, feeds)
    state = resume(race.state, key, names)
    course = _Course(
        race=race,
        measure=measure or _measure_in_processes(feeds),
        parity=parity,
        by_name={c.name: c for c in candidates},
        state=state,
        begin=time.monotonic() - state.spent_s - race.spent_s,
        decisions=max(1, (len(candidates) - 1) * len(STAGE_S)),
        progress=progress,
    )
    if not state.started:
        course.check_parity()
    course.run()
    record = _conclude(course, candidates[0], refine)
    if race.state is not None:
        race.state.unlink(missing_ok=True)
    return record


@dataclass
class _Course:
    """A race under way; its state is what is on disk."""

    race: Race
    measure: Measure
    parity: Parity
    by_name: dict[str, Contender]
    state: RaceState
    begin: float
    decisions: int
    progress: Progress
    out_of_time: bool = False

    def check_parity(self) -> None:
        """Drop what is not the same model. Threads and buffers do not decide that; graph and kernels do."""
        state = self.state
        first = {_numerics(one): one for one in reversed(self.by_name.values())}
        self.progress(f"parity of {len(first)} combinations of graph and kernels", 0.0)
        with ThreadPoolExecutor(min(PARITY_AT_ONCE, len(usable_cpus()) or 1)) as pool:
            known = dict(zip(first, pool.map(self.parity, first.values()), strict=True))
        quickest = _quickest(known)
        for name in list(state.alive):
            one = self.by_name[name]
            found = known[_numerics(one)]
            state.errors[name] = found.error
            if found.reason:
                self._drop(name, 0, f"parity: {found.reason}")
            elif (found.least_ms or 0.0) > HOPELESS * quickest.get(_runtime(one), math.inf):
                self._drop(name, 1, f"its graph and kernels take {HOPELESS:g} times the quickest or longer")
        if not state.alive:
            lost = "; ".join(f"{d.name}: {d.reason}" for d in state.dropped)
            raise GateNotMetError("no candidate is the same model", where=lost)
        state.started = True
        self._keep()

    def run(self) -> None:
        """Stages until all runtimes are settled or the time is over."""
        state = self.state
        while state.stage < len(STAGE_S):
            if not state.queue:
                state.queue = self._heats()
                if not state.queue:
                    break
            heat = state.queue[0]
            if not self._affords(heat):
                self.out_of_time = True
                break
            done = (state.stage + 1 / (1 + len(state.queue))) / len(STAGE_S)
            self.progress(f"stage {state.stage + 1}: {len(state.alive)} candidates", done)
            if self._run_heat(heat):
                state.settled.append(_runtime(self.by_name[heat[0]]))
            state.queue.pop(0)
            if not state.queue:
                state.stage += 1
            self._keep()
        if not state.alive:
            raise UserError("no candidate could be run", where="; ".join(d.name for d in state.dropped))

    def leaders(self) -> list[str]:
        """The fastest left of each runtime; those never measured come last."""
        found: dict[str, str] = {}
        for name in sorted(self.state.alive, key=lambda n: self.state.levels.get(n, math.inf)):
            found.setdefault(_runtime(self.by_name[name]), name)
        return list(found.values())

    def variants(self, refine: Refine) -> dict[str, list[Contender]]:
        """The leaders, and small variants of each that have not been measured."""
        found = {}
        for leader in self.leaders():
            found[leader] = [one for one in refine(self.by_name[leader]) if one.name not in self.by_name]
            self.by_name |= {one.name: one for one in found[leader]}
            self.state.errors |= {one.name: self.state.errors.get(leader) for one in found[leader]}
        return found

    def better_of(self, leader: str, variants: Sequence[Contender], groups: Groups) -> Contender:
        """The leader, or the variant of it that is shown to be faster."""
        best = leader
        for one in variants:
            if one.name not in groups or leader not in groups:
                self._note(one.name, "could not be opened or run")
                continue
            self.state.levels[one.name] = _level(groups[one.name])
            ratio = compare_groups(groups, best, one.name)
            if ratio.high < 1:
                best = one.name
            else:
                self._note(one.name, f"not shown to be faster than {best}", ratio)
        return self.by_name[best]

    def _heats(self) -> list[list[str]]:
        """The candidates of each unsettled runtime in heats of a size that the machine bears."""
        heats: list[list[str]] = []
        for runtime in dict.fromkeys(_runtime(self.by_name[n]) for n in self.state.alive):
            own = [n for n in self.state.alive if _runtime(self.by_name[n]) == runtime]
            if len(own) < 2 or runtime in self.state.settled:
                continue
            count = math.ceil(len(own) / most_in_heat([self.by_name[n] for n in own], self._processes()))
            rng = np.random.default_rng([self.race.seed, self.state.stage])
            mixed = [own[k] for k in rng.permutation(len(own))]
            heats += [mixed[k::count] for k in range(count)]
        return heats

    def _heat_is_all(self, heat: Sequence[str]) -> bool:
        runtime = _runtime(self.by_name[heat[0]])
        return set(heat) == {n for n in self.state.alive if _runtime(self.by_name[n]) == runtime}

    def _run_heat(self, heat: Sequence[str]) -> bool:
        """One heat; changes the state. True when it was all of its runtime and the rest are equally good."""
        state, stage = self.state, self.state.stage
        whole = self._heat_is_all(heat)
        confidence = 1 - (1 - FAMILY_CONFIDENCE) / self.decisions
        members = [self.by_name[n] for n in heat]
        schedule = _schedule(STAGE_S[stage], confidence, self.race.seed + stage)
        groups = self.timed(members, self._processes(), schedule)
        for name in [n for n in heat if n not in groups]:
            self._drop(name, stage + 1, "could not be opened or run")
        there = [n for n in heat if n in groups]
        if not there:
            return False
        state.levels |= {n: _level(groups[n]) for n in there}
        state.raced |= dict.fromkeys(there, stage + 1)
        leader = min(there, key=lambda n: state.levels[n])
        ratios = {n: compare_groups(groups, leader, n, confidence=confidence) for n in there if n != leader}
        for name, ratio in ratios.items():
            if ratio.low > 1:
                self._drop(name, stage + 1, f"slower than {leader}", ratio)
        left = [ratio for name, ratio in ratios.items() if name in state.alive]
        near = 1 + self.race.precision
        return whole and all(r.high < near and r.half_width < self.race.precision for r in left)

    def timed(self, members: Sequence[Contender], processes: int, schedule: Schedule) -> Groups:
        """Measure, and learn what a process costs beside the time that is measured."""
        begin = time.monotonic()
        groups = self.measure(members, processes, schedule)
        measured = WALL_PER_MEASURED * schedule.min_duration_s * len(members)
        self.state.overhead_s += max(time.monotonic() - begin - measured, 0.0)
        self.state.processes += processes * len(members)
        return groups

    def seconds(self) -> float:
        """Spent so far, those before an interruption too."""
        return time.monotonic() - self.begin

    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.race.budget_s - self.seconds()

    def cost(self, candidates: int, processes: int, seconds: float) -> float:
        """Seconds that a measurement will take, going by those before."""
        each = self.state.overhead_s / self.state.processes if self.state.processes else 0.0
        return candidates * (processes * each + WALL_PER_MEASURED * seconds)

    def _affords(self, heat: Sequence[str]) -> bool:
        """Whether the heat can be run, and after it the last comparison."""
        runtimes = {_runtime(self.by_name[n]) for n in self.state.alive}
        last = self.cost(1 + 2 * len(runtimes), LEAST_FINAL_PROCESSES, FINAL_S[0])
        return self.cost(len(heat), self._processes(), STAGE_S[self.state.stage]) + last < self.left()

    def _processes(self) -> int:
        return STAGE_PROCESSES[self.state.stage]

    def _drop(self, name: str, stage: int, reason: str, ratio: Ratio | None = None) -> None:
        self.state.alive.remove(name)
        self._note(name, reason, ratio, stage)

    def _note(self, name: str, reason: str, ratio: Ratio | None = None, stage: int | None = None) -> None:
        self.state.dropped.append(
            Dropped(
                name=name,
                stage=max(self.state.stage, 1) if stage is None else stage,
                reason=reason,
                ratio=None if ratio is None else ratio.value,
                interval=None if ratio is None else (ratio.low, ratio.high),
            )
        )

    def _keep(self) -> None:
        if self.race.state is not None:
            self.state.spent_s = self.seconds() - self.race.spent_s
            keep(self.race.state, self.state)


def _conclude(course: _Course, default: Contender, refine: Refine) -> TuneRecord:
    """The best and their variants against the default in fresh processes: the race's figures flatter its
    winner."""
    race, state = course.race, course.state
    variants = course.variants(refine)
    field_ = {
        one.name: one for leader, own in variants.items() for one in (default, course.by_name[leader], *own)
    }
    processes, seconds = _final_size(course, len(field_))
    course.progress("the best against the default", 0.95)
    schedule = _schedule(seconds, VERDICT_CONFIDENCE, race.seed + 1000)
    groups = course.measure(list(field_.values()), processes, schedule)
    if default.name not in groups:
        raise UserError("the default settings could not be run", where=default.name)
    same_model = default.name not in {d.name for d in state.dropped if d.stage == 0}
    finalists = [course.better_of(leader, own, groups) for leader, own in variants.items()]
    choices: dict[str, TunedChoice] = {}
    for one in finalists:
        if one.name not in groups:
            course._note(one.name, "could not be opened or run")
            continue
        choice = _choice(course, default, one, groups)
        if one != default and one.kind == default.kind and choice.verdict != "faster" and same_model:
            course._note(one.name, "no faster than the default in fresh processes")
            choice = _choice(course, default, default, groups)
        choices[choice.runtime] = choice
    if _runtime(default) not in choices and same_model:
        choices[_runtime(default)] = _choice(course, default, default, groups)
    winner = min(choices.values(), key=lambda c: (c.verdict != "faster", c.latency_ms))
    chosen = {c.contender.name for c in choices.values()}
    return TuneRecord(
        default=default.name,
        batch=race.batch,
        winner=winner,
        choices=tuple(choices.values()),
        undecided=tuple(n for n in state.alive if n not in chosen),
        dropped=tuple(state.dropped),
        raced=tuple(
            Raced(
                contender=one,
                latency_ms=state.levels.get(name),
                error=state.errors.get(name),
                stages=state.raced.get(name, 0),
            )
            for name, one in course.by_name.items()
        ),
        stages=state.stage,
        seconds=course.seconds(),
        budget_s=race.budget_s,
        out_of_time=course.out_of_time,
        host=host().fingerprint,
    )


def _final_size(course: _Course, candidates: int) -> tuple[int, float]:
    """Processes and measured seconds of each candidate in the last comparison: what the time left allows."""
    least, most = FINAL_S
    left = course.left()
    processes = FINAL_PROCESSES
    while processes > LEAST_FINAL_PROCESSES and course.cost(candidates, processes, least) > left:
        processes -= 1
    rest = (left - course.cost(candidates, processes, 0.0)) / (WALL_PER_MEASURED * candidates)
    return processes, min(max(rest, least), most)


def _schedule(seconds: float, confidence: float, seed: int) -> Schedule:
    """So long, in as many rounds as an interval of this confidence takes."""
    rounds = rounds_needed(confidence)
    return Schedule(
        seconds,
        3 * seconds + 1,
        min_samples=rounds,
        min_rounds=rounds,
        least_rounds=rounds,
        warmup_window_s=0.02,
        warmup_limit_s=0.3,
        seed=seed,
    )


def most_in_heat(candidates: Sequence[Contender], processes: int) -> int:
    """How many candidates may be measured together: as many processes as the machine bears."""
    free_mib = psutil.virtual_memory().available / 2**20
    each = max(process_mib(one) for one in candidates)
    alive = min(MOST_PROCESSES, int(MEMORY_SHARE * free_mib / each))
    return max(2, alive // processes)


def _choice(course: _Course, default: Contender, one: Contender, groups: Groups) -> TunedChoice:
    samples = np.concatenate([block for process in groups[one.name] for block in process])
    middle = median(samples)
    value = middle.value if middle.value is not None else float(np.median(samples))
    interval = middle.interval or (float(samples.min()), float(samples.max()))
    spread, freedom = spread_over_processes(groups)
    same = one.name == default.name
    ratio = Ratio(1.0, 1.0, 1.0, 1.0, 0) if same else compare_groups(groups, default.name, one.name)
    return TunedChoice(
        runtime=_runtime(one),
        contender=one,
        recipe=course.race.recipes.get(one.model, ""),
        latency_ms=value,
        interval_ms=widened(value, interval, spread=spread, freedom=freedom, processes=len(groups[one.name])),
        ratio=ratio.value,
        ratio_interval=(ratio.low, ratio.high),
        verdict="no_difference_shown" if same else judge(ratio),
    )


Numerics: TypeAlias = tuple[str, str, str]


def _numerics(one: Contender) -> Numerics:
    """What decides the numbers that come out: the runtime, the graph and the kernels."""
    return one.kind, one.model, one.optimization


def _quickest(known: Mapping[Numerics, Sameness]) -> dict[str, float]:
    """Milliseconds of each runtime's quickest call among those that are the same model."""
    found: dict[str, float] = {}
    for (kind, *_), sameness in known.items():
        if not sameness.reason and sameness.least_ms is not None:
            runtime = RUNTIMES.get(kind, "onnxruntime")
            found[runtime] = min(found.get(runtime, math.inf), sameness.least_ms)
    return found


def _runtime(one: Contender) -> Literal["onnxruntime", "openvino"]:
    return RUNTIMES.get(one.kind, "onnxruntime")


def _level(processes: Sequence[Sequence[np.ndarray]]) -> float:
    """Median of the processes' medians, in milliseconds."""
    return float(np.median([np.median(np.concatenate(list(blocks))) for blocks in processes]))


def _measure_in_processes(feeds: Feeds) -> Measure:
    def measure(contenders: Sequence[Contender], processes: int, schedule: Schedule) -> Groups:
        with Field(contenders, {c.name: processes for c in contenders}) as running:
            timed, _refused = running.measure(feeds, schedule)
        return {name: [t.blocks for t in group] for name, group in timed.items()}

    return measure
