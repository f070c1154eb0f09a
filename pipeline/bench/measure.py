"""Measure contenders against each other: all processes alive at once, in short blocks, in random order.

One round gives each contender one block. The order is drawn anew for each round, so that neither drift nor
the state in which one contender leaves the caches falls on the same one every time. Whoever is not measured
is stopped, so that threads that spin after a call take nothing from the others.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optim.contract import Feeds
from optim.errors import FairleadError, UserError
from pipeline.affinity import usable_cpus
from pipeline.bench.child import Child
from pipeline.bench.contender import Contender, Opened, Usage
from pipeline.bench.cuda.nvml import gpu_free_mib
from pipeline.bench.cuda.room import gpu_process_mib, processes_on_gpu
from pipeline.bench.stats import LEAST_ROUNDS, is_settled
from pipeline.sources.contract import Progress, no_progress

BLOCK_S: Final = 0.005  # long enough to warm the caches again, short against changes of load
MOST_RUNS_IN_BLOCK: Final = 50
SETTLE_BELOW_S: Final = 0.02  # a run quicker than this is repeated once, untimed, at the start of a block
MOST_SAMPLES: Final = 20_000  # per contender and batch size; beyond this, more say little
MEMORY_SHARE: Final = 0.8  # of what is free, for all processes together
PROCESS_FACTOR: Final = 3.0  # a process's memory over its model's file
PROCESS_MIB: Final = 150.0  # ... and beside it


@dataclass(frozen=True)
class Schedule:
    """How long to measure. Times are per contender (all its processes) and batch size, in seconds."""

    min_duration_s: float = 2.0
    max_duration_s: float = 30.0
    min_samples: int = 100
    min_rounds: int = 3 * LEAST_ROUNDS
    least_rounds: int = LEAST_ROUNDS  # measured even when the longest duration is over
    warmup_window_s: float = 0.05
    warmup_limit_s: float | None = None  # None: a third of the longest duration, at least 1
    seed: int = 0

    def lasting(self, seconds: float) -> Schedule:
        """The same for another ``min_duration_s``, and the longest in proportion."""
        return replace(self, min_duration_s=seconds, max_duration_s=3 * seconds + 1)


@dataclass(frozen=True)
class Timed:
    """One process's timings at one batch size.

    ``blocks`` holds one array of milliseconds per round, in order of time.
    """

    contender: Contender
    opened: Opened
    first_run_ms: float
    warmup_runs: int
    settled: bool
    blocks: tuple[NDArray[np.float64], ...]
    usage: Usage  # since the process's start
    cpu_share: float  # CPU seconds per second of running, all threads of the process
    pid: int


@dataclass
class _Running:
    """A live process and what is known of it so far."""

    child: Child
    warmup_runs: int = 0
    window_medians_s: list[float] = field(default_factory=list)
    settled: bool = False
    runs_in_block: int = 1
    settle: int = 0
    blocks: list[NDArray[np.float64]] = field(default_factory=list)
    measured_s: float = 0.0
    running_s: float = 0.0  # measured, and settling
    cpu_s: float = 0.0

    @property
    def samples(self) -> int:
        return sum(len(b) for b in self.blocks)


class Field:
    """The contenders' processes, all alive until the field is closed."""

    def __init__(
        self, contenders: Sequence[Contender], processes: Mapping[str, int], *, memory_mib: int = 0
    ) -> None:
        """Start them all, then open them one after the other, so that none disturbs another's creation.

        A contender that cannot be opened stands in ``refused`` with its error.

        Args:
            contenders: what to run; names are unique.
            processes: how many processes of each, by name; 1 where not named.
            memory_mib: bound on each process's private memory; 0: none.

        Raises:
            UserError: two contenders share a name.
        """
        names = [c.name for c in contenders]
        if len(set(names)) != len(names):
            raise UserError(f"contenders share a name: {', '.join(names)}")
        self.children: list[Child] = []
        self.refused: dict[str, FairleadError] = {}
        try:
            for contender in contenders:
                for _ in range(processes.get(contender.name, 1)):
                    self.children.append(Child(contender, memory_mib=memory_mib))
            self._open_all()
        except BaseException:
            self.close()
            raise

    def _open_all(self) -> None:
        for child in self.children:
            name = child.contender.name
            if name in self.refused:
                continue
            try:
                child.open()
            except FairleadError as error:
                self.refused[name] = error
        for child in [c for c in self.children if c.contender.name in self.refused]:
            child.close()
            self.children.remove(child)

    def measure(
        self, feeds: Feeds, schedule: Schedule, progress: Progress = no_progress
    ) -> tuple[dict[str, tuple[Timed, ...]], dict[str, FairleadError]]:
        """Time every open contender on ``feeds`` (arrays by input name).

        Returns:
            Timings of each process by contender name, and the error of each contender that refused the
            feeds.
        """
        running: list[_Running] = []
        refused: dict[str, FairleadError] = {}
        for child in self.children:
            if child.contender.name in refused:
                continue
            try:
                child.set_feeds(feeds)
            except FairleadError as error:
                refused[child.contender.name] = error
            else:
                child.rest()
                running.append(_Running(child))
        running = [r for r in running if r.child.contender.name not in refused]
        order = random.Random(schedule.seed)
        if running:
            _warm_up(running, schedule, order, progress)
            _measure_rounds(running, schedule, order, progress)
        timed: dict[str, tuple[Timed, ...]] = {}
        for r in running:
            name = r.child.contender.name
            timed[name] = (*timed.get(name, ()), _timed(r))
        return timed, refused

    def close(self) -> None:
        """End all children, all at the same time."""
        for child in self.children:
            child.ask_to_close()
        for child in self.children:
            child.close()
        self.children.clear()

    def __enter__(self) -> Field:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def process_mib(contender: Contender) -> float:
    """Memory that a process of the contender takes, roughly, in MiB."""
    return PROCESS_MIB + PROCESS_FACTOR * contender.file_bytes() / 2**20


def most_gpu_processes(contenders: Sequence[Contender]) -> int | None:
    """How many processes of the contenders on a GPU fit its free memory; None: there are none, or it is not
    told.
    """
    on_gpu = [c for c in contenders if c.device == "cuda"]
    if not on_gpu:
        return None
    return processes_on_gpu(gpu_free_mib(), max(gpu_process_mib(c.file_bytes()) for c in on_gpu))


def affordable_processes(contenders: Sequence[Contender], wanted: int, free_mib: float) -> dict[str, int]:
    """How many processes of each, by name: ``wanted``, or fewer where memory is short, the GPU's too.

    Source frameworks get one: they take seconds to start and hundreds of MiB each.
    """
    cost = {c.name: process_mib(c) for c in contenders}
    many = [c.name for c in contenders if c.kind != "source"]
    count = wanted
    most = most_gpu_processes(contenders)
    if most is not None:
        count = max(1, min(count, most // sum(c.device == "cuda" for c in contenders)))
    while count > 1 and sum(cost[n] * (count if n in many else 1) for n in cost) > MEMORY_SHARE * free_mib:
        count -= 1
    return {c.name: count if c.name in many else 1 for c in contenders}


def _warm_up(running: list[_Running], schedule: Schedule, order: random.Random, progress: Progress) -> None:
    """Run windows of each in turn until each has settled, or the time for that is over."""
    limit_s = schedule.warmup_limit_s
    if limit_s is None:
        limit_s = max(1.0, schedule.max_duration_s / 3)
    limit_s *= len({r.child.contender.name for r in running})
    begin = time.perf_counter()
    runs = {r.child.pid: 1 for r in running}
    while pending := [r for r in running if not r.settled]:
        if time.perf_counter() - begin > limit_s:
            break
        progress("warming up", 0.0)
        order.shuffle(pending)
        for r in pending:
            window = r.child.run(runs[r.child.pid]).astype(np.float64) / 1e9
            r.child.rest()
            r.warmup_runs += len(window)
            middle = float(np.median(window))
            if window.sum() < schedule.warmup_window_s / 2 and len(window) < 1000:
                wanted = max(2 * len(window), int(schedule.warmup_window_s / max(middle, 1e-7)))
                runs[r.child.pid] = min(1000, wanted)
                continue  # too short to judge by
            r.window_medians_s.append(middle)
            r.settled = is_settled(r.window_medians_s)
    for r in running:
        middle = r.window_medians_s[-1] if r.window_medians_s else 1.0
        r.runs_in_block = min(MOST_RUNS_IN_BLOCK, max(1, round(BLOCK_S / max(middle, 1e-7))))
        r.settle = 1 if middle < SETTLE_BELOW_S else 0


def _measure_rounds(
    running: list[_Running], schedule: Schedule, order: random.Random, progress: Progress
) -> None:
    """Rounds until every contender has enough; all take part to the end, so that rounds are complete."""
    before: dict[int, float] = {}
    for r in running:
        before[r.child.pid] = r.child.usage().cpu_s
        r.child.rest()
    names = {r.child.contender.name for r in running}
    begin = time.perf_counter()
    cpus = usable_cpus()
    while True:
        turn = list(running)
        order.shuffle(turn)
        drawn = order.sample(cpus, len(cpus))
        for r in turn:
            _place(r.child, drawn)
            start = time.perf_counter()
            block = r.child.run(r.runs_in_block, settle=r.settle)
            r.running_s += time.perf_counter() - start
            r.child.rest()
            r.measured_s += float(block.sum()) / 1e9
            r.blocks.append(block.astype(np.float64) / 1e6)
        done = min(_share_done([r for r in running if r.child.contender.name == n], schedule) for n in names)
        progress("measuring", min(done, 1.0))
        over = time.perf_counter() - begin > schedule.max_duration_s * len(names)
        if done >= 1 or (over and len(running[0].blocks) >= schedule.least_rounds):
            break
    for r in running:
        r.cpu_s = r.child.usage().cpu_s - before[r.child.pid]


def _place(child: Child, drawn: Sequence[int]) -> None:
    """Bind a child to as many CPUs as it has threads: the same for all contenders in a round.

    Left to the scheduler, a process stays on one CPU for long, and CPUs differ (interrupts, neighbours).
    """
    if len(drawn) > child.contender.threads:
        child.bind(set(drawn[: child.contender.threads]))


def _share_done(processes: Sequence[_Running], schedule: Schedule) -> float:
    measured_s, samples = sum(r.measured_s for r in processes), sum(r.samples for r in processes)
    time_done = measured_s / schedule.min_duration_s if schedule.min_duration_s > 0 else 1.0
    return min(
        max(time_done, samples / MOST_SAMPLES),
        samples / schedule.min_samples,
        len(processes[0].blocks) / schedule.min_rounds,
    )


def _timed(r: _Running) -> Timed:
    return Timed(
        contender=r.child.contender,
        opened=r.child.opened,
        first_run_ms=r.child.first_run_ms,
        warmup_runs=r.warmup_runs,
        settled=r.settled,
        blocks=tuple(r.blocks),
        usage=r.child.usage(),
        cpu_share=r.cpu_s / r.running_s if r.running_s > 0 else 0.0,
        pid=r.child.pid,
    )
