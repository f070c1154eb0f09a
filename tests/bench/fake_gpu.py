"""A GPU that is none: sessions take memory and time by rule, fail and die on demand. No figure of it is a
measurement of anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optim.contract import Feeds
from pipeline.bench.cuda.bench import CudaBench
from pipeline.bench.cuda.contract import COPIES, FROM_NUMPY, PLAIN, RUN, Figure
from pipeline.bench.cuda.nvml import GpuCondition
from pipeline.bench.cuda.process import Kind, StationLostError, Stations, answered
from pipeline.bench.cuda.worker import failure
from pipeline.bench.records import CudaSettings

GOOD = GpuCondition(sm_mhz=1980, held_back=(), others=0)
Rule = Callable[[CudaSettings, int], float]
Sign = Callable[[CudaSettings, int], bool]


class DeathError(BaseException):
    """The process is gone: no handler in it runs."""


def never(_cell: CudaSettings, _batch: int) -> bool:
    return False


def usual_ms(cell: CudaSettings, batch: int) -> float:
    """session.run takes 2 ms, plain 1.8, bound 1.0, a graph 0.4; in proportion to the batch."""
    return batch * (2.0 if cell.stock else 1.8 if not cell.bound else 0.4 if cell.graph else 1.0)


@dataclass
class FakeGpu:
    name: str = "NVIDIA H200"
    l2_bytes: int = 10_000
    total_mib: float = 100_000.0
    has_tensorrt: bool = False
    why_unwatched: str = ""
    ms: Rule = usual_ms
    mib: Rule = lambda _cell, _batch: 100.0
    dies: Sign = never  # when bound
    dies_running: Sign = never
    fails: Sign = never  # with words of its own
    breaks: Sign = never  # and the process's use of the GPU with it
    wrong: Sign = never  # answers something else
    session_spread: float = 0.0  # of the log, between sessions of the same model
    noise: float = 0.0  # of the log, between runs
    slower_by: float = 0.0  # relative, each second
    condition: GpuCondition | None = GOOD
    counter: bool = True
    now: float = 0.0
    spent_mj: int = 0
    created: list[str] = field(default_factory=list)
    taken: list[tuple[str, int, str]] = field(default_factory=list)  # cell, batch, figure
    most_mib: float = 0.0
    open: list[FakeSession] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @property
    def used_mib(self) -> float:
        return sum(one.mib for one in self.open)

    def stations(self) -> Stations:
        return Stations(lambda kind: FakeStation(self, kind))

    def clock(self) -> float:
        return self.now


@dataclass
class FakeInputs:
    batch: int
    sets: int

    def release(self) -> None:
        self.sets = 0


class FakeSession:
    def __init__(self, device: FakeDevice, settings: CudaSettings) -> None:
        self.device, self.gpu, self.settings = device, device.gpu, settings
        self.creation_ms = 50.0
        self.mib = 0.0
        self.level = float(np.exp(self.gpu.session_spread * self.gpu.rng.standard_normal()))
        self.gpu.created.append(settings.title)
        self.gpu.open.append(self)
        self.gpu.now += 0.05

    def bind(self, inputs: FakeInputs, *, bound: bool) -> FakeRuns:
        cell = self.settings.model_copy(update={"bound": bound})
        self.device.require_sound()
        if self.gpu.dies(cell, inputs.batch):
            raise DeathError
        if self.gpu.fails(cell, inputs.batch):
            raise RuntimeError("NOT_IMPLEMENTED: no kernel\n")
        wanted = self.gpu.mib(cell, inputs.batch)
        if self.gpu.used_mib - self.mib + wanted > self.gpu.total_mib:
            raise RuntimeError("Error in execution\n  CUDA failure 2: out of memory\n")
        self.mib = max(self.mib, wanted)
        self.gpu.most_mib = max(self.gpu.most_mib, self.gpu.used_mib)
        return FakeRuns(self, cell, inputs.batch)

    def close(self) -> None:
        if self in self.gpu.open:
            self.gpu.open.remove(self)


class FakeRuns:
    first_run_ms = 9.0

    def __init__(self, session: FakeSession, cell: CudaSettings, batch: int) -> None:
        self.session, self.gpu, self.cell, self.batch = session, session.gpu, cell, batch

    @property
    def figures(self) -> Mapping[str, Figure]:
        if not self.cell.bound:
            return {PLAIN: lambda _k: (self._took(PLAIN, 0.0),)}
        run: dict[str, Figure] = {RUN: self._run}
        if self.cell.runtime == "torch.compile":
            return run
        first, second = FROM_NUMPY
        more: dict[str, Figure] = {
            first: lambda _k: (self._took(first, 0.75),),
            second: lambda _k: (self._took(second, 0.25),),
        }
        return {**run, **more, **{name: (lambda _k: (0.2,)) for name in COPIES}}

    def _run(self, _which: int) -> tuple[float, float]:
        gpu = self._took(RUN, 0.0)
        return gpu, gpu + 0.1

    def _took(self, figure: str, more: float) -> float:
        gpu = self.gpu
        self.session.device.require_sound()
        if gpu.dies_running(self.cell, self.batch):
            raise DeathError
        if gpu.breaks(self.cell, self.batch):
            self.session.device.broken = True
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        gpu.taken.append((self.cell.title, self.batch, figure))
        scale = (
            self.session.level * np.exp(gpu.noise * gpu.rng.standard_normal()) * (1 + gpu.slower_by * gpu.now)
        )
        took = (gpu.ms(self.cell, self.batch) + more) * float(scale)
        gpu.now += took / 1e3
        return took

    def enqueue(self, _which: int) -> None:
        self.gpu.now += 0.01
        self.gpu.spent_mj += 30

    def outputs(self, _which: int) -> dict[str, np.ndarray]:
        off = 0.5 if self.gpu.wrong(self.cell, self.batch) else 0.0
        return {"y": np.array([1.0, 2.0, 3.0 + off], np.float32)}

    def release(self) -> None:
        pass


class FakeDevice:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu, self.broken = gpu, False

    def require_sound(self) -> None:
        if self.broken:
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    @property
    def name(self) -> str:
        return self.gpu.name

    @property
    def l2_bytes(self) -> int:
        return self.gpu.l2_bytes

    @property
    def has_tensorrt(self) -> bool:
        return self.gpu.has_tensorrt

    @property
    def why_unwatched(self) -> str:
        return self.gpu.why_unwatched

    def place(self, feeds: Feeds, sets: int) -> FakeInputs:
        return FakeInputs(len(next(iter(feeds.values()))), sets)

    def load(self, _model: str, settings: CudaSettings) -> FakeSession:
        return FakeSession(self, settings)

    def synchronize(self) -> None:
        self.require_sound()

    def memory_mib(self) -> tuple[float, float]:
        return self.gpu.total_mib - self.gpu.used_mib, self.gpu.total_mib

    def energy_mj(self) -> int | None:
        return self.gpu.spent_mj if self.gpu.counter else None

    def condition(self, own: Collection[int] = ()) -> GpuCondition | None:
        assert own is not None
        return self.gpu.condition

    def clock_s(self) -> float:
        return self.gpu.now


class FakeStation:
    """A process that is none: what crosses its border is JSON, as it is for a real one."""

    pid = 1

    def __init__(self, gpu: FakeGpu, kind: Kind) -> None:
        self.gpu, self.kind, self.alive = gpu, kind, True
        self.device = FakeDevice(gpu)
        self.bench = CudaBench(self.device)

    def ask(self, request: Mapping[str, Any], _limit_s: float = 0.0) -> dict[str, Any]:
        if not self.alive:
            raise StationLostError(f"{self.kind}: the process ended")
        try:
            answer = self.bench.answer(json.loads(json.dumps(request)))
        except DeathError:
            self.close()
            raise StationLostError(f"{self.kind}: the process ended (exit status -11)") from None
        except Exception as error:
            answer = failure(error)
        return answered(json.loads(json.dumps(answer)))

    def close(self) -> None:
        self.alive = False
        for session in [one for one in self.gpu.open if one.device is self.device]:
            session.close()
