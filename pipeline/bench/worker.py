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
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from optim.contract import Feeds, Outputs, TensorSpec
from optim.errors import FairleadError, InternalError, MissingRuntimeError, UserError
from pipeline.bench.contender import Contender, Opened, Usage
from targets.contract import Session

PR_SET_PDEATHSIG: Final = 1
JSON: Final = b"J"  # first byte of a reply: what follows
TIMINGS: Final = b"T"
RunOnce = Callable[[Feeds], Outputs]


def time_runs(run: RunOnce, feeds: Feeds, runs: int) -> NDArray[np.int64]:
    """Nanoseconds of each of ``runs`` calls, [runs]. Only the call lies between two clock readings."""
    samples = [0] * runs
    clock = time.perf_counter_ns
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i in range(runs):
            begin = clock()
            run(feeds)
            samples[i] = clock() - begin
    finally:
        if collecting:
            gc.enable()
    return np.array(samples, dtype=np.int64)


class BusyWait:
    """A session that takes a set time and does nothing: tells the loop's own cost from the model's."""

    def __init__(self, microseconds: float) -> None:
        self._nanoseconds = int(microseconds * 1e3)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return ()

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return ()

    def run(self, feeds: Feeds) -> Outputs:  # noqa: ARG002 - the session's signature
        """Return once the time is over."""
        end = time.perf_counter_ns() + self._nanoseconds
        while time.perf_counter_ns() < end:
            pass
        return {}

    def close(self) -> None:
        """Nothing to release."""

    def __enter__(self) -> BusyWait:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_contender(contender: Contender) -> tuple[Session, str]:
    """The session and the runtime's name and version.

    Raises:
        MissingRuntimeError: the framework or runtime is not installed.
        UserError: a source contender without its request.
    """
    if contender.kind == "busy_wait":
        return BusyWait(float(contender.model)), "busy wait"
    if contender.kind == "onnx":
        try:
            import onnxruntime

            from targets.reference import OrtSession
        except ImportError as error:
            raise MissingRuntimeError(str(error), hint="pip install 'fairlead[cpu]'") from error
        session: Session = OrtSession(
            Path(contender.model),
            optimization=contender.optimization,
            threads=contender.threads,
            allow_spinning=contender.allow_spinning,
        )
        return session, f"onnxruntime {onnxruntime.__version__}"
    if contender.request is None:
        raise UserError("a source contender needs its conversion request", where=contender.name)
    from pipeline.sources import open_native

    session = open_native(contender.request)
    tensorflow = sys.modules.get("tensorflow")
    return session, f"tensorflow {tensorflow.__version__}" if tensorflow else "source framework"


def usage() -> Usage:
    """Of this process, since its start."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(
        peak_rss_mib=used.ru_maxrss / 1024,  # Linux counts KiB
        cpu_s=used.ru_utime + used.ru_stime,
        involuntary_switches=used.ru_nivcsw,
    )


class Worker:
    """Answers the parent's messages about one contender."""

    def __init__(self) -> None:
        self._contender: Contender | None = None
        self._session: Session | None = None
        self._feeds: Feeds = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any] | bytes:
        """The reply to one request; the name of the request is its key ``do``."""
        match request["do"]:
            case "open":
                return self._open(Contender.model_validate(request["contender"]))
            case "feeds":
                with np.load(request["path"], allow_pickle=False) as arrays:
                    self._feeds = {name: arrays[name] for name in arrays.files}
                return {}
            case "run":
                run, settle = self._loaded().run, int(request["settle"])
                for _ in range(settle):
                    run(self._feeds)
                return time_runs(run, self._feeds, int(request["runs"])).tobytes()
            case "scenario":
                return self._scenario(request["settings"])
            case "usage":
                return usage().model_dump()
            case unknown:
                raise InternalError(f"the worker knows no request {unknown!r}")

    def close(self) -> None:
        """Release the session."""
        if self._session is not None:
            self._session.close()

    def _loaded(self) -> Session:
        if self._session is None:
            raise InternalError("the worker was asked to run before it was asked to open")
        return self._session

    def _scenario(self, settings: dict[str, Any]) -> bytes:
        """Nanoseconds of the whole and of each query. Each concurrent session is a session of its own."""
        from pipeline.bench import load

        if self._contender is None:
            raise InternalError("the worker was asked for a scenario before it was asked to open")
        more = [open_contender(self._contender)[0] for _ in range(int(settings["sessions"]) - 1)]
        try:
            runs = [partial(session.run, self._feeds) for session in (self._loaded(), *more)]
            for run in runs:
                run()
            begin = time.perf_counter_ns()
            match settings["name"]:
                case "server":
                    duration_s = settings["queries"] / settings["rate_per_s"]
                    due = load.poisson_arrivals(settings["rate_per_s"], duration_s, settings["seed"])
                    latencies = load.serve(runs, due)
                case "multi_stream":
                    latencies = load.multi_stream(runs, settings["streams"], settings["queries"])
                case "offline":
                    latencies = np.array([load.offline(runs, settings["queries"])])
                case _:
                    latencies = time_runs(self._loaded().run, self._feeds, settings["queries"])
            whole = time.perf_counter_ns() - begin
        finally:
            for session in more:
                session.close()
        return np.array([whole, *latencies], dtype=np.int64).tobytes()

    def _open(self, contender: Contender) -> dict[str, Any]:
        if contender.kind == "source":
            _bound_tensorflow_threads(contender)
        self._contender = contender
        begin = time.perf_counter_ns()
        self._session, runtime = open_contender(contender)
        elapsed = time.perf_counter_ns() - begin
        opened = Opened(
            session_creation_ms=elapsed / 1e6,
            runtime=runtime,
            inputs=self._session.inputs,
            outputs=self._session.outputs,
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


def _bound_tensorflow_threads(contender: Contender) -> None:
    """Tell TensorFlow before it starts its pools; where it is not installed, opening will say so."""
    if Path(contender.model).suffix in {".onnx", ".tflite"}:
        return
    try:
        import tensorflow as tf
    except ImportError:
        return
    tf.config.threading.set_intra_op_parallelism_threads(contender.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


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
