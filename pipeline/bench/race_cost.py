"""What a measurement will take: seconds, from the latencies known so far and what processes have cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from pipeline.bench.measure import BLOCK_S, SETTLE_BELOW_S, Schedule

BETWEEN_BLOCKS_S: Final = 0.001  # binding to CPUs, stopping, the way to the child and back


def timing_s(latencies_s: Sequence[float], processes: int, schedule: Schedule) -> float:
    """Seconds of the rounds of contenders with these latencies in so many processes each.

    All are measured in the same rounds, until the one that takes most rounds has enough.
    """
    blocks = [max(BLOCK_S, one) for one in latencies_s]
    rounds = max(
        schedule.min_rounds,
        max((math.ceil(schedule.min_duration_s / (processes * b)) for b in blocks), default=0),
    )
    settling = sum(one for one in latencies_s if one < SETTLE_BELOW_S)
    return processes * rounds * (sum(blocks) + settling + BETWEEN_BLOCKS_S * len(blocks))


def affordable_seconds(
    latencies_s: Sequence[float],
    processes: int,
    schedule: Schedule,
    bounds: tuple[float, float],
    left_s: float,
) -> float:
    """The longest ``min_duration_s`` within ``bounds`` whose rounds fit into ``left_s``, or the shortest."""
    low, high = bounds
    best = low
    for k in range(16):
        seconds = low * (high / low) ** (k / 15)
        if timing_s(latencies_s, processes, schedule.lasting(seconds)) <= left_s:
            best = seconds
    return best
