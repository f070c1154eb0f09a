"""The source and the converted graph, both in float64: is the conversion itself exact?

In float32 a conversion cannot be told from rounding. In float64 it can: what is left between TensorFlow's own
float64 run of the source and the float64 run of the ONNX graph is what the conversion changed: constants that
were folded and kept in float32 (batch norms), or a fault. The source's run is the truth where it was made.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

import numpy as np

from optim.contract import Feeds, Outputs
from optim.errors import FairleadError
from optim.heads import Head
from pipeline.parity.compare import Truth
from pipeline.parity.runtime_choice import distance
from pipeline.records import SourceTruthRecord
from pipeline.sources.float64_values import RunsInFloat64
from targets.closeness import SOURCE_ERROR_SLACK
from targets.contract import Session

EXACT = 1e-11  # of the range: what is left of float64's own rounding after a deep network
MOST_ROUNDING = 1e-2  # of the range: what float16 leaves; beyond it the float64 run is another function
MOST_SECONDS = 20.0  # no further input is evaluated beyond it


def compare_truths(
    source: Session,
    feeds: Mapping[str, Feeds],
    runs: Mapping[str, Outputs],
    truths: Mapping[str, Truth],
    heads: Mapping[str, Head],
    names: tuple[str, ...],
) -> tuple[SourceTruthRecord, dict[str, Truth]]:
    """How far the source's float64 run is from the converted graph's, and the truths to judge by.

    Evaluated on the inputs ``zeros`` and ``random`` of the first batch size, as far as the time allows; there
    the source's own run is the truth.

    Args:
        runs: the source's own runs in its own precision, by the feed's name.
        truths: the converted graph's float64 runs, likewise.
        heads: saturating heads of the converted graph.
        names: its outputs.
    """
    started = time.perf_counter()
    if not truths:
        return _not_evaluated("the converted graph has no float64 run"), {}
    if not isinstance(source, RunsInFloat64):
        return _not_evaluated("the source has no float64 run"), dict(truths)
    found: dict[str, Outputs] = {}
    try:
        for label in _certified(feeds, truths):
            if time.perf_counter() - started < MOST_SECONDS:
                found[label] = source.run_float64(feeds[label])
    except FairleadError as error:
        where = f" ({error.where})" if error.where else ""
        return _not_evaluated(f"{error.what}{where}", time.perf_counter() - started), dict(truths)
    apart = {label: _apart(truths[label], run, heads, names) for label, run in found.items()}
    worst = max(apart, key=lambda label: apart[label], default="")
    if not worst:
        return _not_evaluated("no input to evaluate it on"), dict(truths)
    distance_64 = apart[worst]
    own = {label: Truth({**truths[label].outputs, **run}, heads) for label, run in found.items()}
    rounding = max(distance(own[label].outputs, runs[label], heads, names) for label in found)
    if rounding > MOST_ROUNDING:
        reason = (
            f"its float64 run is {rounding:.1e} of the range from its own run: "
            "a rounding decides something there, and the two are not one function"
        )
        return _not_evaluated(reason, time.perf_counter() - started), dict(truths)
    record = SourceTruthRecord(
        state=_state(distance_64, rounding),
        max_abs_over_range=distance_64,
        source_rounding=rounding,
        feed=worst,
        feeds=tuple(found),
        seconds=time.perf_counter() - started,
    )
    return record, {**truths, **own}


def _state(apart: float, rounding: float) -> Literal["exact", "within_rounding", "apart"]:
    """``rounding``: how far the source's own float32 run is from its float64 run."""
    if apart <= EXACT:
        return "exact"
    return "within_rounding" if apart <= rounding + SOURCE_ERROR_SLACK else "apart"


def _certified(feeds: Mapping[str, Feeds], truths: Mapping[str, Truth]) -> list[str]:
    """Zeros and random inputs of the batch size that comes first."""
    usual = [label for label in feeds if label in truths and label.startswith(("zeros", "random", "data"))]
    sizes = [label.rpartition("/")[2] for label in usual]
    return [label for label, size in zip(usual, sizes, strict=True) if size == sizes[0]]


def _apart(truth: Truth, run: Outputs, heads: Mapping[str, Head], names: tuple[str, ...]) -> float:
    """Worst max|Δ| / range; infinite where non-finite values differ."""
    for name in names:
        x, y = np.asarray(truth.outputs[name]), np.asarray(run[name])
        finite = x.dtype.kind != "f" or bool(np.isfinite(x).all())
        if x.shape != y.shape or not (finite or np.array_equal(x, y, equal_nan=True)):
            return float("inf")
        if x.dtype.kind != "f" and not np.array_equal(x, y):
            return float("inf")
    return distance(truth.outputs, run, heads, names)


def _not_evaluated(reason: str, seconds: float = 0.0) -> SourceTruthRecord:
    return SourceTruthRecord(state="not_evaluated", reason=reason, seconds=seconds)
