"""Find the fastest settings for a model on this machine, by successive elimination, under parity.

What is far behind by its graph alone and its threads alone is not raced (``scout``). The others run against
each other in short stages, in heats small enough for the machine, in fresh processes each time. After a
heat, a candidate whose ratio to the heat's leader is shown to be above 1 drops out (the confidence is shared
out over all such decisions: Bonferroni), and those left are measured longer. It ends when one is left of each
runtime, when the rest cannot be told apart at the precision asked for, or when the next heat and the last
comparison would not both fit into the budget, judged by what heats took so far. A candidate that breaks
parity never starts.

Runtimes race apart, since each has a bundle of its own to go into; the best of each then meet the default.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import psutil

from optim.contract import Feeds
from optim.errors import GateNotMetError, UserError
from pipeline.bench.contender import Contender
from pipeline.bench.host import host
from pipeline.bench.measure import MEMORY_SHARE, Field, Schedule, most_gpu_processes, process_mib
from pipeline.bench.race_cost import affordable_seconds, timing_s
from pipeline.bench.race_state import RaceState, keep, race_key, resume
from pipeline.bench.records import Dropped, Raced, TunedChoice, TuneRecord
from pipeline.bench.scout import (
    FAR,
    Numerics,
    expected,
    numerics,
    quickest_graphs,
    runtime_of,
    with_most_threads,
)
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
SCOUT_ROUNDS: Final = 3
BINDING_COUNTS_BELOW_MS: Final = 20.0  # a longer run gains nothing that shows from buffers bound once
MOST_PROCESSES: Final = 12  # alive at a time
FAMILY_CONFIDENCE: Final = 0.95  # that no elimination in the whole race was wrong


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
        refine=refine,
        default=candidates[0],
        by_name={c.name: c for c in candidates},
        state=state,
        begin=time.monotonic() - state.spent_s - race.spent_s,
        confidence=1 - (1 - FAMILY_CONFIDENCE) / max(1, (len(candidates) - 1) * len(STAGE_S)),
        progress=progress,
    )
    if not state.started:
        course.check_parity()
    if not state.scouted:
        course.scout()
    course.run()
    record = _conclude(course)
    if race.state is not None:
        race.state.unlink(missing_ok=True)
    return record


@dataclass
class _Course:
    """A race under way; its state is what is on disk."""

    race: Race
    measure: Measure
    parity: Parity
    refine: Refine
    default: Contender
    by_name: dict[str, Contender]
    state: RaceState
    begin: float
    confidence: float  # of each decision
    progress: Progress
    out_of_time: bool = False

    def check_parity(self) -> None:
        """Drop what is not the same model. Threads and buffers do not decide that; graph and kernels do."""
        state = self.state
        known: dict[Numerics, Sameness] = {}
        for key, one in with_most_threads(list(self.by_name.values())).items():
            self.progress(f"parity of {one.name}", 0.0)
            known[key] = self.parity(one)
        for name in list(state.alive):
            found = known[numerics(self.by_name[name])]
            state.errors[name] = found.error
            state.graph_ms[name] = found.least_ms
            if found.reason:
                self._drop(name, 0, f"parity: {found.reason}")
        if not state.alive:
            lost = "; ".join(f"{d.name}: {d.reason}" for d in state.dropped)
            raise GateNotMetError("no candidate is the same model", where=lost)
        state.started = True
        self._keep()

    def scout(self) -> None:
        """Race the quickest graph with all settings of threads; drop what is far behind by both."""
        state = self.state
        alive = [self.by_name[name] for name in state.alive]
        graph_ms = {numerics(c): ms for c in alive if (ms := state.graph_ms.get(c.name)) is not None}
        for heat in quickest_graphs(alive, graph_ms):
            self.progress(f"threads: {len(heat)} candidates", 0.0)
            few = replace(
                self._stage_schedule(),
                min_samples=SCOUT_ROUNDS,
                min_rounds=SCOUT_ROUNDS,
                least_rounds=SCOUT_ROUNDS,
            )
            self.timed([self.by_name[name] for name in heat], 1, few.lasting(0.0))
        for name, ratio in expected(alive, graph_ms, state.levels).items():
            if ratio > FAR and name in state.alive:
                self._drop(
                    name, 1, f"expected to take {ratio:.1f} times the best, by its graph and its threads"
                )
        state.scouted = True
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
                state.settled.append(runtime_of(self.by_name[heat[0]]))
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
            found.setdefault(runtime_of(self.by_name[name]), name)
        return list(found.values())

    def better_of(self, leader: str, variants: Sequence[Contender], groups: Groups) -> Contender:
        """The leader, or the variant of it that is shown to be faster."""
        best = leader
        for one in variants:
            if one.name not in groups or leader not in groups:
                self._note(one.name, "could not be opened or run")
                continue
            ratio = compare_groups(groups, best, one.name)
            if ratio.high < 1:
                best = one.name
            else:
                self._note(one.name, f"not shown to be faster than {best}", ratio)
        return self.by_name[best]

    def _heats(self) -> list[list[str]]:
        """The candidates of each unsettled runtime in heats of a size that the machine bears."""
        heats: list[list[str]] = []
        for runtime in dict.fromkeys(runtime_of(self.by_name[n]) for n in self.state.alive):
            own = [n for n in self.state.alive if runtime_of(self.by_name[n]) == runtime]
            if len(own) < 2 or runtime in self.state.settled:
                continue
            count = math.ceil(len(own) / most_in_heat([self.by_name[n] for n in own], self._processes()))
            rng = np.random.default_rng([self.race.seed, self.state.stage])
            mixed = [own[k] for k in rng.permutation(len(own))]
            heats += [mixed[k::count] for k in range(count)]
        return heats

    def _heat_is_all(self, heat: Sequence[str]) -> bool:
        runtime = runtime_of(self.by_name[heat[0]])
        return set(heat) == {n for n in self.state.alive if runtime_of(self.by_name[n]) == runtime}

    def _run_heat(self, heat: Sequence[str]) -> bool:
        """One heat; changes the state. True when it was all of its runtime and the rest are equally good."""
        state, stage = self.state, self.state.stage
        whole = self._heat_is_all(heat)
        groups = self.timed([self.by_name[n] for n in heat], self._processes(), self._stage_schedule())
        there = [n for n in heat if n in groups]
        if not there:
            return False
        state.raced |= dict.fromkeys(there, stage + 1)
        leader = min(there, key=lambda n: state.levels[n])
        ratios = {
            n: compare_groups(groups, leader, n, confidence=self.confidence) for n in there if n != leader
        }
        for name, ratio in ratios.items():
            if ratio.low > 1:
                self._drop(name, stage + 1, f"slower than {leader}", ratio)
        left = [ratio for name, ratio in ratios.items() if name in state.alive]
        near = 1 + self.race.precision
        return whole and all(r.high < near and r.half_width < self.race.precision for r in left)

    def timed(self, members: Sequence[Contender], processes: int, schedule: Schedule) -> Groups:
        """Measure, and learn what a process costs beside its rounds."""
        begin = time.monotonic()
        groups = self.measure(members, processes, schedule)
        elapsed = time.monotonic() - begin
        state = self.state
        for one in members:
            if one.name in groups:
                state.levels[one.name] = _level(groups[one.name])
            elif one.name in state.alive:
                self._drop(one.name, state.stage + 1, "could not be opened or run")
        state.overhead_s += max(elapsed - timing_s(self._latencies(members), processes, schedule), 0.0)
        state.processes += processes * len(members)
        return groups

    def seconds(self) -> float:
        """Spent so far, those before an interruption too."""
        return time.monotonic() - self.begin

    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.race.budget_s - self.seconds()

    def cost(self, members: Sequence[Contender], processes: int, schedule: Schedule) -> float:
        """Seconds that a measurement will take, going by those before."""
        state = self.state
        each = state.overhead_s / state.processes if state.processes else 0.0
        return processes * len(members) * each + timing_s(self._latencies(members), processes, schedule)

    def final_size(self, members: Sequence[Contender]) -> tuple[int, Schedule]:
        """How many processes and how long the last comparison can have in the time left."""
        schedule = _schedule(FINAL_S[0], VERDICT_CONFIDENCE, self.race.seed + 1000)
        left = self.left()
        processes = FINAL_PROCESSES
        while processes > LEAST_FINAL_PROCESSES and self.cost(members, processes, schedule) > left:
            processes -= 1
        latencies = self._latencies(members)
        free = left - self.cost(members, processes, schedule) + timing_s(latencies, processes, schedule)
        return processes, schedule.lasting(affordable_seconds(latencies, processes, schedule, FINAL_S, free))

    def finalists(self) -> dict[str, list[Contender]]:
        """The leaders, and small variants of each that have not been measured."""
        found = {}
        for leader in self.leaders():
            worth_it = self.state.levels.get(leader, 0.0) < BINDING_COUNTS_BELOW_MS
            variants = self.refine(self.by_name[leader]) if worth_it else ()
            found[leader] = [one for one in variants if one.name not in self.by_name]
        return found

    def _latencies(self, members: Sequence[Contender]) -> list[float]:
        """Seconds, as last measured, or of the same graph with the most threads, or of the slowest known."""
        state = self.state
        known = [*state.levels.values(), *(ms for ms in state.graph_ms.values() if ms is not None)]
        guess = max(known, default=0.0)
        return [
            (state.levels.get(one.name) or state.graph_ms.get(one.name) or guess) / 1e3 for one in members
        ]

    def _affords(self, heat: Sequence[str]) -> bool:
        """Whether the heat can be run, and after it the last comparison."""
        last = [self.default]
        for leader, variants in self.finalists().items():
            last += [self.by_name[leader], *variants]
        final = self.cost(last, LEAST_FINAL_PROCESSES, _schedule(FINAL_S[0], VERDICT_CONFIDENCE, 0))
        members = [self.by_name[n] for n in heat]
        return self.cost(members, self._processes(), self._stage_schedule()) + final < self.left()

    def _stage_schedule(self) -> Schedule:
        stage = self.state.stage
        return _schedule(STAGE_S[stage], self.confidence, self.race.seed + stage)

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


def _conclude(course: _Course) -> TuneRecord:
    """The best and their variants against the default in fresh processes: the race's figures flatter its
    winner."""
    race, state, default = course.race, course.state, course.default
    variants = course.finalists()
    for leader, own in variants.items():
        course.by_name |= {one.name: one for one in own}
        state.errors |= {one.name: state.errors.get(leader) for one in own}
        state.levels |= {one.name: state.levels[leader] for one in own if leader in state.levels}
    field_ = {
        one.name: one for leader, own in variants.items() for one in (default, course.by_name[leader], *own)
    }
    course.progress("the best against the default", 0.95)
    groups = course.timed(list(field_.values()), *course.final_size(list(field_.values())))
    if default.name not in groups:
        raise UserError("the default settings could not be run", where=default.name)
    same_model = default.name not in {d.name for d in state.dropped if d.stage == 0}
    finalists = [course.better_of(leader, own, groups) for leader, own in variants.items()]
    choices: dict[str, TunedChoice] = {}
    for one in finalists:
        if one.name not in groups:
            continue
        choice = _choice(course, default, one, groups)
        rival = one != default and runtime_of(one) == runtime_of(default)
        if rival and choice.verdict != "faster" and same_model:
            course._note(one.name, "no faster than the default in fresh processes")
            choice = _choice(course, default, default, groups)
        choices[choice.runtime] = choice
    if runtime_of(default) not in choices and same_model:
        choices[runtime_of(default)] = _choice(course, default, default, groups)
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
    """How many candidates may be measured together: as many processes as the machine and its GPU bear."""
    free_mib = psutil.virtual_memory().available / 2**20
    each = max(process_mib(one) for one in candidates)
    on_gpu = most_gpu_processes(candidates)
    alive = min(MOST_PROCESSES, int(MEMORY_SHARE * free_mib / each), on_gpu or MOST_PROCESSES)
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
        runtime=runtime_of(one),
        contender=one,
        recipe=course.race.recipes.get(one.model, ""),
        latency_ms=value,
        interval_ms=widened(value, interval, spread=spread, freedom=freedom, processes=len(groups[one.name])),
        ratio=ratio.value,
        ratio_interval=(ratio.low, ratio.high),
        verdict="no_difference_shown" if same else judge(ratio),
    )


def _level(processes: Sequence[Sequence[np.ndarray]]) -> float:
    """Median of the processes' medians, in milliseconds."""
    return float(np.median([np.median(np.concatenate(list(blocks))) for blocks in processes]))


def _measure_in_processes(feeds: Feeds) -> Measure:
    def measure(contenders: Sequence[Contender], processes: int, schedule: Schedule) -> Groups:
        on_gpu = most_gpu_processes(contenders)  # each of a pair has one process at the least
        if on_gpu is not None:
            processes = max(1, min(processes, on_gpu // len(contenders)))
        with Field(contenders, {c.name: processes for c in contenders}) as running:
            timed, _refused = running.measure(feeds, schedule)
        return {name: [t.blocks for t in group] for name, group in timed.items()}

    return measure
