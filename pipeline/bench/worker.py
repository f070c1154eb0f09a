"""The child process: one model, loaded once, run and timed on command of the parent.

``python -m pipeline.bench.worker READ_FD WRITE_FD PARENT_PID MEMORY_MIB`` answers framed messages: JSON
requests, JSON replies, and the timings of a block as raw int64 nanoseconds. It ends when the parent does:
the kernel signals it, and the pipe closes.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optim.contract import Feeds
from optim.errors import FairleadError, InternalError
from pipeline.bench.callers import Call, Caller, open_caller
from pipeline.bench.contender import Contender, Opened, Usage
from targets.cuda_provider import TF32_OVERRIDE

PR_SET_PDEATHSIG: Final = 1
JSON: Final = b"J"  # first byte of a reply: what follows
TIMINGS: Final = b"T"


def time_runs(call: Call, runs: int) -> NDArray[np.int64]:
    """Nanoseconds of each of ``runs`` calls, [runs]. Only the call lies between two clock readings."""
    samples = [0] * runs
    clock = time.perf_counter_ns
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i in range(runs):
            begin = clock()
            call()
            samples[i] = clock() - begin
    finally:
        if collecting:
            gc.enable()
    return np.array(samples, dtype=np.int64)


def usage() -> Usage:
    """Of this process, since its start."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(
        peak_rss_mib=peak_rss_mib(),
        cpu_s=used.ru_utime + used.ru_stime,
        involuntary_switches=used.ru_nivcsw,
    )


def peak_rss_mib() -> float:
    """Greatest resident memory of this process's own program.

    ``ru_maxrss`` will not do: through fork and exec it begins with what the parent held, and a small model's
    process never comes near that.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    kib = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if kib is None else int(kib) / 1024


class Worker:
    """Answers the parent's messages about one contender."""

    def __init__(self) -> None:
        self._contender: Contender | None = None
        self._caller: Caller | None = None
        self._feeds: Feeds = {}
        self._call: Call | None = None
        self._runs = 0  # of the call on the feeds at hand
        self._more: list[tuple[Caller, Call]] = []  # further sessions of scenarios, on the same feeds

    def answer(self, request: dict[str, Any]) -> dict[str, Any] | bytes:
        """The reply to one request; the name of the request is its key ``do``."""
        match request["do"]:
            case "open":
                return self._open(Contender.model_validate(request["contender"]))
            case "feeds":
                with np.load(request["path"], allow_pickle=False) as arrays:
                    self._feeds = {name: arrays[name] for name in arrays.files}
                self._call, self._runs = None, 0
                self._close_more()
                return {}
            case "run":
                call, settle, runs = self._bound(), int(request["settle"]), int(request["runs"])
                for _ in range(settle):
                    call()
                self._runs += settle + runs
                return time_runs(call, runs).tobytes()
            case "outputs":
                arrays = self._loaded().results(self._feeds)
                np.savez(request["path"], **arrays)  # type: ignore[arg-type]  # numpy's own options
                return {}
            case "scenario":
                return self._scenario(request["settings"])
            case "usage":
                return usage().model_dump()
            case unknown:
                raise InternalError(f"the worker knows no request {unknown!r}")

    def close(self) -> None:
        """Release all sessions."""
        self._close_more()
        if self._caller is not None:
            self._caller.close()

    def _close_more(self) -> None:
        for caller, _call in self._more:
            caller.close()
        self._more.clear()

    def _loaded(self) -> Caller:
        if self._caller is None:
            raise InternalError("the worker was asked to run before it was asked to open")
        return self._caller

    def _bound(self) -> Call:
        """The call on the feeds at hand, made once."""
        if self._call is None:
            self._call = self._loaded().bind(self._feeds)
        return self._call

    def _sessions(self, count: int) -> list[Call]:
        """The calls of ``count`` sessions: the first, and others that have run as often as it has.

        The parent warms the first up until it has settled; so many runs warm up its like. They are kept for
        the next repeat.
        """
        first = self._bound()
        if self._contender is None:
            raise InternalError("the worker was asked for a scenario before it was asked to open")
        while len(self._more) < count - 1:
            caller = open_caller(self._contender)
            call = caller.bind(self._feeds)
            self._more.append((caller, call))
            for _ in range(max(self._runs, 1)):
                call()
        return [first, *(call for _caller, call in self._more[: count - 1])]

    def _scenario(self, settings: dict[str, Any]) -> bytes:
        """Nanoseconds of the whole and of each query. Each concurrent session is a session of its own."""
        from pipeline.bench import load

        runs = self._sessions(int(settings["sessions"]))
        begin = time.perf_counter_ns()
        match settings["name"]:
            case "server":
                due = load.poisson_arrivals(settings["rate_per_s"], settings["queries"], settings["seed"])
                latencies = load.serve(runs, due)
            case "multi_stream":
                latencies = load.multi_stream(runs, settings["streams"], settings["queries"])
            case "offline":
                latencies = np.array([load.offline(runs, settings["queries"])])
            case _:
                latencies = time_runs(runs[0], settings["queries"])
        whole = time.perf_counter_ns() - begin
        return np.array([whole, *latencies], dtype=np.int64).tobytes()

    def _open(self, contender: Contender) -> dict[str, Any]:
        self._contender = contender
        os.environ.update(process_environment(contender))
        self._caller = open_caller(contender)
        opened = Opened(
            session_creation_ms=self._caller.creation_ms,
            runtime=self._caller.runtime,
            inputs=self._caller.inputs,
            outputs=self._caller.outputs,
        )
        return opened.model_dump()


def thread_environment(threads: int, *, allow_spinning: bool) -> dict[str, str]:
    """Environment that binds the thread pools of TensorFlow, OpenMP and BLAS libraries to ``threads``."""
    count = str(threads)
    return {
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_NUM_INTEROP_THREADS": "1",
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "ACTIVE" if allow_spinning else "PASSIVE",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def process_environment(contender: Contender) -> dict[str, str]:
    """What the CUDA libraries read when they are loaded, once in a process; nothing for other contenders."""
    if contender.cuda is None or contender.cuda.tf32:
        return {}
    return {TF32_OVERRIDE: "0"}


def _die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the thread that made it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, FairleadError):
        fields = {k: str(getattr(error, k)) for k in ("what", "where", "expected", "hint")}
        return {"error": {"kind": type(error).__name__, **fields}}
    what = f"{type(error).__name__}: {error}"
    return {"error": {"kind": "UserError", "what": what, "where": "", "expected": "", "hint": ""}}


def serve(requests: Connection, replies: Connection) -> None:
    """Answer until the parent says close or goes away."""
    worker = Worker()
    try:
        while True:
            try:
                message = json.loads(requests.recv_bytes())
            except (EOFError, OSError):
                return
            if message["do"] == "close":
                return
            try:
                answer = worker.answer(message)
            except Exception as error:  # whatever a framework raises goes to the parent, with its words
                answer = _failure(error)
            body = TIMINGS + answer if isinstance(answer, bytes) else JSON + json.dumps(answer).encode()
            replies.send_bytes(body)
    finally:
        worker.close()


def main() -> None:
    """Take the pipe ends from the command line and serve. What frameworks print goes to stderr."""
    read_fd, write_fd, parent, memory_mib = (int(a) for a in sys.argv[1:5])
    _die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; closing the pipe ends us
    os.dup2(2, 1)
    if memory_mib > 0:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mib << 20, memory_mib << 20))
    serve(Connection(read_fd, writable=False), Connection(write_fd, readable=False))


if __name__ == "__main__":
    main()
