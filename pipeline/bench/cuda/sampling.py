"""Take samples of something that takes a while: until it has settled, then until there are enough of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np

from pipeline.bench.records import Timing
from pipeline.bench.stats import Floats, is_settled, median

Take: TypeAlias = Callable[[int], float]
"""Runs for the k-th time; milliseconds."""

WINDOW_MS: Final = 20.0  # of a warm-up
MOST_IN_WINDOW: Final = 100
MOST_WARM_UP_MS: Final = 2000.0
LEAST_WINDOWS: Final = 4


def settle(take: Take, *, least: int) -> tuple[int, bool]:
    """Run until the medians of the last windows agree, at least ``least`` times.

    Returns:
        How many runs it took, and whether it settled before the time for that was over.
    """
    first = [take(k) for k in range(least)]
    done, spent_ms = least, float(sum(first))
    size = min(MOST_IN_WINDOW, max(1, round(WINDOW_MS / max(float(np.median(first)), 1e-3))))
    medians: list[float] = []
    while not (settled := is_settled(medians)) and (
        spent_ms < MOST_WARM_UP_MS or len(medians) < LEAST_WINDOWS
    ):
        window = [take(done + k) for k in range(size)]
        done, spent_ms = done + size, spent_ms + sum(window)
        medians.append(float(np.median(window)))
    return done, settled


def timing(blocks: Sequence[Floats]) -> Timing:
    """Median with its interval, None where the samples are too few for one; and every sample.

    ``blocks``: milliseconds, one array of the same size a round, in order of time.
    """
    samples_ms = np.concatenate(blocks)
    middle = median(samples_ms)
    value = middle.value if middle.value is not None else float(np.median(samples_ms))
    return Timing(
        median_ms=value,
        interval_ms=middle.interval,
        samples=len(samples_ms),
        raw_ms=tuple(round(float(v), 5) for v in samples_ms),
        rounds=len(blocks),
    )


def blocks_of(found: Timing) -> list[Floats]:
    """The samples by round again; none where they were not taken in rounds."""
    return list(np.array(found.raw_ms).reshape(found.rounds, -1)) if found.rounds else []
