"""How far a measurement can be trusted: a letter and its reasons, from what was seen, not from hope."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pipeline.bench.host import Host, Snapshot
from pipeline.bench.records import BenchResult, Grade

CLOCK_CHANGE: Final = 0.05  # relative change of the clock probe
STEAL_SHARE: Final = 0.01  # of the CPUs' time
OTHERS_CPUS: Final = 0.10  # CPUs kept busy by others, per CPU
HEAVY_FACTOR: Final = 5.0  # beyond this many times a bound, the fault is grave
WIDE_INTERVAL: Final = 0.05  # half width of the median's interval, relative
FEW_SAMPLES: Final = 100
NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")
PROCESS_SPREAD: Final = 0.03


@dataclass(frozen=True)
class Seen:
    """What one contender's measurement showed about itself."""

    samples: int
    settled: bool
    relative_half_width: float | None  # of the median's interval; None where samples were too few for one
    threads: int
    cpu_share: float  # CPU seconds per second
    allow_spinning: bool
    spinning_controlled: bool = True  # False where the framework has no switch for it
    process_spread: float | None = None  # relative standard deviation between processes with one model


@dataclass(frozen=True)
class Fault:
    """A reason to trust a figure less."""

    text: str
    grave: bool


def grade(seen: Seen, host: Host, before: Snapshot, after: Snapshot, own: Collection[int] = ()) -> Grade:
    """A: nothing found. B: small faults only. C: one grave fault. D: more than one.

    ``own`` are the process ids of the measurement itself; all other work counts as disturbance.
    """
    faults = [*_host_faults(host, before, after, own), *_own_faults(seen, host)]
    return Grade(letter=letter_of(faults), reasons=tuple(f.text for f in faults))


def letter_of(faults: Sequence[Fault]) -> Literal["A", "B", "C", "D"]:
    """A: none. B: small ones only. C: one grave one. D: more than one."""
    grave = sum(f.grave for f in faults)
    return "D" if grave > 1 else "C" if grave == 1 else "B" if faults else "A"


def grade_reasons(results: Iterable[BenchResult]) -> dict[str, tuple[str, ...]]:
    """Why grades are below A: each reason once, with the contenders it concerns."""
    return reasons_by_name((one.contender, one.grade.reasons) for one in results)


def reasons_by_name(graded: Iterable[tuple[str, Sequence[str]]]) -> dict[str, tuple[str, ...]]:
    """Each reason once, with the names it concerns, of (name, reasons).

    Reasons that differ in their numbers only are one, with the numbers' range.
    """
    texts: dict[str, list[str]] = {}
    names: dict[str, list[str]] = {}
    for name, reasons in graded:
        for why in reasons:
            skeleton = NUMBER.sub("#", why)
            texts.setdefault(skeleton, []).append(why)
            known = names.setdefault(skeleton, [])
            if name not in known:
                known.append(name)
    return {_with_ranges(skeleton, texts[skeleton]): tuple(names[skeleton]) for skeleton in texts}


def _with_ranges(skeleton: str, texts: Sequence[str]) -> str:
    """``known to ±#% only`` of ``… ±6% …`` and ``… ±11% …``: ``known to ±6 to 11% only``."""
    columns = zip(*(NUMBER.findall(text) for text in texts), strict=True)
    for column in columns:
        ordered = sorted(set(column), key=float)
        shown = ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"
        skeleton = skeleton.replace("#", shown, 1)
    return skeleton


def _host_faults(host: Host, before: Snapshot, after: Snapshot, own: Collection[int]) -> list[Fault]:
    faults = []
    wall = max(after.at_s - before.at_s, 1e-9)
    cpus = max(host.threads, 1)
    change = abs(after.clock_probe_ms / before.clock_probe_ms - 1)
    if change > CLOCK_CHANGE:
        faults.append(
            Fault(f"clock: the same work took {change:.0%} more or less time afterwards", grave=change > 0.15)
        )
    if before.mhz and after.mhz and abs(after.mhz / before.mhz - 1) > CLOCK_CHANGE:
        faults.append(Fault(f"clock rate went from {before.mhz:.0f} to {after.mhz:.0f} MHz", grave=False))
    if _grew(before.throttle_events, after.throttle_events) > 0:
        faults.append(Fault("the CPU throttled itself for heat", grave=True))
    throttled = _grew(before.quota_throttled_s, after.quota_throttled_s)
    if throttled > 0.01 * wall:
        faults.append(Fault(f"the CPU quota held us back for {throttled:.2f} s", grave=True))
    steal = (after.steal_s - before.steal_s) / (wall * cpus)
    if steal > STEAL_SHARE:
        text = f"steal: the hypervisor took {steal:.1%} of the CPU time"
        faults.append(Fault(text, grave=steal > HEAVY_FACTOR * STEAL_SHARE))
    others = _others_cpus(before, after, own, wall)
    if others > OTHERS_CPUS * cpus:
        text = f"other processes kept {others:.2f} of {cpus} CPUs busy ({_busiest(before, after, own)})"
        faults.append(Fault(text, grave=others > HEAVY_FACTOR * OTHERS_CPUS * cpus))
    if host.governor not in {"", "performance"}:
        faults.append(Fault(f"CPU governor is {host.governor!r}, not 'performance'", grave=False))
    return faults


def _own_faults(seen: Seen, host: Host) -> list[Fault]:
    faults = []
    if seen.relative_half_width is None:
        faults.append(Fault(f"{seen.samples} samples do not support an interval of the median", grave=True))
    elif seen.relative_half_width > WIDE_INTERVAL:
        text = f"the median is known to ±{seen.relative_half_width:.0%} only"
        faults.append(Fault(text, grave=seen.relative_half_width > 3 * WIDE_INTERVAL))
    if seen.samples < FEW_SAMPLES:
        faults.append(Fault(f"{seen.samples} samples; {FEW_SAMPLES} or more would be good", grave=False))
    if not seen.settled:
        faults.append(Fault("latency had not settled when the warm-up's time was over", grave=True))
    if seen.threads > host.usable_threads:
        text = f"{seen.threads} threads on {host.usable_threads} usable CPUs"
        faults.append(Fault(text, grave=True))
    if seen.cpu_share > seen.threads * 1.1 + 0.1:
        text = f"used {seen.cpu_share:.1f} CPUs though told to use {seen.threads} threads"
        faults.append(Fault(text, grave=True))
    if seen.threads > 1 and (seen.allow_spinning or not seen.spinning_controlled):
        why = "was allowed" if seen.allow_spinning else "has no switch in this framework"
        faults.append(Fault(f"thread spinning {why}: depends on who else runs", grave=False))
    if seen.process_spread is not None and seen.process_spread > PROCESS_SPREAD:
        text = f"processes with the same model differ by {seen.process_spread:.1%} (standard deviation)"
        faults.append(Fault(text, grave=seen.process_spread > 2 * PROCESS_SPREAD))
    return faults


def _grew(before: float | None, after: float | None) -> float:
    return 0.0 if before is None or after is None else after - before


def _others_cpus(before: Snapshot, after: Snapshot, own: Collection[int], wall: float) -> float:
    """CPUs kept busy, on average, by other processes than ``own``: the system's busy time less our own."""
    ours = sum(_process_cpu_s(before, after, pid) for pid in own)
    return max(0.0, (after.busy_s - before.busy_s - ours) / wall)


def _process_cpu_s(before: Snapshot, after: Snapshot, pid: int) -> float:
    if pid not in after.cpu_s_by_process:
        return 0.0
    return after.cpu_s_by_process[pid][1] - before.cpu_s_by_process.get(pid, ("", 0.0))[1]


def _busiest(before: Snapshot, after: Snapshot, own: Collection[int]) -> str:
    spent = {pid: _process_cpu_s(before, after, pid) for pid in after.cpu_s_by_process if pid not in own}
    if not spent:
        return "they are gone"
    pid = max(spent, key=lambda p: spent[p])
    return f"most by {after.cpu_s_by_process[pid][0]}" if spent[pid] > 0 else "they are gone"
