"""Take samples of something that takes a while: until it has settled, then until there are enough of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np

from pipeline.bench.records import Timing
from pipeline.bench.stats import Floats, is_settled, median

Take: TypeAlias = Callable[[int], float]
"""Runs for the k-th time; milliseconds."""

WINDOW_MS: Final = 20.0  # of a warm-up
MOST_IN_WINDOW: Final = 100
MOST_WARM_UP_MS: Final = 2000.0
MOST_FIGURE_MS: Final = 500.0  # of work for one figure; a slow model gets fewer samples, and says so
LEAST_SAMPLES: Final = 10  # the median's interval needs 6


def settle(take: Take, *, least: int) -> tuple[int, bool]:
    """Run until the medians of the last windows agree, at least ``least`` times.

    Returns:
        How many runs it took, and whether it settled before the time for that was over.
    """
    first = [take(k) for k in range(least)]
    done, spent_ms = least, float(sum(first))
    size = min(MOST_IN_WINDOW, max(2, round(WINDOW_MS / max(float(np.median(first)), 1e-3))))
    medians: list[float] = []
    while not (settled := is_settled(medians)) and (spent_ms < MOST_WARM_UP_MS or len(medians) < 4):
        window = [take(done + k) for k in range(size)]
        done, spent_ms = done + size, spent_ms + sum(window)
        medians.append(float(np.median(window)))
    return done, settled


def collect(take: Take, runs: int) -> Floats:
    """Milliseconds of ``runs`` runs, [runs]; of fewer where they take long, but never below 10."""
    samples: list[float] = []
    spent_ms = 0.0
    while len(samples) < runs and (spent_ms < MOST_FIGURE_MS or len(samples) < LEAST_SAMPLES):
        samples.append(take(len(samples)))
        spent_ms += samples[-1]
    return np.array(samples)


def timing(samples_ms: Floats) -> Timing:
    """Median with its interval, None where the samples are too few for one; and every sample."""
    middle = median(samples_ms)
    value = middle.value if middle.value is not None else float(np.median(samples_ms))
    return Timing(
        median_ms=value,
        interval_ms=middle.interval,
        samples=len(samples_ms),
        raw_ms=tuple(round(float(v), 6) for v in samples_ms),
    )
