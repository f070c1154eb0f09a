"""Plots as inline SVG: the same bytes for the same figures, in the page's own ink so that dark mode holds.

Matplotlib draws in a marker colour that becomes ``currentColor``, and leaves text as text.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from markupsafe import Markup, escape

from pipeline.records import BenchComparison, BenchResult
from pipeline.report.format_values import milliseconds, speed_up

INK: Final = "#010203"  # becomes currentColor
FILLS: Final = ("#8a94a6", "#4f7cac", "#1a9e8f", "#b7791f", "#a1558f")
_INKED: Final = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
_WIDTH_IN: Final = 10.4
_TICKS: Final = 300  # single runs shown; more would swell the page and show nothing more
_TAIL: Final = 0.98  # the axis ends at this quantile; what lies beyond is counted in words


class NoPlots(Exception):  # noqa: N818 - a condition of the machine, not a failure
    """Matplotlib is not installed."""


def latency_chart(results: Sequence[BenchResult]) -> Markup:
    """Distribution of the raw latencies, one row a contender: histogram, samples, median with its interval.

    Args:
        results: contenders on one device at one batch size.

    Raises:
        NoPlots: matplotlib is not installed.
    """
    import numpy as np

    with drawing(height_in=0.78 * len(results) + 0.75) as (figure, axes, emit):
        samples = [np.asarray(result.raw_ms, np.float64) for result in results]
        low = min(float(s.min()) for s in samples)
        high = max(float(np.quantile(s, _TAIL)) for s in samples)
        wide = high / max(low, 1e-12) > 8
        low, high = (
            (low / 1.08, high * 1.5) if wide else (low - 0.03 * (high - low), high + 0.18 * (high - low))
        )
        if high <= low:
            low, high = low * 0.9, high * 1.1 or 1.0
        edges = np.geomspace(low, high, 121) if wide else np.linspace(low, high, 121)
        for row, (result, values) in enumerate(zip(results, samples, strict=True)):
            base = float(len(results) - 1 - row)
            fill = FILLS[row % len(FILLS)]
            density, _ = np.histogram(values, edges)
            heights = 0.62 * density / max(int(density.max()), 1)
            axes.stairs(base + heights, edges, baseline=base, fill=True, color=fill, alpha=0.55, linewidth=0)
            inside = np.sort(values[values <= high])
            ticks = inside[np.linspace(0, inside.size - 1, min(inside.size, _TICKS)).astype(int)]
            axes.plot(ticks, np.full(ticks.size, base - 0.11), "|", color=fill, ms=6, mew=0.5, alpha=0.35)
            axes.plot([result.latency_ms] * 2, [base - 0.2, base + 0.66], color=INK, lw=1.4)
            axes.plot(result.interval_ms, [base - 0.2] * 2, color=INK, lw=3, solid_capstyle="butt")
            beyond = values.size - inside.size
            note = f"  {milliseconds(result.latency_ms)}" + (f", {beyond} beyond →" if beyond else "")
            axes.annotate(
                note.strip(), (1.0, base + 0.42), xycoords=("axes fraction", "data"), ha="right", va="center"
            )
        if wide:
            axes.set_xscale("log")
            _plain_log_ticks(axes)
        axes.set_xlim(low, high)
        axes.set_ylim(-0.4, len(results) - 0.2)
        names = [result.contender for result in results]
        axes.set_yticks(range(len(results) - 1, -1, -1), names)
        axes.set_xlabel("latency of one run in ms" + (" (logarithmic)" if wide else ""))
        figure.tight_layout(pad=0.4)
        spoken = "; ".join(
            f"{r.contender}: median {milliseconds(r.latency_ms)}, {r.samples} samples" for r in results
        )
        return emit(f"Latency distribution. {spoken}.")


def ratio_chart(comparisons: Sequence[BenchComparison]) -> Markup:
    """Each comparison's latency ratio with its interval, on a logarithmic axis round 1.

    Raises:
        NoPlots: matplotlib is not installed.
    """
    with drawing(height_in=0.36 * len(comparisons) + 0.75) as (figure, axes, emit):
        rows = range(len(comparisons) - 1, -1, -1)
        ink = {"faster": FILLS[2], "slower": "#c2553d", "no_difference_shown": FILLS[0]}
        for row, one in zip(rows, comparisons, strict=True):
            axes.plot(one.interval, [row, row], color=ink[one.verdict], lw=3, solid_capstyle="butt")
            axes.plot([one.ratio], [row], "o", color=ink[one.verdict], ms=6)
        axes.axvline(1.0, color=INK, lw=0.8, ls=(0, (4, 3)))
        axes.set_xscale("log")
        bounds = [x for one in comparisons for x in (*one.interval, 1.0)]
        low, high = min(bounds), max(bounds)
        axes.set_xlim(low / 1.12, high * 1.12)
        _plain_log_ticks(axes)
        axes.set_ylim(-0.6, len(comparisons) - 0.4)
        axes.set_yticks(list(rows), [f"{one.b} / {one.a}, batch {one.batch}" for one in comparisons])
        axes.set_xlabel("ratio of latencies; left of 1 the first is faster")
        figure.tight_layout(pad=0.4)
        spoken = "; ".join(f"{one.b} against {one.a}: {speed_up(one.ratio)}" for one in comparisons)
        return emit(f"Ratios of latencies with {100 * comparisons[0].confidence:g} % intervals. {spoken}.")


def _plain_log_ticks(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    steps = (1, 2, 5) if high / low < 300 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


@contextmanager
def drawing(height_in: float) -> Iterator[tuple[Any, Any, Callable[[str], Markup]]]:
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoPlots(str(error)) from error
    style: dict[str, Any] = {
        "svg.hashsalt": "fairlead",
        "svg.fonttype": "none",
        "font.size": 9.5,
        "text.parse_math": False,  # contender names are not formulas
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "ytick.left": False,
        **dict.fromkeys(
            ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
        ),
    }
    with matplotlib.rc_context(_settings(matplotlib.rcParamsDefault, style)), warnings.catch_warnings():
        # Text stays text: the reader's browser has the glyphs that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(_WIDTH_IN, height_in))
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        yield figure, axes, lambda label: _inline(figure, label)


def _settings(defaults: Any, style: dict[str, Any]) -> Any:
    """Matplotlib's defaults, whatever the user's own matplotlibrc says, with ``style`` over them."""
    return {**defaults, **style}


def _inline(figure: Any, label: str) -> Markup:
    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=nothing, transparent=True)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns:xlink="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = svg.replace(INK, "currentColor")
    # Two plots on a page must not share ids: matplotlib numbers its groups alike in each figure.
    mark = "c" + hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{mark}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{mark}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{mark}-\1)", svg)
    head, body = svg.split(">", 1)
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    return Markup(
        f'{head} class="chart" role="img" aria-label="{escape(label)}">{body}'
    )  # our own drawing, not the user's text
