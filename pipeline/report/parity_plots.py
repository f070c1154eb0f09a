"""Parity in pictures: error over depth, and feature maps side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from optim.contract import Array
from pipeline.parity.feature_maps import FeatureMaps
from pipeline.records import LayerStudyRow
from pipeline.report.charts import FILLS, INK, NoPlots, drawing

SIDES = ("source", "converted", "optimized", "a", "b")
FLOORS = ("source", "a")  # whose own rounding is the noise floor
_GAP = 2  # pixels between two maps


@dataclass(frozen=True)
class SideBySide:
    """One layer's pictures as inline images, a strip of channels for each side."""

    layer: str
    low: float
    high: float
    strips: tuple[tuple[str, Markup], ...]


def error_growth(rows: Sequence[LayerStudyRow], bound: float) -> Markup | None:
    """Error against float64 over depth, a line for each side; the source's own is the noise floor.

    Args:
        bound: the gate on max|Δ| / range, drawn as a line.

    Raises:
        NoPlots: matplotlib is not installed.
    """
    lines = {
        side: [
            (i, e) for i, row in enumerate(rows) if (e := row.errors.get(side)) is not None and 0 < e < np.inf
        ]
        for side in SIDES
    }
    drawn = {side: points for side, points in lines.items() if len(points) > 1}
    if not drawn:
        return None
    with drawing(height_in=3.4) as (plot, axes, emit):
        from matplotlib.ticker import FuncFormatter, NullFormatter

        for side, points in drawn.items():
            x, y = zip(*points, strict=True)
            colour = FILLS[SIDES.index(side)]
            if side in FLOORS:
                axes.fill_between(x, y, min(y) / 10, color=colour, alpha=0.18, linewidth=0)
            axes.plot(x, y, "-", color=colour, lw=1.4, marker="o", ms=2.5, label=_LEGEND[side])
        axes.axhline(bound, color=INK, lw=0.8, ls=(0, (4, 3)))
        axes.annotate("gate", (0, bound), xytext=(4, 3), textcoords="offset points", ha="left", va="bottom")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0e}"))  # no formulas in our text
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(-0.5, len(rows) - 0.5)
        smallest = min(e for points in drawn.values() for _, e in points)
        axes.set_ylim(smallest / 3, max(bound * 4, 2 * max(e for p in drawn.values() for _, e in p)))
        step = max(1, len(rows) // 12)
        places = range(0, len(rows), step)
        axes.set_xticks(list(places), [_short(rows[i].layer) for i in places], rotation=28, ha="right")
        axes.set_ylabel("max|error| / range")
        axes.legend(frameon=False, loc="upper left", ncols=3, bbox_to_anchor=(0, 1.16))
        plot.tight_layout(pad=0.4)
        spoken = "; ".join(f"{side}: {points[-1][1]:.1e} at the end" for side, points in drawn.items())
        return emit(f"Error against float64 over depth. {spoken}.")


_LEGEND = {
    "source": "source framework (noise floor)",
    "converted": "converted",
    "optimized": "optimised",
    "a": "a (noise floor)",
    "b": "b",
}


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"…{name[-21:]}"


def pictures(maps: Sequence[FeatureMaps]) -> tuple[SideBySide, ...]:
    """Inline images of feature maps; none where there is nothing to draw with."""
    try:
        return tuple(
            SideBySide(
                one.layer,
                one.low,
                one.high,
                tuple(
                    (side, image(strip(one.sides[side]), f"{one.layer}, {side}"))
                    for side in SIDES
                    if side in one.sides
                ),
            )
            for one in maps
        )
    except NoPlots:
        return ()


def strip(maps: Array) -> Array:
    """[channels, H, W] side by side, white between them."""
    channels, height, width = maps.shape
    canvas = np.full((height, channels * (width + _GAP) - _GAP), 255, np.uint8)
    for index, one in enumerate(maps):
        start = index * (width + _GAP)
        canvas[:, start : start + width] = one
    return canvas


def image(grey: Array, words: str) -> Markup:
    """An ``<img>`` that holds its PNG.

    Raises:
        NoPlots: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise NoPlots("Pillow is not installed") from error
    file = io.BytesIO()
    Image.fromarray(grey).save(file, format="PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    height, width = grey.shape
    scale = 2 if width < 260 else 1
    return Markup(
        f'<img class="maps" alt="{escape(words)}" width="{width * scale}" height="{height * scale}" '
        f'src="data:image/png;base64,{data}">'
    )
