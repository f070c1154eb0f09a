"""Choose ONNX Runtime's optimisation level by its distance from the float64 truth.

Its own rewrites can lose accuracy. The fastest level whose error stays within the gate is the one to ship.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optim.contract import Array, Feeds, Outputs
from optim.heads import Head, saturating_heads
from optim.model import load
from pipeline.config import GateConfig
from pipeline.parity.heads import AS_LOGARITHMS, comparable
from pipeline.parity.metrics import max_abs_over_range
from targets.closeness import SOURCE_ERROR_SLACK
from targets.reference import OptimizationLevel, OrtSession

FASTEST_FIRST: tuple[OptimizationLevel, ...] = ("all", "extended", "basic", "off")


@dataclass(frozen=True)
class LevelError:
    """How far one level is from float64: the worst max|Δ| / range over feeds and outputs."""

    level: OptimizationLevel
    error: float
    feed: str
    passed: bool


@dataclass(frozen=True)
class RuntimeChoice:
    """The level to ship, what was measured for each, and what the user should know."""

    level: OptimizationLevel
    levels: tuple[LevelError, ...]
    bound: float
    notice: str = ""


def choose_optimization(
    model: Path,
    feeds: Mapping[str, Feeds],
    truth: Mapping[str, Outputs],
    gate: GateConfig,
    *,
    source_error: float | None = None,
    threads: int = 1,
) -> RuntimeChoice:
    """The fastest level with error <= factor * reference error + 1e-6, and within the gate's own bound.

    Args:
        model: the ONNX model that is to be shipped.
        feeds: named inputs; ``truth`` holds the float64 outputs for each.
        source_error: the source framework's worst error; the unoptimised run stands in where it is unknown.
    """
    plain = _measure(model, "off", feeds, truth, threads)
    reference = plain[0] if source_error is None else source_error
    bound = min(gate.source_error_factor * reference + SOURCE_ERROR_SLACK, gate.max_abs_over_range)
    levels: list[LevelError] = []
    for level in FASTEST_FIRST:
        error, feed = plain if level == "off" else _measure(model, level, feeds, truth, threads)
        levels.append(LevelError(level, error, feed, error <= bound))
        if error <= bound:
            break
    chosen = next((e.level for e in levels if e.passed), min(levels, key=lambda e: e.error).level)
    return RuntimeChoice(chosen, tuple(levels), bound, _notice(chosen, levels, plain[0], bound))


def _measure(
    model: Path,
    level: OptimizationLevel,
    feeds: Mapping[str, Feeds],
    truth: Mapping[str, Outputs],
    threads: int,
) -> tuple[float, str]:
    worst, where = 0.0, ""
    heads = saturating_heads(load(model))
    with OrtSession(model, optimization=level, threads=threads, map_weights=True) as session:
        outputs = tuple(o.name for o in session.outputs)
        for name, feed in feeds.items():
            error = distance(truth[name], session.run(feed), heads, outputs)
            if error > worst or not where:
                worst, where = max(error, worst), name
    return worst, where


def distance(truth: Outputs, run: Outputs, heads: Mapping[str, Head], names: tuple[str, ...]) -> float:
    """Worst max|Δ| / range of a run from the truth, saturating outputs looked at before saturation."""
    pairs = comparable(truth, run, heads, heads, names)
    steep = {name for name in names if f"{name}{AS_LOGARITHMS}" in pairs}
    errors = [
        max_abs_over_range(expected, value)
        for what, (expected, value) in pairs.items()
        if what not in steep and expected.size and _is_finite(expected)
    ]
    return max(errors, default=0.0)


def _is_finite(array: Array) -> bool:
    """Whether it holds numbers, and no NaN or infinity among them; text has no distance."""
    return array.dtype.kind not in "OSU" and bool(np.isfinite(array).all())


def _notice(chosen: OptimizationLevel, levels: list[LevelError], plain: float, bound: float) -> str:
    if chosen == FASTEST_FIRST[0]:
        return ""
    first = levels[0]
    ratio = first.error / plain if plain else 0.0
    shown = f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.1f}"
    times = f"{shown} × as far" if plain else "farther"
    fate = f"{chosen!r} is used instead" if any(e.passed for e in levels) else "no level passes"
    return (
        f"ONNX Runtime at {first.level!r} is {times} from the float64 truth as unoptimised "
        f"on input {first.feed!r} ({first.error:.2g} of the range against {plain:.2g}, "
        f"allowed {bound:.2g}); {fate}"
    )
