"""The parent's end of a worker: start it, talk to it, end it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from optim import errors
from optim.contract import Feeds, Outputs
from optim.errors import FairleadError, InternalError, UserError
from pipeline.bench.contender import Contender, Opened, Usage
from pipeline.bench.worker import TIMINGS, thread_environment

OPEN_LIMIT_S: Final = 600.0  # a large SavedModel on a slow disk
RUN_LIMIT_S: Final = 600.0
CLOSE_LIMIT_S: Final = 5.0


class Child:
    """One contender in its own fresh process.

    The process ends when this object closes, when this process ends, or when it uses more than
    ``memory_mib`` of private memory.
    """

    def __init__(self, contender: Contender, *, memory_mib: int = 0) -> None:
        self.contender = contender
        self.first_run_ms = 0.0
        self._resting = False
        self._opened: Opened | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        child_reads, parent_writes = os.pipe()
        parent_reads, child_writes = os.pipe()
        command = [sys.executable, "-m", "pipeline.bench.worker"]
        command += [str(v) for v in (child_reads, child_writes, os.getpid(), memory_mib)]
        environment = {
            **os.environ,
            **thread_environment(contender.threads, allow_spinning=contender.allow_spinning),
        }
        self._process = subprocess.Popen(
            command,
            pass_fds=(child_reads, child_writes),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        os.close(child_reads)
        os.close(child_writes)
        self._requests = Connection(parent_writes, readable=False)
        self._replies = Connection(parent_reads, writable=False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def open(self) -> Opened:
        """Load the model; raises what loading it raised there."""
        contender = self.contender.model_dump(mode="json")
        self._opened = Opened.model_validate(self._ask({"do": "open", "contender": contender}, OPEN_LIMIT_S))
        return self._opened

    @property
    def opened(self) -> Opened:
        """What the child said when it had loaded the model.

        Raises:
            InternalError: it was not asked to.
        """
        if self._opened is None:
            raise InternalError(f"{self.contender.name} was not opened")
        return self._opened

    def set_feeds(self, feeds: Feeds) -> None:
        """Hand over the inputs of the runs to come, and run once: ``first_run_ms``."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "feeds.npz"
            np.savez(path, **feeds)  # type: ignore[arg-type]  # numpy types the keywords as its own options
            self._ask({"do": "feeds", "path": str(path)}, RUN_LIMIT_S)
        self.first_run_ms = float(self.run(1)[0]) / 1e6

    def run(self, runs: int, *, settle: int = 0) -> NDArray[np.int64]:
        """Nanoseconds of ``runs`` calls, [runs], after ``settle`` calls that are not timed."""
        return self._timings({"do": "run", "runs": runs, "settle": settle})

    def outputs(self, feeds: Feeds) -> Outputs:
        """What the model answers to ``feeds``, by output name, from the very call that is timed."""
        with tempfile.TemporaryDirectory() as folder:
            given, answered = Path(folder) / "feeds.npz", Path(folder) / "outputs.npz"
            np.savez(given, **feeds)  # type: ignore[arg-type]  # numpy types the keywords as its own options
            self._ask({"do": "feeds", "path": str(given)}, RUN_LIMIT_S)
            self._ask({"do": "outputs", "path": str(answered)}, RUN_LIMIT_S)
            with np.load(answered, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}

    def scenario(self, settings: dict[str, Any]) -> tuple[NDArray[np.int64], int]:
        """Run a load scenario: nanoseconds of each query, [queries], and of the whole."""
        reply = self._timings({"do": "scenario", "settings": settings})
        return reply[1:], int(reply[0])

    def bind(self, cpus: set[int]) -> None:
        """Let the process, with all its threads, run on ``cpus`` only."""
        for thread in Path(f"/proc/{self.pid}/task").glob("*"):
            with contextlib.suppress(OSError):  # the thread has just ended
                os.sched_setaffinity(int(thread.name), cpus)

    def rest(self) -> None:
        """Stop the process, with all its threads, until it is asked something again.

        A runtime's threads go on spinning after a call, by tens of milliseconds in ONNX Runtime; left alone,
        they would take CPUs from whoever is measured next. To the process itself no time passes.
        """
        if not hasattr(signal, "SIGSTOP"):
            return
        self._process.send_signal(signal.SIGSTOP)
        self._resting = True
        if hasattr(os, "waitid"):  # until it stands still, or has ended
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _go_on(self) -> None:
        if self._resting:
            self._process.send_signal(signal.SIGCONT)
            self._resting = False

    def usage(self) -> Usage:
        """What the process has used since its start."""
        return Usage.model_validate(self._ask({"do": "usage"}, CLOSE_LIMIT_S))

    def ask_to_close(self) -> None:
        """Let the process end by itself, without waiting for it; ``close`` has still to be called."""
        self._go_on()
        if self._process.poll() is None and not self._requests.closed:
            with contextlib.suppress(OSError):  # it has just ended
                self._requests.send_bytes(b'{"do": "close"}')

    def close(self) -> None:
        """End the process: asked first, then killed."""
        self.ask_to_close()
        try:
            self._process.wait(CLOSE_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for end in (self._requests, self._replies, self._log):
            end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _timings(self, request: dict[str, Any]) -> NDArray[np.int64]:
        reply = self._exchange(request, RUN_LIMIT_S)
        if reply[:1] != TIMINGS:
            raise _raised(json.loads(reply[1:])["error"], self.contender)
        return np.frombuffer(reply[1:], dtype=np.int64)

    def _ask(self, request: dict[str, Any], limit_s: float) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._exchange(request, limit_s)[1:])
        if "error" in answer:
            raise _raised(answer["error"], self.contender)
        return answer

    def _exchange(self, request: dict[str, Any], limit_s: float) -> bytes:
        begin = time.monotonic()
        self._go_on()
        try:
            self._requests.send_bytes(json.dumps(request).encode())
            if self._replies.poll(limit_s):
                return self._replies.recv_bytes()
        except (EOFError, OSError) as error:
            raise UserError(
                f"the process that ran it ended ({self._ending()}): {self._last_words()}",
                where=self.contender.name,
                hint="run the model alone to see why; too little memory is the usual reason",
            ) from error
        raise UserError(
            f"no answer to {request['do']!r} within {time.monotonic() - begin:.0f} s",
            where=self.contender.name,
        )

    def _ending(self) -> str:
        try:
            return f"exit status {self._process.wait(CLOSE_LIMIT_S)}"
        except subprocess.TimeoutExpired:
            return "pipe closed"

    def _last_words(self) -> str:
        self._log.seek(0)
        text = self._log.read().decode(errors="replace").strip()
        return text.splitlines()[-1] if text else "it said nothing"


def _raised(fields: dict[str, str], contender: Contender) -> FairleadError:
    """The child's error as this process's own."""
    kind = getattr(errors, fields["kind"], UserError)
    where = fields["where"] or contender.name
    error: FairleadError = kind(fields["what"], where=where, expected=fields["expected"], hint=fields["hint"])
    return error
