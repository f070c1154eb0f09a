"""One heat on a GPU: cells whose sessions are open together, measured in rounds, in random order.

Short blocks of each cell follow one another, so that every ratio is between neighbours in time: what clocks,
temperature and neighbours do falls on all of them alike. A cell that fails drops out with its words; the
others go on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from optim.errors import FairleadError
from pipeline.bench.cuda.contract import COPIES
from pipeline.bench.cuda.nvml import GpuCondition
from pipeline.bench.cuda.process import Kind, Station, StationLostError
from pipeline.bench.records import CudaSettings
from pipeline.bench.stats import LEAST_ROUNDS, Floats
from pipeline.sources.contract import Progress, no_progress

MOST_RUNS_IN_BLOCK: Final = 50
COPY_MS: Final = 1.0  # of a block of copies: they are reported, not compared
SETTLING_RUNS: Final = 2  # untimed, at the start of a turn: the other process's work is still in the caches
SETTLE_BELOW_MS: Final = 50.0  # slower runs fill the caches by themselves
TURN_LIMIT_S: Final = 60.0
BETWEEN_TURNS_S: Final = 0.001  # to the child and back
OUT_OF_MEMORY: Final = (
    "out of memory", "failed to allocate memory", "cuda failure 2:", "alloc_failed", "memoryallocation",
    "bfcarena", "memory allocation failed",
)  # fmt: skip


@dataclass(frozen=True)
class Rounds:
    """How long to measure."""

    rounds: int = 16
    least: int = LEAST_ROUNDS  # below this nothing can be compared
    block_ms: float = 4.0  # of one figure of one cell in a round
    seed: int = 0


@dataclass
class Seat:
    """A cell in a heat, and what was found of it."""

    key: str
    cell: CudaSettings
    kind: Kind
    opened: dict[str, Any] = field(default_factory=dict)
    settled: bool = False
    warmup_runs: int = 0
    block_runs: dict[str, int] = field(default_factory=dict)
    settling_runs: int = 0
    turn_ms: float = 0.0  # of all its blocks in a round
    blocks: dict[str, list[Floats]] = field(default_factory=dict)
    before: GpuCondition | None = None
    after: GpuCondition | None = None
    failed: str = ""

    @property
    def rounds(self) -> int:
        return min((len(blocks) for blocks in self.blocks.values()), default=0)


class SeatLostError(Exception):
    """A process was lost in a cell's turn: ``seat`` is whose, ``words`` how."""

    def __init__(self, seat: Seat, words: str) -> None:
        super().__init__(words)
        self.seat, self.words = seat, words


def is_out_of_memory(words: str) -> bool:
    """Whether the runtime's words say that the device's memory did not suffice."""
    text = words.lower()
    return any(sign in text for sign in OUT_OF_MEMORY)


def words_of(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split())[:400]


def block_runs(took_ms: dict[str, float], block_ms: float) -> dict[str, int]:
    """How often to run each figure in a block, by how long it takes once; never not at all."""
    wanted = {figure: COPY_MS if figure in COPIES else block_ms for figure in took_ms}
    runs = {figure: round(wanted[figure] / max(ms, 1e-3)) for figure, ms in took_ms.items()}
    return {figure: max(1, min(MOST_RUNS_IN_BLOCK, count)) for figure, count in runs.items()}


def warm_up(seat: Seat, station: Station, rounds: Rounds) -> None:
    """Run a cell until it has settled, and size its blocks.

    Raises:
        SeatLostError: the process was lost.
        FairleadError: what the runtime raised.
    """
    try:
        reply = station.ask({"do": "settle", "key": seat.key})
    except StationLostError as error:
        raise SeatLostError(seat, words_of(error)) from error
    seat.settled, seat.warmup_runs = bool(reply["settled"]), int(reply["runs"])
    seat.opened["memory_mib"] = reply["memory_mib"]
    seat.block_runs = block_runs(reply["ms"], rounds.block_ms)
    main = next(iter(reply["ms"].values()))
    seat.settling_runs = SETTLING_RUNS if main < SETTLE_BELOW_MS else 0
    seat.turn_ms = seat.settling_runs * main + sum(seat.block_runs[f] * ms for f, ms in reply["ms"].items())


def affordable(seats: Sequence[Seat], rounds: Rounds, left_s: float, at_most_s: float) -> int:
    """How many of the seats, the first ones, can have the least rounds in the time that is left.

    The baseline's two come first and always take part; the first cell beside them may take ``at_most_s``.
    """
    spent, cells = 0.0, 0
    for k, seat in enumerate(seats):
        spent += rounds.least * (seat.turn_ms / 1e3 + BETWEEN_TURNS_S)
        if seat.cell.stock:
            continue
        if spent > (left_s if cells else max(left_s, at_most_s)):
            return k
        cells += 1
    return len(seats)


def require_healthy(seat: Seat, station: Station) -> None:
    """After a cell has failed: its process must still be able to use the GPU.

    An illegal access ends that for good, and every other cell there would fail in the same words.

    Raises:
        SeatLostError: it cannot.
    """
    try:
        station.ask({"do": "memory"}, TURN_LIMIT_S)
    except FairleadError as error:
        raise SeatLostError(seat, seat.failed or words_of(error)) from error


def run_rounds(
    seats: Sequence[Seat],
    station_of: Callable[[Kind], Station],
    rounds: Rounds,
    *,
    clock: Callable[[], float],
    until_s: float,
    pids: Collection[int] = (),
    progress: Progress = no_progress,
) -> int:
    """Measure until there are rounds enough, or the time is over and there are the least.

    Args:
        seats: warmed up; those that fail keep their words in ``failed`` and drop out.
        station_of: the process of each kind.
        rounds: how many, and how long a block.
        clock: seconds.
        until_s: by this clock.
        pids: of all processes of this measurement: who else computes on the GPU disturbs it.
        progress: progress callback.

    Returns:
        How many rounds were completed; every seat without ``failed`` has a block of each.

    Raises:
        SeatLostError: a process was lost; all blocks of its seats are void.
    """
    order, done = random.Random(rounds.seed), 0
    while done < rounds.rounds and (done < rounds.least or clock() < until_s):
        live = [seat for seat in seats if not seat.failed]
        if not live:
            break
        order.shuffle(live)
        for seat in live:
            late = clock() >= until_s
            _turn(seat, station_of(seat.kind), pids, watch=late or done == rounds.rounds - 1)
        done += 1
        progress("measuring", done / rounds.rounds)
    return done


def _turn(seat: Seat, station: Station, pids: Collection[int], *, watch: bool) -> None:
    request = {
        "do": "turn",
        "key": seat.key,
        "runs": seat.block_runs,
        "settle": seat.settling_runs,
        "watch": watch or seat.before is None,
        "own": list(pids),
    }
    try:
        reply = station.ask(request, TURN_LIMIT_S)
    except StationLostError as error:
        raise SeatLostError(seat, words_of(error)) from error
    except FairleadError as error:
        seat.failed = words_of(error)
        require_healthy(seat, station)
        return
    for figure, samples in reply["samples"].items():
        if samples:
            seat.blocks.setdefault(figure, []).append(np.array(samples, dtype=np.float64))
    if reply["before"] is not None:
        seat.before = seat.before or _condition(reply["before"])
        seat.after = _condition(reply["after"])


def _condition(fields: dict[str, Any]) -> GpuCondition:
    return GpuCondition(fields["sm_mhz"], tuple(fields["held_back"]), fields["others"])
