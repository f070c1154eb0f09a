"""How far a figure of a GPU can be trusted: a letter and its reasons, as for the CPU in ``grade``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pipeline.bench.cuda.nvml import GpuCondition
from pipeline.bench.grade import CLOCK_CHANGE, FEW_SAMPLES, WIDE_INTERVAL, Fault, letter_of
from pipeline.bench.records import Grade, Timing

GRAVE: Final = {"hardware slowdown", "temperature (driver)", "temperature (hardware)", "power brake"}


@dataclass(frozen=True)
class SeenOnGpu:
    """What one cell's measurement showed about itself."""

    timing: Timing  # the one that the cell is about
    settled: bool
    beyond_l2: bool
    before: GpuCondition | None  # warmed up, and before the first figure
    after: GpuCondition | None
    why_unwatched: str = ""  # where the condition is None


def grade_cuda(seen: SeenOnGpu) -> Grade:
    """A: nothing found. B: small faults only. C: one grave fault. D: more than one."""
    faults = [*_own(seen), *_conditions(seen)]
    return Grade(letter=letter_of(faults), reasons=tuple(f.text for f in faults))


def _own(seen: SeenOnGpu) -> list[Fault]:
    faults = []
    found = seen.timing
    if found.interval_ms is None:
        faults.append(Fault(f"{found.samples} samples do not support an interval of the median", grave=True))
    else:
        half = (found.interval_ms[1] - found.interval_ms[0]) / 2 / found.median_ms
        if half > WIDE_INTERVAL:
            faults.append(Fault(f"the median is known to ±{half:.0%} only", grave=half > 3 * WIDE_INTERVAL))
    if found.samples < FEW_SAMPLES:
        text = f"{found.samples} samples; {FEW_SAMPLES} or more would be good"
        faults.append(Fault(text, grave=False))
    if not seen.settled:
        faults.append(Fault("latency had not settled when the warm-up's time was over", grave=True))
    if not seen.beyond_l2:
        faults.append(Fault("all input sets together fit the L2 cache", grave=False))
    return faults


def _conditions(seen: SeenOnGpu) -> list[Fault]:
    if seen.before is None or seen.after is None:
        why = seen.why_unwatched or "the GPU does not tell"
        return [Fault(f"clocks, throttling and other processes were not watched: {why}", grave=False)]
    faults = []
    if abs(seen.after.sm_mhz / max(seen.before.sm_mhz, 1) - 1) > CLOCK_CHANGE:
        text = f"the GPU's clock went from {seen.before.sm_mhz} to {seen.after.sm_mhz} MHz"
        faults.append(Fault(text, grave=False))
    for why in dict.fromkeys((*seen.before.held_back, *seen.after.held_back)):
        faults.append(Fault(f"the GPU's clock was held down: {why}", grave=why in GRAVE))
    others = max(seen.before.others or 0, seen.after.others or 0)
    if others:
        text = f"{others} other process{'es' if others > 1 else ''} computed on the GPU"
        faults.append(Fault(text, grave=True))
    return faults
