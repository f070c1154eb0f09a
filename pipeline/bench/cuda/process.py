"""The parent's end of the processes that measure on a GPU: start one of a kind, ask it, end it.

TF32 is off in a process altogether or not at all, since the CUDA libraries read ``NVIDIA_TF32_OVERRIDE``
once; so cells with TF32 off have a process of their own. So have the compilers that may take minutes or fall
over: what they do to their process harms no other cell.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Final, Literal, Protocol, TypeAlias

from optim import errors
from optim.errors import FairleadError, UserError
from pipeline.bench.records import CudaSettings
from targets.cuda_provider import TF32_OVERRIDE

Kind: TypeAlias = Literal["TF32 on", "TF32 off", "torch.compile", "TensorRT"]
ANSWER_LIMIT_S: Final = 120.0  # a session of a large model, and its first run
CLOSE_LIMIT_S: Final = 5.0
COMMAND: Final = (sys.executable, "-m", "pipeline.bench.cuda.worker")
RAISED: Final = "raised"  # key of an answer that is an error
WORDS_KEPT: Final = 300  # of what a process said last


class StationLostError(UserError):
    """The process died or did not answer: all its sessions are gone. Not the asker's mistake, nor a bug."""


class Station(Protocol):
    """Where sessions are held: a process, or what stands for one in a test."""

    @property
    def alive(self) -> bool: ...

    @property
    def pid(self) -> int: ...

    def ask(self, request: Mapping[str, Any], limit_s: float = ANSWER_LIMIT_S) -> dict[str, Any]:
        """The reply.

        Raises:
            StationLostError: there is none to be had any more.
            FairleadError: what the request raised there.
        """
        ...

    def close(self) -> None: ...


def kind_of(cell: CudaSettings) -> Kind:
    """In which kind of process a cell runs."""
    if cell.runtime == "torch.compile":
        return "torch.compile"
    if cell.runtime == "tensorrt":
        return "TensorRT"
    return "TF32 off" if needs_tf32_off(cell) else "TF32 on"


def needs_tf32_off(cell: CudaSettings) -> bool:
    """Whether a cell's process must have TF32 off altogether."""
    return not cell.tf32 and not cell.stock and cell.precision == "fp32"


class Stations:
    """One process of each kind, started when it is first asked for, and anew after it was lost."""

    def __init__(self, start: Callable[[Kind], Station] | None = None) -> None:
        self._start = start or CudaProcess
        self._live: dict[Kind, Station] = {}
        self.kills: Counter[CudaSettings] = Counter()  # processes that a cell has brought down, in all
        self.dead_starts: Counter[Kind] = Counter()  # that answered nothing, in a row
        self.why_dead: dict[Kind, str] = {}

    def get(self, kind: Kind) -> Station:
        """The live process of a kind.

        Raises:
            StationLostError: it could not be started.
        """
        found = self._live.get(kind)
        if found is None or not found.alive:
            if found is not None:
                found.close()
            found = self._live[kind] = self._start(kind)
        return found

    def is_live(self, kind: Kind) -> bool:
        """Whether a process of the kind runs, with whatever it holds."""
        return kind in self._live and self._live[kind].alive

    def pids(self) -> list[int]:
        """Of the live processes, and of this one."""
        return [os.getpid(), *(one.pid for one in self._live.values() if one.alive)]

    def end(self, kind: Kind) -> None:
        """End the process of a kind; its sessions go with it."""
        if kind in self._live:
            self._live.pop(kind).close()

    def close(self) -> None:
        """End them all."""
        for kind in list(self._live):
            self.end(kind)

    def __enter__(self) -> Stations:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CudaProcess:
    """A child that runs ``worker``; it ends with this object, and with this process."""

    def __init__(self, kind: Kind, command: Sequence[str] = COMMAND) -> None:
        self.kind = kind
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        child_reads, parent_writes = os.pipe()
        parent_reads, child_writes = os.pipe()
        environment = {k: v for k, v in os.environ.items() if k != TF32_OVERRIDE}
        if kind == "TF32 off":
            environment[TF32_OVERRIDE] = "0"
        try:
            self._process = subprocess.Popen(
                [*command, str(child_reads), str(child_writes), str(os.getpid())],
                pass_fds=(child_reads, child_writes),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
            )
        finally:
            os.close(child_reads)
            os.close(child_writes)
        self._requests = Connection(parent_writes, readable=False)
        self._replies = Connection(parent_reads, writable=False)
        self._lost = False

    @property
    def alive(self) -> bool:
        return not self._lost and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Mapping[str, Any], limit_s: float = ANSWER_LIMIT_S) -> dict[str, Any]:
        """The child's reply; a child that gives none within the limit is killed."""
        if self._lost:
            raise StationLostError(f"{self.kind}: the process was ended before")
        try:
            self._requests.send_bytes(json.dumps(request).encode())
            if not self._replies.poll(max(limit_s, 0.1)):
                self._kill()
                raise StationLostError(
                    f"{self.kind}: no answer to {request['do']!r} in {limit_s:.0f} s; the process was ended"
                )
            answer: dict[str, Any] = json.loads(self._replies.recv_bytes())
        except (EOFError, OSError) as error:
            raise StationLostError(
                f"{self.kind}: the process ended ({self._ending()}): {self._last_words()}"
            ) from error
        return answered(answer)

    def close(self) -> None:
        """End it: asked first, then killed."""
        with contextlib.suppress(OSError):
            self._requests.close()  # it reads the end, and goes
        try:
            self._process.wait(CLOSE_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._kill()
        self._lost = True
        for end in (self._replies, self._log):
            end.close()

    def _kill(self) -> None:
        self._lost = True
        self._process.kill()
        self._process.wait()

    def _ending(self) -> str:
        self._lost = True
        try:
            return f"exit status {self._process.wait(CLOSE_LIMIT_S)}"
        except subprocess.TimeoutExpired:
            self._kill()
            return "it hung up"

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:WORDS_KEPT] if lines else "it said nothing"


def answered(answer: dict[str, Any]) -> dict[str, Any]:
    """The child's answer.

    Raises:
        FairleadError: what the request raised there.
    """
    if RAISED in answer:
        raise _raised(answer[RAISED])
    return answer


def _raised(fields: Mapping[str, str]) -> FairleadError:
    """The child's error as this process's own."""
    kind = getattr(errors, fields["kind"], UserError)
    error: FairleadError = kind(fields["what"], where=fields["where"], expected=fields["expected"])
    return error
