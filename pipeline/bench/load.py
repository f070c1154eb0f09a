"""Put load on real sessions, inside the child process: arrivals, threads, and the clock. No statistics here.

Latency counts from the time a query was due, not from when a session was free to take it: time spent
waiting in the queue belongs to the user (else a slow server would hide its own backlog: "coordinated
omission").
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Run: TypeAlias = Callable[[], object]
START_S: Final = 0.005  # all threads are up by then


def poisson_arrivals(rate_per_s: float, queries: int, seed: int) -> NDArray[np.float64]:
    """Times in seconds, ascending, at which so many queries are due: exponential gaps with mean 1 / rate."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_per_s, queries))


def serve(runs: Sequence[Run], due_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Serve queries in order of arrival with one thread per session; nanoseconds from due to done, [queries].

    Each thread takes the next query in order, waits until it is due, and runs it: one queue, many servers.
    """
    latencies = np.zeros(len(due_s), dtype=np.int64)
    lock = threading.Lock()
    following = iter(range(len(due_s)))
    failures: list[BaseException] = []
    start = time.perf_counter_ns() + int(START_S * 1e9)
    due_ns = start + (due_s * 1e9).astype(np.int64)

    def work(run: Run) -> None:
        while not failures:
            with lock:
                index = next(following, None)
            if index is None:
                return
            _wait_until(int(due_ns[index]))
            try:
                run()
            except BaseException as error:
                failures.append(error)
                return
            latencies[index] = time.perf_counter_ns() - due_ns[index]

    threads = [threading.Thread(target=work, args=(run,), daemon=True) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return latencies


def multi_stream(runs: Sequence[Run], streams: int, queries: int) -> NDArray[np.int64]:
    """Nanoseconds of each query of ``streams`` samples, [queries]; sent one after the other."""
    return np.array([int(serve(runs, np.zeros(streams)).max()) for _ in range(queries)], dtype=np.int64)


def offline(runs: Sequence[Run], batches: int) -> int:
    """Nanoseconds for ``batches`` batches that are all there at the start, spread over the sessions."""
    return int(serve(runs, np.zeros(batches)).max())


def _wait_until(moment_ns: int) -> None:
    """Sleep most of the way, then look at the clock: a sleep alone overshoots by 50 µs and more."""
    while (left := moment_ns - time.perf_counter_ns()) > 0:
        if left > 300_000:
            time.sleep((left - 200_000) / 1e9)
        else:
            time.sleep(0)
