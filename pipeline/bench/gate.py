"""Is it worse than before? A benchmark against an earlier one: latency beyond the intervals, memory, file
size.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from typing import Literal

from pydantic import BaseModel, ConfigDict

from optim.errors import UserError
from pipeline.bench.host import changed_packages, require_alike
from pipeline.records import BenchmarkRecord, BenchResult


class GateLimits(BaseModel):
    """By how much a figure may grow before the gate closes; relative."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency: float = 0.0  # beyond both measurements' intervals
    memory: float = 0.05  # peak resident memory; the allocator's own scatter is below this
    file: float = 0.01


class GateCheck(BaseModel):
    """One figure of one contender at one batch size, before and now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contender: str
    device: str
    batch: int
    threads: int
    figure: Literal["latency_ms", "peak_rss_mib", "file_bytes"]
    before: float
    now: float
    interval_before: tuple[float, float] | None
    interval_now: tuple[float, float] | None
    passed: bool
    verdict: Literal["worse", "better", "no_difference_shown"]

    @property
    def title(self) -> str:
        return f"{self.contender}, {self.device}, batch {self.batch}, {self.threads} threads: {self.figure}"


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
    checks = tuple(check for k in both for check in _checks(old[k], new[k], limits))
    return GateRecord(
        status="ok" if all(c.passed for c in checks) else "gate_not_met",
        checks=checks,
        only_before=tuple(_title(k) for k in old if k not in new),
        only_now=tuple(_title(k) for k in new if k not in old),
        notes=(*changed_packages(before.host, now.host), *_distrust(before, "then"), *_distrust(now, "now")),
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
    return f"{key[0]}, {key[1]}, batch {key[2]}, {key[3]} threads"


def _checks(old: BenchResult, new: BenchResult, limits: GateLimits) -> list[GateCheck]:
    ratio_low, ratio_high = _ratio_interval(old, new)
    latency = "worse" if ratio_low > 1 else "better" if ratio_high < 1 else "no_difference_shown"
    return [
        _check(old, new, "latency_ms", latency, passed=ratio_low <= 1 + limits.latency),
        _plain(old, new, "peak_rss_mib", limits.memory),
        _plain(old, new, "file_bytes", limits.file),
    ]


def _ratio_interval(old: BenchResult, new: BenchResult) -> tuple[float, float]:
    """Interval of new / old from the two medians' intervals, independent and in the log domain."""
    centre = math.log(new.latency_ms / old.latency_ms)
    below = math.hypot(
        math.log(new.latency_ms / new.interval_ms[0]), math.log(old.interval_ms[1] / old.latency_ms)
    )
    above = math.hypot(
        math.log(new.interval_ms[1] / new.latency_ms), math.log(old.latency_ms / old.interval_ms[0])
    )
    return math.exp(centre - below), math.exp(centre + above)


def _plain(
    old: BenchResult, new: BenchResult, figure: Literal["peak_rss_mib", "file_bytes"], limit: float
) -> GateCheck:
    before, now = float(getattr(old, figure)), float(getattr(new, figure))
    worse, better = now > before * (1 + limit), now < before * (1 - limit)
    verdict = "worse" if worse else "better" if better else "no_difference_shown"
    return _check(old, new, figure, verdict, passed=not worse)


def _check(
    old: BenchResult,
    new: BenchResult,
    figure: Literal["latency_ms", "peak_rss_mib", "file_bytes"],
    verdict: str,
    *,
    passed: bool,
) -> GateCheck:
    timed = figure == "latency_ms"
    return GateCheck.model_validate(
        {
            "contender": new.contender,
            "device": new.device,
            "batch": new.batch,
            "threads": new.threads,
            "figure": figure,
            "before": getattr(old, figure),
            "now": getattr(new, figure),
            "interval_before": old.interval_ms if timed else None,
            "interval_now": new.interval_ms if timed else None,
            "passed": passed,
            "verdict": verdict,
        }
    )


def _distrust(record: BenchmarkRecord, when: str) -> tuple[str, ...]:
    return tuple(
        f"{_title(_key(r))}: grade {r.grade.letter} {when}: {'; '.join(r.grade.reasons)}"
        for r in record.results
        if r.grade.letter in {"C", "D"}
    )


def _shown(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.6g}, {interval[1]:.6g}]"
