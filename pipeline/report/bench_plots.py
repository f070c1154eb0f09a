"""Pictures of a benchmark: batch and thread curves, roofline, and error against latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from pipeline.bench.records import BenchResult, RooflineRecord
from pipeline.report.charts import FILLS, INK, drawing
from pipeline.report.format_values import milliseconds, percent, scientific, significant
from pipeline.report.place_labels import Box, place_labels

_GRID: Final = {"color": INK, "alpha": 0.10, "lw": 0.7}
_NAMED: Final = 5  # nodes of a roofline that are numbered and named
_LONGEST: Final = 34  # characters of a node's name
_DEEPEST: Final = 1e-3  # of the peak rate; below it a node lies on the ground of the picture
_TIED: Final = 12.0  # points between a point and its name from which a line joins them
_OP_FILLS: Final = {"compute": FILLS[1], "memory": FILLS[3]}


@dataclass(frozen=True)
class Curve:
    """One contender's results over a swept quantity, ascending."""

    name: str
    results: tuple[BenchResult, ...]


def sweep(results: Sequence[BenchResult], over: str) -> tuple[Curve, ...]:
    """Curves over ``batch`` or ``threads``, the other held at its first value; at least two points each."""
    if not results:
        return ()
    other = "threads" if over == "batch" else "batch"
    held = getattr(results[0], other)
    groups: dict[tuple[str, str], list[BenchResult]] = {}
    for one in results:
        if getattr(one, other) == held:
            # A thread count is part of a contender's name; the model is what stays the same.
            key = (one.contender, "") if over == "batch" else (one.model, one.device)
            groups.setdefault(key, []).append(one)
    curves = []
    for group in groups.values():
        ordered = sorted(group, key=lambda r: int(getattr(r, over)))
        if len({getattr(r, over) for r in ordered}) > 1:
            curves.append(Curve(min((r.contender for r in group), key=len), tuple(ordered)))
    return tuple(curves)


def sweep_chart(curves: Sequence[Curve], over: str) -> Markup:
    """Latency and throughput over batch size or threads, side by side, intervals shaded.

    Raises:
        NoPlots: matplotlib is not installed.
    """
    with drawing(height_in=3.1) as (figure, first, emit):
        first.remove()
        left, right = (figure.add_subplot(1, 2, k) for k in (1, 2))
        for axes in (left, right):
            _tidy(axes)
        label = "batch size" if over == "batch" else "threads"
        ends: dict[Any, list[tuple[float, str, str]]] = {left: [], right: []}
        for k, curve in enumerate(curves):
            color = FILLS[k % len(FILLS)]
            xs = [int(getattr(r, over)) for r in curve.results]
            ys = [r.latency_ms for r in curve.results]
            left.fill_between(
                xs,
                [r.interval_ms[0] for r in curve.results],
                [r.interval_ms[1] for r in curve.results],
                color=color,
                alpha=0.22,
                lw=0,
            )
            rates = [r.throughput_per_s for r in curve.results]
            for axes, values in ((left, ys), (right, rates)):
                axes.plot(xs, values, "o-", color=color, ms=5, lw=1.8)
                ends[axes].append((values[-1], curve.name, color))
        ticks = sorted({int(getattr(r, over)) for c in curves for r in c.results})
        for axes, text in ((left, "latency of one call in ms"), (right, "examples per second")):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(ticks, [str(t) for t in ticks])
            axes.minorticks_off()
            axes.set_xlim(ticks[0] / 1.12, ticks[-1] * (ticks[-1] / ticks[0]) ** 0.42)
            _decades(axes.yaxis, axes.get_ylim())
            axes.set_xlabel(label)
            axes.set_title(text, loc="left", fontsize=9.5, pad=8)
            _name_ends(axes, ticks[-1], ends[axes])
        figure.tight_layout(pad=0.4, w_pad=2.2)
        spoken = "; ".join(
            f"{c.name}: " + ", ".join(f"{getattr(r, over)}: {milliseconds(r.latency_ms)}" for r in c.results)
            for c in curves
        )
        return emit(f"Latency and throughput over {label}. {spoken}.")


def roofline_chart(found: RooflineRecord) -> Markup:
    """Each node's rate over its operations per byte, under this machine's roof; area is time.

    Raises:
        NoPlots: matplotlib is not installed.
    """
    import numpy as np

    nodes = [n for n in found.nodes if n.operations > 0 and n.bytes > 0 and n.median_us > 0]
    peaks = found.peaks
    with drawing(height_in=4.2) as (figure, axes, emit):
        _tidy(axes)
        xs = np.array([n.operations / n.bytes for n in nodes] or [1.0])
        ys = np.array([n.operations / n.median_us / 1e3 for n in nodes] or [1.0])
        ridge = peaks.gflop_per_s / peaks.gbyte_per_s
        low, high = min(float(xs.min()), ridge) / 2.5, max(float(xs.max()), ridge) * 4
        line = np.geomspace(low, high, 200)
        roof = np.minimum(peaks.gflop_per_s, peaks.gbyte_per_s * line)
        axes.plot(line, roof, color=INK, lw=1.6)
        for near in peaks.cached[:1]:
            slope = near.gbyte_per_s * line
            axes.plot(line, np.minimum(peaks.gflop_per_s, slope), color=INK, lw=1.0, ls=(0, (4, 3)))
            axes.annotate(
                f"caches: {near.gbyte_per_s:.0f} GB/s", (low * 1.15, near.gbyte_per_s * low * 1.15),
                xytext=(0, 24), textcoords="offset points", ha="left", fontsize=8.5,
            )  # fmt: skip
        floor = min(max(float(ys.min()), peaks.gflop_per_s * _DEEPEST), float(roof.min())) / 4
        ys = np.maximum(ys, 1.6 * floor)  # what does next to nothing lies on the ground
        axes.fill_between(line, roof, floor, color=FILLS[0], alpha=0.08, lw=0)
        total = sum(n.median_us for n in found.nodes) or 1.0
        for bound, color in _OP_FILLS.items():
            own = [k for k, n in enumerate(nodes) if n.bound == bound]
            sizes = [30 + 1500 * nodes[k].median_us / total for k in own]
            axes.scatter(xs[own], ys[own], s=sizes, color=color, alpha=0.6, lw=0)
        largest = sorted(range(len(nodes)), key=lambda k: -nodes[k].median_us)[:_NAMED]
        lines = []
        for number, k in enumerate(largest, start=1):
            axes.annotate(
                str(number), (xs[k], ys[k]), ha="center", va="center", fontsize=8, fontweight="bold",
                annotation_clip=False,
            )  # fmt: skip
            name = nodes[k].node if len(nodes[k].node) <= _LONGEST else nodes[k].node[: _LONGEST - 1] + "…"
            lines.append(f"{number}  {nodes[k].op}, {percent(nodes[k].median_us / total)}: {name}")
        axes.annotate(
            "\n".join(lines), (1.0, 0.03), xycoords="axes fraction", ha="right", va="bottom", fontsize=8.5,
            linespacing=1.5, multialignment="left",
        )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        top = peaks.gflop_per_s * 2.2
        axes.set_ylim(floor, top)
        _decades(axes.xaxis, (low, high))
        _decades(axes.yaxis, (floor, top))
        axes.annotate(
            f"{peaks.gflop_per_s:.0f} GFLOP/s", (high, peaks.gflop_per_s), xytext=(-4, 5),
            textcoords="offset points", ha="right", fontsize=8.5,
        )  # fmt: skip
        axes.annotate(
            f"memory: {peaks.gbyte_per_s:.1f} GB/s", (low * 1.15, peaks.gbyte_per_s * low * 1.15),
            xytext=(0, -12 if peaks.cached else 15), textcoords="offset points", ha="left", fontsize=8.5,
        )  # fmt: skip
        axes.set_xlabel("operations per byte that must move")
        axes.set_title("GFLOP/s reached", loc="left", fontsize=9.5, pad=8)
        figure.tight_layout(pad=0.4)
        return emit(
            f"Roofline: {percent(found.share_of_limit)} of the limit reached; peaks "
            f"{peaks.gflop_per_s:.0f} GFLOP/s and {peaks.gbyte_per_s:.1f} GB/s from memory."
        )


@dataclass(frozen=True)
class Point:
    """A way to run the model: how far from the source, how fast."""

    name: str
    latency_ms: float
    error: float  # max|Δ| / range
    kind: str  # "contender", "candidate" or "choice"


def front(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that no other beats in both, from the fastest on."""
    best: list[Point] = []
    for one in sorted(points, key=lambda p: (p.latency_ms, p.error)):
        if not best or one.error < best[-1].error:
            best.append(one)
    return tuple(best)


def pareto_chart(points: Sequence[Point], bound: float, source_ms: float | None) -> Markup:
    """Error against latency, with the gate and the front; nearer to the lower left is better.

    Args:
        points: ways to run the model.
        bound: the gate's bound on the error.
        source_ms: the source framework's latency; its error is zero by definition.

    Raises:
        NoPlots: matplotlib is not installed.
    """
    with drawing(height_in=3.6) as (figure, axes, emit):
        _tidy(axes)
        shown = [(p, max(p.error, 1e-9)) for p in points]
        look = {
            "candidate": {"color": FILLS[0], "s": 26, "alpha": 0.55},
            "contender": {"color": FILLS[1], "s": 74, "alpha": 0.95},
            "choice": {"color": FILLS[2], "s": 92, "alpha": 0.95},
        }
        for kind, style in look.items():
            own = [(p.latency_ms, y) for p, y in shown if p.kind == kind]
            if own:
                axes.scatter(*zip(*own, strict=True), lw=0, zorder=3, **style)
        steps = [(p.latency_ms, max(p.error, 1e-9)) for p in front(points)]
        axes.step(*zip(*steps, strict=True), where="post", color=FILLS[2], lw=1.2, alpha=0.6, zorder=2)
        axes.axhline(bound, color=FILLS[3], lw=1, ls=(0, (5, 3)))
        axes.set_xscale("log")
        axes.set_yscale("log")
        values = [p.latency_ms for p in points] + ([source_ms] if source_ms is not None else [])
        low, high = min(values) / 1.25, max(values) * 1.7
        floor, top = min(y for _, y in shown) / 3, max(bound, *(y for _, y in shown)) * 3
        axes.set_xlim(low, high)
        axes.set_ylim(floor, top)
        _decades(axes.xaxis, (low, high))
        _decades(axes.yaxis, (floor, top), scientific_labels=True)
        gate_text = axes.annotate(
            "gate", (low, bound), xytext=(4, 4), textcoords="offset points", fontsize=8.5, color=FILLS[3]
        )
        texts, lines = [gate_text], [((low, bound), (high, bound))]
        if source_ms is not None:
            axes.axvline(source_ms, color=INK, lw=0.8, ls=(0, (2, 3)), alpha=0.6)
            texts.append(_name_source(axes, source_ms))
            lines.append(((source_ms, floor), (source_ms, top)))
        axes.set_xlabel("latency in ms")
        axes.set_title("max|Δ| / range from the source", loc="left", fontsize=9.5, pad=8)
        figure.tight_layout(pad=0.4)
        small = [(p.latency_ms, y) for p, y in shown if p.kind == "candidate"]
        named = [(p.latency_ms, y, p.name) for p, y in shown if p.kind != "candidate"]
        _name_points(figure, axes, named, texts, [*lines, *((dot, dot) for dot in small)])
        spoken = "; ".join(
            f"{p.name}: {milliseconds(p.latency_ms)}, {scientific(p.error)}"
            for p in points
            if p.kind != "candidate"
        )
        return emit(f"Error against latency. {spoken}.")


def _name_source(axes: Any, source_ms: float) -> Any:
    """The source's name at the foot of its line, on the side that has more room."""
    low, high = axes.get_xlim()
    right = source_ms * source_ms > low * high
    return axes.annotate(
        f"source {milliseconds(source_ms)}",
        (source_ms, axes.get_ylim()[0]),
        xytext=(-4 if right else 4, 6),
        textcoords="offset points",
        fontsize=8.5,
        ha="right" if right else "left",
    )


def _name_points(
    figure: Any,
    axes: Any,
    named: Sequence[tuple[float, float, str]],
    texts: Sequence[Any],
    lines: Sequence[tuple[tuple[float, float], tuple[float, float]]],
) -> None:
    """Names beside their points, none on another; those that had to move away are tied to their point.

    Args:
        figure: laid out already.
        axes: of ``figure``.
        named: x, y and name.
        texts: other texts in the plot.
        lines: straight lines, and dots as lines from a point to itself, in data coordinates.
    """
    renderer, unit = figure._get_renderer(), 72 / figure.dpi  # points, for the SVG has its own resolution

    def where(x: float, y: float) -> tuple[float, float]:
        across, up = axes.transData.transform((x, y))
        return float(across) * unit, float(up) * unit

    def box_of(artist: Any) -> Box:
        extent = artist.get_window_extent(renderer)
        return Box(*(float(v) * unit for v in (extent.x0, extent.y0, extent.width, extent.height)))

    taken = [box_of(text) for text in texts]
    for start, end in lines:
        (x0, y0), (x1, y1) = where(*start), where(*end)
        taken.append(Box(min(x0, x1) - 2, min(y0, y1) - 2, abs(x1 - x0) + 4, abs(y1 - y0) + 4))
    made = [
        axes.annotate(name, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=8.5)
        for x, y, name in named
    ]
    points = [where(x, y) for x, y, _ in named]
    sizes = [(box.width, box.height) for box in map(box_of, made)]
    boxes = place_labels(points, sizes, box_of(axes), taken)
    for text, (x, y, _), point, box in zip(made, named, points, boxes, strict=True):
        text.set_verticalalignment("bottom")
        text.set_position((box.x - point[0], box.y - point[1]))
        near = (
            min(max(point[0], box.x), box.x + box.width) - point[0],
            min(max(point[1], box.y), box.y + box.height) - point[1],
        )
        if math.hypot(*near) > _TIED:
            tie = {"arrowstyle": "-", "lw": 0.6, "color": INK, "alpha": 0.5, "shrinkA": 0, "shrinkB": 4}
            axes.annotate("", (x, y), xytext=near, textcoords="offset points", arrowprops=tie)


def _tidy(axes: Any) -> None:
    axes.patch.set_visible(False)
    axes.grid(True, **_GRID)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_alpha(0.4)


def _decades(axis: Any, limits: tuple[float, float], *, scientific_labels: bool = False) -> None:
    """Round numbers, written plainly; more of them where the axis spans little."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator

    low, high = limits
    span = math.log10(high / low)
    steps = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if span < 1 else (1.0, 2.0, 5.0) if span < 2.2 else (1.0,)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks = [s * 10.0**e for e in range(first, last + 1) for s in steps if low <= s * 10.0**e <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    labels = [f"{t:.0e}".replace("e-0", "e-") if scientific_labels else f"{t:,g}" for t in ticks]
    axis.set_major_formatter(FixedFormatter(labels))
    axis.set_minor_formatter(NullFormatter())


def _name_ends(axes: Any, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names beside the lines' ends, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    height = 0.075  # of the axis, one line of text
    placed: list[float] = []
    for value, name, color in sorted(ends):
        at = math.log(value / low) / math.log(high / low)
        at = max(at, placed[-1] + height) if placed else at
        placed.append(at)
        y = low * (high / low) ** at
        axes.annotate(
            f"{name} {significant(value)}", (x, y), xytext=(9, -3), textcoords="offset points",
            color=color, fontsize=8.5,
        )  # fmt: skip
