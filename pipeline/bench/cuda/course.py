"""All cells of one network on a GPU: heats that fit the device's memory and the time, batch size after batch
size.

Sessions stay open from one batch size to the next, since making them is what takes the time. A cell that runs
out of memory in company has another heat with nobody but the baseline; a cell that brings its process down
too, and whoever shared that process is measured again. What is known so far is handed on after every heat.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from optim.contract import Array, Feeds
from optim.errors import FairleadError, MissingRuntimeError
from pipeline.bench.cuda.contract import References, stock
from pipeline.bench.cuda.heat import (
    Rounds,
    Seat,
    SeatLostError,
    affordable,
    is_out_of_memory,
    require_healthy,
    run_rounds,
    warm_up,
    words_of,
)
from pipeline.bench.cuda.precision import FP16, Precision, as_half
from pipeline.bench.cuda.process import ANSWER_LIMIT_S, Kind, Station, StationLostError, Stations, kind_of
from pipeline.bench.cuda.results import heat_of, record_of, result_of
from pipeline.bench.cuda.room import expected_mib, has_room
from pipeline.bench.records import CudaHeat, CudaRecord, CudaResult, CudaSettings
from pipeline.sources.contract import Progress, no_progress

COMPILE_LIMIT_S: Final = 900.0
LEAST_LIMIT_S: Final = 30.0  # to open a cell, however short the time: longer, and the process has hung
OPENING_SHARE: Final = 0.7  # of a heat's time, after which no further cell is opened
MAKING_WEIGHT: Final = 2.0  # of making a network's sessions, beside 1 for measuring them at batch 1
STRIKES: Final = 2  # processes of one network that a cell may bring down before it is given up
MOST_KILLS: Final = 3  # of all networks: after that it is not tried again
DEAD_STARTS: Final = 4  # processes of a kind, in a row, that answered nothing: there will be no other
NOT_REACHED: Final = "not reached in the time"
LEAST_ENERGY_S: Final = 3.0  # beside the window: to bind and to warm up

Keep = Callable[[CudaRecord], None]


@dataclass(frozen=True)
class Subject:
    """A network, its files and what it is fed.

    Args:
        name: in the record.
        files: by precision.
        feeds: inputs by name for each batch size, in the types of the file that the user had.
        given: the precision of that file; its plain ``session.run`` is the baseline of all cells.
        references: what the CPU answers at some batch sizes. At others, cells are held against the baseline.
    """

    name: str
    files: Mapping[Precision, str]
    feeds: Mapping[int, Feeds]
    given: Precision = "fp32"
    references: References = field(default_factory=dict)


@dataclass(frozen=True)
class Energy:
    """Whose energy is measured, and where."""

    cells: tuple[CudaSettings, ...] = ()
    batch: int = 0
    window_s: float = 0.0


class Course:
    """The measurement of one network's cells."""

    def __init__(
        self,
        subject: Subject,
        cells: Sequence[CudaSettings],
        stations: Stations,
        hello: Mapping[str, Any],
        *,
        rounds: Rounds | None = None,
        energy: Energy | None = None,
        keep: Keep = lambda _record: None,
        clock: Callable[[], float] = time.monotonic,
        progress: Progress = no_progress,
    ) -> None:
        """Nothing is opened yet.

        Args:
            subject: the network.
            cells: the most important first.
            stations: the processes.
            hello: what the GPU says of itself.
            rounds: how long to measure.
            energy: of which cells.
            keep: told of the record so far after each heat, without comparisons: drawing them takes time.
            clock: seconds.
            progress: progress callback.
        """
        self._subject, self._stations, self._hello = subject, stations, hello
        self._cells = [cell for cell in cells if not cell.stock]
        self._rounds, self._energy = rounds or Rounds(), energy or Energy()
        self._keep, self._clock, self._progress = keep, clock, progress
        self._results: list[CudaResult] = []
        self._heats: list[CudaHeat] = []
        self._failed: list[str] = []
        self._memory: dict[int, float] = {}  # largest session by batch size
        self._open: dict[tuple[Kind, str], float] = {}  # memory of open sessions, MiB
        self._strikes: dict[str, int] = {}  # by title; both sessions of the baseline together
        self._over: set[tuple[int, CudaSettings]] = set()  # cells that failed at a batch size
        self._given_up: set[str] = set()  # baselines at this batch size, by key
        self._missing: set[CudaSettings] = set()  # cells whose runtime is not here
        self._alive: set[Kind] = set()  # kinds of process that have answered since they were started
        self._seated: list[Seat] = []
        self._short_of_room = False  # in the heat at hand
        self._deadline = math.inf

    def run(self, limit_s: float = math.inf) -> CudaRecord:
        """Measure until all is done or the time is over; what was not reached is listed."""
        until = self._deadline = self._clock() + limit_s
        batches = sorted(self._subject.feeds)
        with tempfile.TemporaryDirectory() as folder:
            self._folder = Path(folder)
            try:
                weights = batch_weights(batches)
                for k, batch in enumerate(batches):
                    now = self._clock()
                    share = weights[k] / sum(weights[k:])
                    self._batch(batch, now + (until - now) * share)
                self._energies(until)
            finally:
                self._close_all()
        return self.record()

    def record(self, *, compared: bool = True) -> CudaRecord:
        """What is known so far."""
        name = str(self._hello.get("name", ""))
        return record_of(name, self._results, self._heats, self._failed, compared=compared)

    # --- a batch size ----------------------------------------------------------------------------

    def _batch(self, batch: int, until: float) -> None:
        self._given_up.clear()
        compilers = [cell for cell in self._cells if cell.runtime != "onnxruntime"]
        ordinary = [cell for cell in self._cells if cell.runtime == "onnxruntime"]
        for group in (ordinary, *([one] for one in compilers)):
            self._group([cell for cell in group if self._is_worth_trying(cell, batch)], batch, until)
        self._release_all()

    def _is_worth_trying(self, cell: CudaSettings, batch: int) -> bool:
        """Not where its runtime is missing, nor where it has brought down too many processes."""
        if cell in self._missing:
            return False
        if self._is_struck_out(cell):
            self._fail(batch, cell, "not tried: it brought its process down before")
            return False
        return True

    def _is_struck_out(self, cell: CudaSettings) -> bool:
        return self._strikes.get(cell.title, 0) >= STRIKES or self._stations.kills[cell] >= MOST_KILLS

    def _group(self, waiting: list[CudaSettings], batch: int, until: float) -> None:
        """Heats until every cell is measured, has failed, or the time is over."""
        alone: list[CudaSettings] = []
        while waiting or alone:
            if self._clock() >= until:
                for cell in (*waiting, *alone):
                    self._fail(batch, cell, NOT_REACHED)
                return
            company = bool(waiting)
            group = waiting if company else [alone.pop(0)]
            if not company:
                self._close_all()
            self._seated = []
            try:
                left = self._heat(group, batch, until, alone if company else None)
            except SeatLostError as lost:
                left = self._after_loss(lost, group, batch, alone)
            if company:
                waiting = left
            else:
                alone[:0] = left
            if alone or not company or self._short_of_room:
                self._close_cells()

    def _heat(
        self, group: Sequence[CudaSettings], batch: int, until: float, alone: list[CudaSettings] | None
    ) -> list[CudaSettings]:
        """Open what fits, and measure it; the cells that are left for the next heat."""
        begin = self._clock()
        opening_until = begin + OPENING_SHARE * (until - begin)
        self._short_of_room = False
        if not self._room_for(stock(self._subject.given), batch):
            self._close_cells()  # they hold what they needed for the batch size before
        pair = self._baselines(batch, until)
        left: list[CudaSettings] = []
        for k, cell in enumerate(group):
            seated = [seat for seat in self._seated if not seat.cell.stock]
            self._short_of_room = not self._room_for(cell, batch)
            if seated and (self._short_of_room or self._clock() >= opening_until):
                left = list(group[k:])
                break
            if self._short_of_room:
                self._close_cells()
            self._progress(f"{self._subject.name}, batch {batch}: {cell.title}", k / len(group))
            self._seat(Seat(cell.title, cell, kind_of(cell)), batch, until, alone)
        now = self._clock()
        kept = affordable(self._seated, self._rounds, until - now, self._deadline - now)
        dropped = [seat.cell for seat in self._seated[kept:]]
        self._seated = self._seated[:kept]
        cells = [seat for seat in self._seated if not seat.cell.stock]
        if not cells:
            for cell in dropped:  # not one of them fits the time
                self._fail(batch, cell, NOT_REACHED)
            return left
        left = [*dropped, *left]
        name = f"{self._subject.name}, batch {batch}, heat {len(self._heats) + 1}: {cells[0].cell.title}"
        done = run_rounds(
            self._seated,
            self._stations.get,
            replace(self._rounds, seed=self._rounds.seed + len(self._heats)),
            clock=self._clock,
            until_s=until,
            pids=self._stations.pids(),
            progress=self._progress,
        )
        self._take_down(name, batch, done, pair, alone)
        self._keep(self.record(compared=False))
        return left

    def _take_down(
        self,
        name: str,
        batch: int,
        done: int,
        pair: tuple[Seat | None, Seat | None],
        alone: list[CudaSettings] | None,
    ) -> None:
        """Results of the cells that took part in all rounds, and of the baseline once a batch size."""
        cells = [seat for seat in self._seated if not seat.cell.stock]
        self._heats.append(heat_of(name, self._subject.name, batch, len(cells), done, *pair))
        unwatched = str(self._hello.get("why_unwatched", ""))
        for seat in self._seated:
            if seat.failed:
                self._set_aside(seat, batch, seat.failed, alone)
            elif seat is not pair[1] and not self._has(batch, seat.cell):
                self._results.append(result_of(seat, self._subject.name, batch, name, unwatched))

    def _has(self, batch: int, cell: CudaSettings) -> bool:
        return any((r.batch, r.settings) == (batch, cell) for r in self._results)

    def _baselines(self, batch: int, until: float) -> tuple[Seat | None, Seat | None]:
        """``session.run`` as installed, in two sessions; None where it cannot run.

        The second is a new one in every heat: what sessions differ by is learnt from many of them.
        """
        cell = stock(self._subject.given)
        seats = [Seat(cell.title + again, cell, kind_of(cell)) for again in ("", ", again")]
        twin = (seats[1].kind, self._session(seats[1]))
        self._close_sessions([twin] if twin in self._open else [])
        for seat in seats:
            if seat.key in self._given_up or self._is_struck_out(cell):
                seat.failed = "given up"
            else:
                self._seat(seat, batch, until, None)
        first, second = (None if seat.failed else seat for seat in seats)
        return first, second

    def _seat(self, seat: Seat, batch: int, until: float, alone: list[CudaSettings] | None) -> None:
        """Open a cell and warm it up; one that cannot be is set aside with its words.

        Raises:
            SeatLostError: its process is gone.
        """
        if self._is_dead(seat.kind):
            seat.failed = f"no process of this kind stays alive: {self._stations.why_dead[seat.kind]}"
            self._set_aside(seat, batch, seat.failed, None)
            return
        station = self._station(seat)
        most = ANSWER_LIMIT_S if seat.cell.runtime == "onnxruntime" else COMPILE_LIMIT_S
        limit = max(LEAST_LIMIT_S, min(most, until - self._clock()))
        try:
            seat.opened = station.ask(self._opening(seat, batch), limit)
            warm_up(seat, station, self._rounds)
        except StationLostError as error:
            raise SeatLostError(seat, words_of(error)) from error
        except FairleadError as error:
            seat.failed = words_of(error)
            if isinstance(error, MissingRuntimeError) and not seat.cell.stock:
                self._missing.add(seat.cell)
            require_healthy(seat, station)
            self._quietly(station, {"do": "release", "key": seat.key})
            self._set_aside(seat, batch, seat.failed, alone)
            return
        mib = float(seat.opened["memory_mib"])
        self._open[seat.kind, self._session(seat)] = mib
        self._memory[batch] = max(self._memory.get(batch, 0.0), mib)
        self._seated.append(seat)

    def _set_aside(self, seat: Seat, batch: int, words: str, alone: list[CudaSettings] | None) -> None:
        if seat.cell.stock:
            self._given_up.add(seat.key)
            self._failed.append(f"batch {batch}, {seat.key}: {words}")
        elif alone is not None and is_out_of_memory(words):
            alone.append(seat.cell)
        else:
            self._fail(batch, seat.cell, words)

    def _after_loss(
        self, lost: SeatLostError, group: Sequence[CudaSettings], batch: int, alone: list[CudaSettings]
    ) -> list[CudaSettings]:
        """A process is gone: whoever brought it down is alone next time, or given up; the rest wait."""
        seat = lost.seat
        self._stations.end(seat.kind)
        self._open = {key: mib for key, mib in self._open.items() if key[0] != seat.kind}
        if seat.kind not in self._alive:
            self._stations.dead_starts[seat.kind] += 1
            self._stations.why_dead[seat.kind] = lost.words
        self._alive.discard(seat.kind)
        self._strikes[seat.cell.title] = self._strikes.get(seat.cell.title, 0) + 1
        self._stations.kills[seat.cell] += not seat.cell.stock
        struck_out = self._is_struck_out(seat.cell)
        if seat.cell.stock:
            if struck_out:
                self._set_aside(seat, batch, lost.words, None)
        elif struck_out:
            self._fail(batch, seat.cell, lost.words)
        else:
            alone.append(seat.cell)
        for one in self._seated:
            if one.failed and one is not seat:
                self._set_aside(one, batch, one.failed, alone)
        return [
            cell
            for cell in group
            if cell not in alone and (batch, cell) not in self._over and not self._has(batch, cell)
        ]

    # --- what lies behind it ---------------------------------------------------------------------

    def _opening(self, seat: Seat, batch: int) -> dict[str, Any]:
        cell = seat.cell
        request: dict[str, Any] = {
            "do": "open",
            "key": seat.key,
            "session": self._session(seat),
            "model": str(Path(self._subject.files[cell.precision]).resolve()),
            "settings": cell.model_dump(mode="json"),
            "feeds": self._feeds_file(batch, cell.precision),
        }
        known = self._subject.references.get(batch)
        ours = self._folder / f"baseline_{batch}.npz"
        if known is not None:
            request["reference"] = self._file(f"reference_{batch}", lambda: known)
        elif cell.stock and not ours.exists():
            request["keep"] = str(ours)
        elif ours.exists():
            request |= {"reference": str(ours), "lenient": True}
        return request

    def _session(self, seat: Seat) -> str:
        """Cells that differ only in how they are called share a session."""
        title = seat.key if seat.cell.stock else seat.cell.model_copy(update={"bound": True}).title
        return f"{self._subject.name}: {title}"

    def _feeds_file(self, batch: int, precision: Precision) -> str:
        given = self._subject.feeds[batch]
        half = precision == FP16 and self._subject.given != FP16
        return self._file(f"{precision}_{batch}", lambda: as_half(given) if half else given)

    def _file(self, name: str, arrays: Callable[[], Mapping[str, Array]]) -> str:
        path = self._folder / f"{name}.npz"
        if not path.exists():
            np.savez(path, **arrays())  # type: ignore[arg-type]  # numpy types the keywords as its own options
        return str(path)

    def _station(self, seat: Seat) -> Station:
        if not self._stations.is_live(seat.kind):
            self._open = {key: mib for key, mib in self._open.items() if key[0] != seat.kind}
        try:
            return self._stations.get(seat.kind)
        except (StationLostError, OSError) as error:
            raise SeatLostError(seat, words_of(error)) from error

    def _room_for(self, cell: CudaSettings, batch: int) -> bool:
        """Whether the cell's session, or what it will grow by, fits beside those that are open."""
        seat = Seat(cell.title, cell, kind_of(cell))
        if self._is_dead(seat.kind):
            return True  # it will take none
        held = self._open.get((seat.kind, self._session(seat)), 0.0)
        try:
            memory = self._station(seat).ask({"do": "memory"})
        except FairleadError as error:
            raise SeatLostError(seat, words_of(error)) from error
        self._stations.dead_starts[seat.kind] = 0
        self._alive.add(seat.kind)
        return has_room(memory["free_mib"], memory["total_mib"], expected_mib(self._memory, batch) - held)

    def _is_dead(self, kind: Kind) -> bool:
        return self._stations.dead_starts[kind] >= DEAD_STARTS

    def _fail(self, batch: int, cell: CudaSettings, words: str) -> None:
        self._over.add((batch, cell))
        self._failed.append(f"batch {batch}, {cell.title}: {words}")

    def _quietly(self, station: Station, request: Mapping[str, Any]) -> None:
        """Tidy up where it can be; a process that cannot is ended, and its sessions with it."""
        try:
            station.ask(request)
        except FairleadError:
            station.close()

    def _release_all(self) -> None:
        for kind in {kind for kind, _session in self._open}:
            if self._stations.is_live(kind):
                self._quietly(self._stations.get(kind), {"do": "release"})
        for file in self._folder.glob("fp*_*.npz"):
            file.unlink()

    def _close_cells(self) -> None:
        """Make room: close all sessions but the baselines'."""
        baseline = f"{self._subject.name}: {stock(self._subject.given).title}"
        self._close_sessions([key for key in self._open if not key[1].startswith(baseline)])

    def _close_all(self) -> None:
        self._close_sessions(list(self._open))

    def _close_sessions(self, sessions: Sequence[tuple[Kind, str]]) -> None:
        for kind, session in sessions:
            self._open.pop((kind, session), None)
            if self._stations.is_live(kind):
                self._quietly(self._stations.get(kind), {"do": "close", "session": session})

    # --- energy ----------------------------------------------------------------------------------

    def _energies(self, until: float) -> None:
        """Put energies where their cells stand; one that fails costs only itself."""
        asked = self._energy
        for k, result in enumerate(self._results):
            if result.batch != asked.batch or result.settings not in asked.cells or asked.window_s <= 0:
                continue
            if until - self._clock() < asked.window_s + LEAST_ENERGY_S:
                changes: dict[str, Any] = {"energy_note": NOT_REACHED}
            else:
                changes = self._energy_of(result)
            self._results[k] = result.model_copy(update=changes)
        if asked.cells:
            self._keep(self.record(compared=False))

    def _energy_of(self, result: CudaResult) -> dict[str, Any]:
        self._seated = []
        seat = Seat(result.settings.title, result.settings, kind_of(result.settings))
        try:
            self._seat(seat, result.batch, math.inf, None)
            if seat.failed:
                return {"energy_note": seat.failed}
            window = {"do": "energy", "key": seat.key, "window_s": self._energy.window_s}
            reply = self._stations.get(seat.kind).ask(window, self._energy.window_s + ANSWER_LIMIT_S)
        except SeatLostError as lost:
            self._stations.end(seat.kind)
            return {"energy_note": lost.words}
        except FairleadError as error:
            return {"energy_note": words_of(error)}
        return {"energy_mj": reply["energy_mj"], "energy_note": reply["note"]}


def batch_weights(batches: Sequence[int]) -> list[float]:
    """The shares of the time that batch sizes get: longer runs take more, though not in proportion.

    The first one's holds the making of the sessions.
    """
    return [1 + math.log2(max(batch, 1)) / 4 + MAKING_WEIGHT * (k == 0) for k, batch in enumerate(batches)]
