"""Is it worse than before? A benchmark against an earlier one: latency beyond the intervals, memory, file
size; of a CUDA run the GPU's time and memory in every cell too.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Collection
from pathlib import Path
from typing import Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from optim.errors import UserError
from pipeline.bench.cuda.compare import DRIFT
from pipeline.bench.host import changed_packages, require_alike
from pipeline.bench.records import BenchmarkRecord, BenchResult, CudaResult, CudaSettings, Timing
from pipeline.bench.study import CLOCK_PROBES

PACE_WORTH_SAYING: Final = 0.01  # of the log ratio
BLIND: Final = 0.1  # of the log ratio: with more allowance a gate that stays open says little


Figure: TypeAlias = Literal["latency_ms", "peak_rss_mib", "file_bytes", "gpu_ms", "device_memory_mib"]
Side: TypeAlias = Literal["worse", "better", "no_difference_shown"]


class GateLimits(BaseModel):
    """By how much a figure may grow before the gate closes; relative."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency: float = 0.0  # beyond both measurements' intervals
    memory: float = 0.02  # peak resident memory, beyond what the processes of one measurement differ by
    file: float = 0.01


class GateCheck(BaseModel):
    """One figure of one contender at one batch size, before and now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contender: str
    device: str
    batch: int
    threads: int  # 0: the figure is the GPU's
    figure: Figure
    before: float
    now: float
    interval_before: tuple[float, float] | None
    interval_now: tuple[float, float] | None
    passed: bool
    verdict: Side

    @property
    def title(self) -> str:
        return f"{_title((self.contender, self.device, self.batch, self.threads))}: {self.figure}"


class GateRecord(BaseModel):
    """The gate's answer; ``gate_not_met`` is exit code 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Literal["gate"] = "gate"
    status: Literal["ok", "gate_not_met"]
    checks: tuple[GateCheck, ...]
    only_before: tuple[str, ...]  # measured then and not now
    only_now: tuple[str, ...]
    notes: tuple[str, ...]  # package versions that changed, grades that forbid trust


def gate(now: BenchmarkRecord, before: BenchmarkRecord, limits: GateLimits | None = None) -> GateRecord:
    """Compare two benchmarks of the same contenders on the same machine.

    Raises:
        UserError: unlike hosts, or nothing in common (nothing compared is no pass).
    """
    require_alike(before.host, now.host)
    limits = limits or GateLimits()
    old = {_key(r): r for r in before.results}
    new = {_key(r): r for r in now.results}
    both = [k for k in new if k in old]
    if not both:
        raise UserError(
            "the two benchmarks have nothing in common",
            expected=f"one of {[_title(k) for k in old]}",
            hint="measure the same contenders, batch sizes and threads",
        )
    pace = _pace(before, now)
    checks = (
        *(check for k in both for check in _checks(old[k], new[k], limits, pace)),
        *_cuda_checks(before, now, limits),
    )
    return GateRecord(
        status="ok" if all(c.passed for c in checks) else "gate_not_met",
        checks=checks,
        only_before=tuple(_title(k) for k in old if k not in new),
        only_now=tuple(_title(k) for k in new if k not in old),
        notes=(
            *_pace_note(pace),
            *changed_packages(before.host, now.host),
            *_distrust(before, "then", both),
            *_distrust(now, "now", both),
        ),
    )


def junit(record: GateRecord) -> str:
    """JUnit XML for CI systems: one test case per figure, a failure where it got worse."""
    failed = sum(not c.passed for c in record.checks)
    suite = ET.Element(
        "testsuite", name="fairlead gate", tests=str(len(record.checks)), failures=str(failed), errors="0"
    )
    for check in record.checks:
        case = ET.SubElement(suite, "testcase", classname=f"fairlead.{check.contender}", name=check.title)
        text = f"before {check.before:.6g}{_shown(check.interval_before)}, now {check.now:.6g}"
        text += _shown(check.interval_now)
        if check.passed:
            ET.SubElement(case, "system-out").text = text
        else:
            ET.SubElement(case, "failure", message=f"{check.figure} got worse", type="regression").text = text
    if record.notes:
        ET.SubElement(suite, "system-out").text = "\n".join(record.notes)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


_Key = tuple[str, str, int, int]


def _key(result: BenchResult) -> _Key:
    return (result.contender, result.device, result.batch, result.threads)


def _title(key: _Key) -> str:
    contender, device, batch, threads = key
    counted = f", {threads} thread{'s' if threads != 1 else ''}" if threads else ""
    return f"{contender}, {device}, batch {batch}{counted}"


def _checks(old: BenchResult, new: BenchResult, limits: GateLimits, pace: Pace) -> list[GateCheck]:
    ratio_low, ratio_high = _ratio_interval(old, new, pace)
    latency: Side = "worse" if ratio_low > 1 else "better" if ratio_high < 1 else "no_difference_shown"
    return [
        _check(old, new, "latency_ms", latency, passed=ratio_low <= 1 + limits.latency),
        _memory(old, new, limits.memory),
        _file(old, new, limits.file),
    ]


def _ratio_interval(old: BenchResult, new: BenchResult, pace: Pace) -> tuple[float, float]:
    """Interval of new / old from the two medians' intervals, independent and in the log domain.

    What the machine itself did between and during the two measurements may be the cause of as much as its
    pace changed, so the interval is widened by that.
    """
    low, high = _interval_ratio((old.latency_ms, *old.interval_ms), (new.latency_ms, *new.interval_ms))
    slower, quicker = max(math.log(pace[1]), 0.0), max(-math.log(pace[0]), 0.0)
    return low * math.exp(-slower), high * math.exp(quicker)


def _interval_ratio(old: tuple[float, float, float], new: tuple[float, float, float]) -> tuple[float, float]:
    """Interval of new / old from (median, low, high) of each, independent and in the log domain."""
    centre = math.log(new[0] / old[0])
    below = math.hypot(math.log(new[0] / new[1]), math.log(old[2] / old[0]))
    above = math.hypot(math.log(new[2] / new[0]), math.log(old[0] / old[1]))
    return math.exp(centre - below), math.exp(centre + above)


Pace: TypeAlias = tuple[float, float]
"""Least and greatest ratio of what the same fixed work took, now over then."""


def _pace(before: BenchmarkRecord, now: BenchmarkRecord) -> Pace:
    """From the probes before and after each measurement; (1, 1) where a record does not hold them."""
    then_ms, now_ms = before.host.get(CLOCK_PROBES), now.host.get(CLOCK_PROBES)
    if not then_ms or not now_ms:
        return 1.0, 1.0
    return min(now_ms) / max(then_ms), max(now_ms) / min(then_ms)


def _cuda_checks(before: BenchmarkRecord, now: BenchmarkRecord, limits: GateLimits) -> list[GateCheck]:
    """GPU time and device memory of every cell that both hold, the baselines apart."""
    old, new = _cells(before), _cells(now)
    return [check for key in new if key in old for check in _cell_checks(key, old[key], new[key], limits)]


_Cell: TypeAlias = tuple[str, int, CudaSettings]


def _cells(record: BenchmarkRecord) -> dict[_Cell, CudaResult]:
    """Cells with the GPU's own time, by the model's file name: folders of two runs differ."""
    results = () if record.cuda is None else record.cuda.results
    return {
        (Path(r.model).name, r.batch, r.settings): r
        for r in results
        if r.gpu is not None and r.settings.runtime != "torch.compile"
    }


def _cell_checks(key: _Cell, old: CudaResult, new: CudaResult, limits: GateLimits) -> list[GateCheck]:
    contender, batch, settings = key
    facts = {"contender": f"{contender}, {settings.title}", "device": "cuda", "batch": batch, "threads": 0}
    then, here = old.gpu, new.gpu
    if then is None or here is None:
        return []
    low, high = _timing_ratio(then, here)
    slower = low > math.exp(DRIFT) * (1 + limits.latency)
    latency: Side = "worse" if slower else "better" if high < math.exp(-DRIFT) else "no_difference_shown"
    more, less = (new.device_memory_mib > old.device_memory_mib * (1 + limits.memory),
                  new.device_memory_mib < old.device_memory_mib * (1 - limits.memory))  # fmt: skip
    memory: Side = "worse" if more else "better" if less else "no_difference_shown"
    return [
        GateCheck.model_validate(
            {
                **facts, "figure": "gpu_ms", "before": then.median_ms, "now": here.median_ms,
                "interval_before": then.interval_ms, "interval_now": here.interval_ms,
                "passed": not slower, "verdict": latency,
            }
        ),
        GateCheck.model_validate(
            {
                **facts, "figure": "device_memory_mib",
                "before": old.device_memory_mib, "now": new.device_memory_mib,
                "interval_before": None, "interval_now": None, "passed": not more, "verdict": memory,
            }
        ),
    ]  # fmt: skip


def _timing_ratio(old: Timing, new: Timing) -> tuple[float, float]:
    """Interval of new / old; everything where either has none."""
    if old.interval_ms is None or new.interval_ms is None:
        return 0.0, math.inf
    return _interval_ratio((old.median_ms, *old.interval_ms), (new.median_ms, *new.interval_ms))


def _memory(old: BenchResult, new: BenchResult, limit: float) -> GateCheck:
    """Worse where every process now took more than every process then, by more than the limit."""
    then = old.peak_rss_interval_mib or (old.peak_rss_mib, old.peak_rss_mib)
    now = new.peak_rss_interval_mib or (new.peak_rss_mib, new.peak_rss_mib)
    worse, better = now[0] > then[1] * (1 + limit), now[1] < then[0] * (1 - limit)
    verdict: Side = "worse" if worse else "better" if better else "no_difference_shown"
    return _check(old, new, "peak_rss_mib", verdict, passed=not worse)


def _file(old: BenchResult, new: BenchResult, limit: float) -> GateCheck:
    before, now = float(old.file_bytes), float(new.file_bytes)
    worse, better = now > before * (1 + limit), now < before * (1 - limit)
    verdict: Side = "worse" if worse else "better" if better else "no_difference_shown"
    return _check(old, new, "file_bytes", verdict, passed=not worse)


def _check(
    old: BenchResult,
    new: BenchResult,
    figure: Literal["latency_ms", "peak_rss_mib", "file_bytes"],
    verdict: Side,
    *,
    passed: bool,
) -> GateCheck:
    intervals = {
        "latency_ms": (old.interval_ms, new.interval_ms),
        "peak_rss_mib": (old.peak_rss_interval_mib, new.peak_rss_interval_mib),
        "file_bytes": (None, None),
    }[figure]
    return GateCheck.model_validate(
        {
            "contender": new.contender,
            "device": new.device,
            "batch": new.batch,
            "threads": new.threads,
            "figure": figure,
            "before": getattr(old, figure),
            "now": getattr(new, figure),
            "interval_before": intervals[0],
            "interval_now": intervals[1],
            "passed": passed,
            "verdict": verdict,
        }
    )


def _pace_note(pace: Pace) -> tuple[str, ...]:
    if max(abs(math.log(p)) for p in pace) < PACE_WORTH_SAYING:
        return ()
    said = (
        f"the same fixed work took {pace[0]:.3f} to {pace[1]:.3f} times as long as then: "
        "latencies are judged with that much allowance"
    )
    if math.log(pace[1]) > BLIND:
        said += (
            f", so a model up to {pace[1]:.2f} times as slow would pass: measure again on a quieter machine"
        )
    return (said,)


def _distrust(record: BenchmarkRecord, when: str, compared: Collection[_Key]) -> tuple[str, ...]:
    return tuple(
        f"{_title(_key(r))}: grade {r.grade.letter} {when}: {'; '.join(r.grade.reasons)}"
        for r in record.results
        if r.grade.letter in {"C", "D"} and _key(r) in compared
    )


def _shown(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.6g}, {interval[1]:.6g}]"
