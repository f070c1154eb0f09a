"""The child's side of a measurement on a GPU: it holds sessions and runs short blocks of them on demand.

It decides nothing: which cell runs next, how often, and what the figures mean is the parent's business
(``heat``). Between two requests it waits, and nothing of it runs on the GPU.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from optim.contract import Array
from optim.errors import InternalError, MissingRuntimeError
from pipeline.bench.cuda.contract import (
    RUN,
    BoundModel,
    Device,
    Inputs,
    Loaded,
    are_beyond_l2,
    energy_per_run_mj,
    input_sets,
    require_same,
)
from pipeline.bench.cuda.sampling import settle
from pipeline.bench.records import CudaSettings

Request = Mapping[str, Any]
Reply = dict[str, Any]
PEAK_MS: Final = 250.0  # of work for one peak
RANDOM: Final = 1_000_003  # values, repeated to fill large inputs: to draw more takes longer than to measure
ENQUEUED: Final = 32  # runs between two looks at the clock


@dataclass
class _Held:
    """A session and what it has cost so far."""

    loaded: Loaded
    memory_mib: float
    users: set[str] = field(default_factory=set)
    first_run_ms: float | None = None  # at the batch size at hand


@dataclass
class _Cell:
    """A way to call a session at one batch size."""

    runs: BoundModel
    settings: CudaSettings
    session: str
    sets: int
    done: int = 0

    @property
    def main(self) -> str:
        """The figure that the cell is about."""
        return next(iter(self.runs.figures))

    def take(self, figure: str) -> tuple[float, ...]:
        """Measure a figure once, on the next input set."""
        which = self.done % self.sets
        self.done += 1
        return self.runs.figures[figure](which)


class CudaBench:
    """Answers the parent's requests; ``device`` is None where there is none, for the reason ``why_not``."""

    def __init__(self, device: Device | None, why_not: str = "") -> None:
        self._device, self._why_not = device, why_not
        self._sessions: dict[str, _Held] = {}
        self._cells: dict[str, _Cell] = {}
        self._inputs: dict[str, Inputs] = {}
        self._feeds: dict[str, dict[str, Array]] = {}

    def answer(self, request: Request) -> Reply:
        """The reply to one request; the name of the request is its key ``do``."""
        answers: dict[str, Callable[[Request], Reply]] = {
            "hello": self._hello,
            "open": self._open,
            "settle": self._settle,
            "turn": self._turn,
            "energy": self._energy,
            "peak": self._peak,
            "memory": self._memory,
            "release": self._release,
            "close": self._close,
        }
        wanted = answers.get(request["do"])
        if wanted is None:
            raise InternalError(f"the GPU's child knows no request {request['do']!r}")
        return wanted(request)

    @property
    def device(self) -> Device:
        """The GPU.

        Raises:
            MissingRuntimeError: there is none.
        """
        if self._device is None:
            raise MissingRuntimeError(self._why_not)
        return self._device

    def close(self) -> None:
        """Close all sessions."""
        self._release({})
        for session in list(self._sessions):
            self._close({"session": session})

    def _hello(self, _request: Request) -> Reply:
        if self._device is None:
            return {"why_not": self._why_not}
        return {
            "why_not": "",
            "name": self.device.name,
            "l2_bytes": self.device.l2_bytes,
            "has_tensorrt": self.device.has_tensorrt,
            "why_unwatched": self.device.why_unwatched,
        }

    def _memory(self, _request: Request) -> Reply:
        """Also tells whether the GPU still answers: an illegal access ends a process's use of it."""
        self.device.synchronize()
        free, total = self.device.memory_mib()
        return {"free_mib": free, "total_mib": total}

    def _open(self, request: Request) -> Reply:
        """Bind a cell at a batch size, in a session that is made unless it is there already."""
        settings = CudaSettings.model_validate(request["settings"])
        key, name = request["key"], request["session"]
        self._release({"key": key})
        feeds = self._arrays(request["feeds"])
        weights = Path(request["model"]).stat().st_size if Path(request["model"]).is_file() else 0
        sets = input_sets(feeds, self.device.l2_bytes, weights)
        if request["feeds"] not in self._inputs:
            self._inputs[request["feeds"]] = self.device.place(feeds, sets)
        free_before = self.device.memory_mib()[0]
        try:
            if name not in self._sessions:
                self._sessions[name] = _Held(self.device.load(request["model"], settings), 0.0)
            held = self._sessions[name]
            held.users.add(key)
            runs = held.loaded.bind(self._inputs[request["feeds"]], bound=settings.bound)
            self._cells[key] = _Cell(runs, settings, name, sets)
            if held.first_run_ms is None:
                held.first_run_ms = runs.first_run_ms
            error = self._compared(runs, settings, request)
        except BaseException:
            self._drop(key, name)
            raise
        held.memory_mib += free_before - self.device.memory_mib()[0]
        return {
            "creation_ms": held.loaded.creation_ms,
            "first_run_ms": held.first_run_ms,
            "memory_mib": held.memory_mib,
            "sets": sets,
            "beyond_l2": are_beyond_l2(feeds, sets, self.device.l2_bytes, weights),
            "error": error,
            "figures": list(runs.figures),
        }

    def _compared(self, runs: BoundModel, settings: CudaSettings, request: Request) -> float | None:
        """How far the answers lie from the reference; kept in a file for others to be compared with."""
        if not request.get("reference") and not request.get("keep"):
            return None
        got = runs.outputs(0)
        if request.get("keep"):
            np.savez(request["keep"], **got)  # type: ignore[arg-type]  # numpy's own options
        if not request.get("reference"):
            return None
        # A reference from the GPU has TF32's rounding in it.
        bounds = settings.model_copy(update={"tf32": True}) if request.get("lenient") else settings
        error = require_same(got, self._arrays(request["reference"]), bounds)
        return None if request.get("lenient") else error

    def _settle(self, request: Request) -> Reply:
        """Warm up, and tell how long each figure takes once."""
        cell = self._cells[request["key"]]
        main = cell.main
        held = self._sessions[cell.session]
        free_before = self.device.memory_mib()[0]
        runs, settled = settle(lambda _k: cell.take(main)[-1], least=cell.sets + 1)
        took = {name: min(cell.take(name)[-1] for _ in range(2)) for name in cell.runs.figures}
        held.memory_mib += free_before - self.device.memory_mib()[0]
        return {"runs": runs, "settled": settled, "ms": took, "memory_mib": held.memory_mib}

    def _turn(self, request: Request) -> Reply:
        """One block of each figure asked for, after untimed runs that bring the caches back."""
        cell = self._cells[request["key"]]
        own = request.get("own", ())
        collecting = gc.isenabled()
        gc.disable()
        try:
            for _ in range(request["settle"]):
                cell.take(cell.main)
            before = self._condition(own) if request.get("watch") else None
            samples: dict[str, list[float]] = {"gpu": []}
            for figure, count in request["runs"].items():
                taken = [cell.take(figure) for _ in range(count)]
                samples[figure] = [one[-1] for one in taken]
                if figure == RUN:
                    samples["gpu"] = [one[0] for one in taken]
            after = self._condition(own) if request.get("watch") else None
        finally:
            if collecting:
                gc.enable()
        return {"samples": samples, "before": before, "after": after}

    def _condition(self, own: Any) -> Reply | None:
        found = self.device.condition(tuple(own))
        return None if found is None else asdict(found)

    def _energy(self, request: Request) -> Reply:
        """Millijoule of a run, from a window in which nothing else is done; or why that is not known."""
        cell, device, runs = self._cells[request["key"]], self.device, 0
        start_mj = device.energy_mj()
        if start_mj is None:
            return {"energy_mj": None, "note": device.why_unwatched or "this device has no energy counter"}
        begin = device.clock_s()
        while device.clock_s() - begin < request["window_s"]:
            for _ in range(ENQUEUED):
                cell.runs.enqueue(runs % cell.sets)
                runs += 1
            device.synchronize()
        end_mj = device.energy_mj()
        if end_mj is None:
            return {"energy_mj": None, "note": "the energy counter went away"}
        window_s = device.clock_s() - begin
        return {"energy_mj": energy_per_run_mj(start_mj, end_mj, runs, window_s), "note": ""}

    def _peak(self, request: Request) -> Reply:
        """The best time of a model on random inputs of these shapes, by events; zeros would run faster."""
        values = np.random.default_rng(0).standard_normal(RANDOM, np.float32).astype(request["dtype"])
        feeds = {name: np.resize(values, shape) for name, shape in request["shapes"].items()}
        loaded = self.device.load(request["model"], CudaSettings.model_validate(request["settings"]))
        inputs = self.device.place(feeds, 1)
        try:
            runs = loaded.bind(inputs, bound=True)
            best, spent = float("inf"), 0.0
            while spent < PEAK_MS:
                took = runs.figures[RUN](0)
                best, spent = min(best, took[0]), spent + max(took[1], 1e-3)
            runs.release()
        finally:
            inputs.release()
            loaded.close()
            gc.collect()
        return {"ms": best}

    def _release(self, request: Request) -> Reply:
        """Give back the buffers of one cell, or of all with their inputs; sessions stay."""
        keys = [request["key"]] if "key" in request else list(self._cells)
        for key in keys:
            cell = self._cells.pop(key, None)
            if cell is not None:
                cell.runs.release()
        if "key" not in request:
            for inputs in self._inputs.values():
                inputs.release()
            self._inputs.clear()
            self._feeds.clear()
            for held in self._sessions.values():
                held.first_run_ms = None
        return {}

    def _close(self, request: Request) -> Reply:
        """Close a session and whatever is bound to it."""
        held = self._sessions.pop(request["session"], None)
        if held is not None:
            for key in held.users:
                self._release({"key": key})
            held.loaded.close()
            del held
            gc.collect()
        return {}

    def _drop(self, key: str, session: str) -> None:
        """Leave nothing of a cell that could not be opened; its session only where others use it."""
        self._release({"key": key})
        held = self._sessions.get(session)
        if held is not None:
            held.users.discard(key)
            if not held.users:
                self._close({"session": session})

    def _arrays(self, path: str) -> dict[str, Array]:
        """Arrays by name; read once, until all is released."""
        if path not in self._feeds:
            with np.load(path, allow_pickle=False) as arrays:
                self._feeds[path] = {name: arrays[name] for name in arrays.files}
        return self._feeds[path]
