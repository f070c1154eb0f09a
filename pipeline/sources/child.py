"""Run a function in a process of its own: private HOME, memory and time limits, errors carried back whole.

The child is a fresh interpreter (``python -m pipeline.sources.child_entry``), so nothing heavy that it
imports ever reaches the parent. It dies with the parent: its standard input is a lifeline.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from optim.errors import FairleadError, InternalError, UnsupportedModelError, UserError
from pipeline.sources.contract import Progress, no_progress

_POLL_S = 0.05
_TAIL_LINES = 12
_MIB = 1 << 20

# What the frameworks read from their environment. Hash order decides node order in some converters, hence the
# seed; the source framework is compared on the CPU.
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_DEPRECATION_WARNINGS": "0",
    "KERAS_BACKEND": "tensorflow",
    "CUDA_VISIBLE_DEVICES": "-1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class ChildLimits:
    """What the child may use; None: no limit."""

    memory_mib: int | None = None  # resident set
    time_s: float | None = None  # of one call


@dataclass(frozen=True)
class Returned:
    """A call's result."""

    value: Any
    peak_rss_mib: float


class Child:
    """A child process that answers calls one by one, in the order asked.

    Args:
        limits: of memory and of time per call.
        environment: further environment variables.

    Raises (from ``call``):
        FairleadError: whatever the called function raised on purpose, with all fields.
        UserError: a limit was exceeded, or the system ran out of memory.
        UnsupportedModelError: the framework crashed the process.
        InternalError: the function raised anything else.
    """

    def __init__(
        self,
        limits: ChildLimits = ChildLimits(),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._limits = limits
        self._home = Path(tempfile.mkdtemp(prefix="fairlead-child-"))
        self._log = self._home / "log"
        ours, theirs = socket.socketpair()
        surroundings = {
            **os.environ,
            **_ENVIRONMENT,
            **(environment or {}),
            "HOME": str(self._home),
            "TMPDIR": str(self._home),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        try:
            with theirs, self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "pipeline.sources.child_entry", str(theirs.fileno())],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=surroundings,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            shutil.rmtree(self._home, ignore_errors=True)
            raise
        self._channel = Connection(ours.detach())

    def call(self, target: str, *arguments: object, progress: Progress = no_progress) -> Returned:
        """``module:function(*arguments, progress)`` in the child; see the class for errors."""
        deadline = None if self._limits.time_s is None else time.monotonic() + self._limits.time_s
        try:
            self._channel.send((target, arguments))
            while True:
                while not self._channel.poll(_POLL_S):
                    self._check_limits(deadline)
                kind, *content = self._channel.recv()
                if kind == "progress":
                    progress(content[0], content[1])
                elif kind == "result":
                    return Returned(content[0], content[1])
                elif kind == "error":
                    raise _rebuilt(content[0])
                else:
                    raise InternalError(
                        f"{target} raised {content[0]}", hint="report it together with the model, if you can"
                    ) from RuntimeError(content[1])
        except (EOFError, OSError) as error:
            raise self._death(target) from error

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the child and remove its files."""
        self._channel.close()
        self._kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _check_limits(self, deadline: float | None) -> None:
        if deadline is not None and time.monotonic() > deadline:
            self._kill()
            raise UserError(
                f"the time limit of {self._limits.time_s:g} s is over",
                hint="raise the time limit, or give the machine more cores",
            )
        limit = self._limits.memory_mib
        if limit is not None and (used := _resident_mib(self._process.pid)) > limit:
            self._kill()
            raise UserError(
                f"the memory limit of {limit} MiB is exceeded ({used:.0f} MiB in use)",
                hint="raise the memory limit; a conversion needs the framework's import plus three times the "
                "weights",
            )

    def _death(self, target: str) -> FairleadError:
        code = self._process.wait()
        tail = self._tail()
        if code == -signal.SIGKILL:
            return UserError(
                "the system killed the child process, most likely because memory ran out",
                where=target,
                hint="close other programs, or use a machine with more memory",
            )
        if code < 0:
            name = signal.Signals(-code).name
            return UnsupportedModelError(
                f"the framework crashed with {name} while working on this model",
                expected="a model that its own framework can load and run",
                hint=tail or "load the model in its own framework",
            )
        return InternalError(f"the child process ended with status {code}", where=target, hint=tail)

    def _tail(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n    ".join(line for line in lines if line.strip())[-2000:] if lines else ""

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def call_once(
    target: str,
    *arguments: object,
    limits: ChildLimits = ChildLimits(),
    environment: Mapping[str, str] | None = None,
    progress: Progress = no_progress,
) -> Returned:
    """One call in a child of its own."""
    with Child(limits, environment) as child:
        return child.call(target, *arguments, progress=progress)


def _resident_mib(pid: int) -> float:
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return float(sum(one.memory_info().rss for one in family)) / _MIB
    except psutil.Error:
        return 0.0


def _rebuilt(error: FairleadError) -> FairleadError:
    error.__traceback__ = None
    return error
