"""Cells of the CUDA matrix against each other: what launching costs, and what the settings bring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from pipeline.bench.records import CudaComparison, CudaResult, CudaSettings, LaunchGap, Timing, Verdict

Figure: TypeAlias = Literal["inputs on the device", "from NumPy arrays"]
DRIFT: Final = 0.02  # of the log ratio: what a GPU's clock may do between two cells claims nothing
_NOT_SHOWN: Final[Verdict] = "no_difference_shown"


def launch_gaps(results: Sequence[CudaResult]) -> tuple[LaunchGap, ...]:
    """Eager less graph, for each pair of cells that differ in nothing else."""
    eager = {_twin_key(r): r.gpu for r in results if not r.settings.graph and r.settings.bound}
    found = []
    for r in results:
        other = eager.get(_twin_key(r))
        if r.settings.graph and r.gpu is not None and other is not None:
            found.append(
                LaunchGap(
                    model=r.model,
                    batch=r.batch,
                    precision=r.settings.precision,
                    tf32=r.settings.tf32,
                    layout=r.settings.layout,
                    gap_ms=other.median_ms - r.gpu.median_ms,
                )
            )
    return tuple(found)


def with_stock(results: Sequence[CudaResult]) -> tuple[CudaComparison, ...]:
    """Every cell against ``session.run`` as the package installs, of the same model at the same batch size.

    Where the inputs already lie on the device, that saves the copies too, and the figure says so.
    """
    stock = {(r.model, r.batch): r.host for r in results if r.settings.stock}
    found = []
    for r in results:
        base = stock.get((r.model, r.batch))
        if base is None or r.settings.stock:
            continue
        figures: list[tuple[Figure, Timing | None]] = [
            ("inputs on the device", r.host if r.settings.bound else None),
            ("from NumPy arrays", r.end_to_end_pinned if r.settings.bound else r.host),
        ]
        found += [_against(r, figure, own, base) for figure, own in figures if own is not None]
    return tuple(found)


def _against(r: CudaResult, figure: Figure, own: Timing, base: Timing) -> CudaComparison:
    """The ratio of two medians that were measured one after the other, from their intervals."""
    ratio = own.median_ms / base.median_ms
    interval: tuple[float, float] | None
    verdict: Verdict
    interval, verdict = None, _NOT_SHOWN
    if own.interval_ms is not None and base.interval_ms is not None:
        centre = math.log(ratio)
        below = math.hypot(
            math.log(own.median_ms / own.interval_ms[0]), math.log(base.interval_ms[1] / base.median_ms)
        )
        above = math.hypot(
            math.log(own.interval_ms[1] / own.median_ms), math.log(base.median_ms / base.interval_ms[0])
        )
        low, high = centre - below, centre + above
        interval = (math.exp(low), math.exp(high))
        verdict = "faster" if high < -DRIFT else "slower" if low > DRIFT else _NOT_SHOWN
    return CudaComparison(
        model=r.model,
        batch=r.batch,
        settings=r.settings,
        figure=figure,
        ratio=ratio,
        interval=interval,
        verdict=verdict,
    )


def _twin_key(r: CudaResult) -> tuple[str, int, CudaSettings]:
    return (r.model, r.batch, r.settings.model_copy(update={"graph": False}))
