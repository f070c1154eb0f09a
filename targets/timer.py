"""Two models against each other in ONNX Runtime: in turn, warm, on pinned threads, as paired ratios.

What the optimiser chooses by. It is quick and errs on the side of "no difference shown"; published figures
come from the benchmark, which uses processes of their own and calibrates itself.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import onnx_ir as ir

from optim.contract import Feeds
from optim.model import weight_bytes
from optim.timing import Timing
from targets.reference import IN_MEMORY_BYTES, OrtSession, written

_LOOKS: Final = 3  # times the interval is looked at, after equal numbers of rounds
_CONFIDENCE: Final = 1 - 0.05 / _LOOKS  # of each look, so that all together err in 5 % at most (Bonferroni)
_LEAST_RUNS: Final = 2
_LONG: Final = 5  # samples' times: what one run takes from which it is a sample by itself


@dataclass(frozen=True)
class OrtTimer:
    """``optim.timing.Timer`` on ONNX Runtime's CPU provider with all its optimisations on.

    Args:
        threads: intra-op threads; they do not spin.
        rounds: pairs of samples; up to three times as many while no difference is shown.
        sample_ms: a sample is the fastest of as many runs as fill this time: what other programs add to
            a run is no property of the model.
        seed: of the order within each pair.
    """

    threads: int = 1
    rounds: int = 9
    sample_ms: float = 6.0
    seed: int = 0

    @cached_property
    def fingerprint(self) -> str:
        """Processor, runtime and threads, as one short name; how long it measures does not matter."""
        import onnxruntime

        facts = [_processor(), platform.machine(), onnxruntime.__version__, f"{self.threads} threads"]
        return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]

    def __call__(self, before: ir.Model, after: ir.Model, feeds: Feeds) -> Timing:
        """Latency of ``after`` over that of ``before``.

        Raises:
            MissingRuntimeError: ONNX Runtime is not installed.
            UnsupportedModelError: it cannot run one of them.
        """
        with _opened(before, self.threads) as a, _opened(after, self.threads) as b:
            pair = (a, b)
            runs = [self._runs(session, feeds) for session in pair]
            rng = np.random.default_rng(self.seed)
            ratios: list[float] = []
            low, high = -math.inf, math.inf
            for _ in range(_LOOKS):
                for _ in range(self.rounds):
                    seconds = [0.0, 0.0]
                    for k in rng.permutation(2):
                        seconds[k] = _fastest_s(pair[k], feeds, runs[k])
                    ratios.append(seconds[1] / seconds[0])
                low, high = median_interval(ratios, _CONFIDENCE)
                if not low <= 1.0 <= high:
                    break
        return Timing(median(ratios), low, high)

    def _runs(self, session: OrtSession, feeds: Feeds) -> int:
        session.run(feeds)  # the first run allocates
        share = self.sample_ms / 1e3 / max(_fastest_s(session, feeds, 2), 1e-6)
        return 1 if share < 1 / _LONG else max(_LEAST_RUNS, math.ceil(share))


def median_interval(samples: Sequence[float], confidence: float) -> tuple[float, float]:
    """An interval that holds the median with at least this probability, from order statistics.

    The number of samples below the median is binomial(n, 1/2), whatever their distribution (Conover,
    Practical Nonparametric Statistics, 3.2). With too few samples it is unbounded.
    """
    ordered, n = sorted(samples), len(samples)
    tail, rank = 0.0, 0
    while rank < n and (tail := tail + math.comb(n, rank) / 2**n) <= (1 - confidence) / 2:
        rank += 1
    if rank == 0:
        return -math.inf, math.inf
    return ordered[rank - 1], ordered[n - rank]


def _fastest_s(session: OrtSession, feeds: Feeds, runs: int) -> float:
    best = math.inf
    for _ in range(runs):
        begin = time.perf_counter()
        session.run(feeds)
        best = min(best, time.perf_counter() - begin)
    return best


def _opened(model: ir.Model, threads: int) -> OrtSession:
    if weight_bytes(model) < IN_MEMORY_BYTES:
        return OrtSession(ir.to_proto(model).SerializeToString(), threads=threads)
    with written(model) as path:
        return OrtSession(path, threads=threads)


def _processor() -> str:
    """The processor's name and the instructions it offers."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or os.name
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.split("\t")[0] in wanted))
