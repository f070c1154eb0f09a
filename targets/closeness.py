"""How far an output lies from its reference: the two figures a bundle is gated by.

- ``max_abs_over_range``: max|got − ref| / (max ref − min ref). The range of a nearly constant reference is
  its rounding; a sixteenth of its magnitude stands in, and 1 where that is 0 as well.
- ``snr_db``: 10·log10(Σ ref² / Σ (got − ref)²); infinite where nothing differs.

Both are computed in float64. Values that are NaN or infinite must be so at the same places in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from optim.contract import Array


@dataclass(frozen=True)
class Gate:
    """When two outputs count as the same."""

    max_abs_over_range: float = 2e-5
    snr_db: float = 90.0
    source_error_factor: float | None = None  # of the source's own error; None: the error is not judged

    def passes(self, closeness: Closeness) -> bool:
        """Whether both bounds hold; a NaN figure passes nothing."""
        return closeness.max_abs_over_range <= self.max_abs_over_range and closeness.snr_db >= self.snr_db


@dataclass(frozen=True)
class Closeness:
    """The two figures."""

    max_abs_over_range: float
    snr_db: float


APART = Closeness(math.inf, -math.inf)
RANGE_FLOOR = 1 / 16  # of max|ref|
LEAST_PROBABILITY = 1e-30  # below it float32 softmax flushes to zero, and its logarithm says nothing


def closeness(got: Array, ref: Array, *, softmax: bool = False) -> Closeness:
    """Figures for one output; ``APART`` where shapes differ or non-finite values disagree.

    Probabilities (``softmax``) are compared as logarithms, ahead of saturation, unless some have vanished
    (below 1e-30) on either side: then as they are.
    """
    if got.shape != ref.shape or got.dtype != ref.dtype:
        return APART
    if softmax and got.dtype.kind == "f" and got.size and min(got.min(), ref.min()) >= LEAST_PROBABILITY:
        return closeness(np.log(got.astype(np.float64)), np.log(ref.astype(np.float64)))
    if got.dtype.kind not in "fiub" and got.dtype.name not in ("bfloat16",):
        return Closeness(0.0, math.inf) if np.array_equal(got, ref) else APART
    a, b = got.astype(np.float64).ravel(), ref.astype(np.float64).ravel()
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)) or not np.array_equal(
        a[~finite], b[~finite], equal_nan=True
    ):
        return APART
    a, b = a[finite], b[finite]
    if b.size == 0:
        return Closeness(0.0, math.inf)
    delta = np.abs(a - b)
    scale = max(float(b.max() - b.min()), RANGE_FLOOR * float(np.abs(b).max())) or 1.0
    noise, signal = float(delta @ delta), float(b @ b)
    if noise == 0.0:
        return Closeness(0.0, math.inf)
    snr = 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf
    return Closeness(float(delta.max()) / scale, snr)


SOURCE_ERROR_SLACK = 1e-6  # of the range: below it float32 results scatter however good they are


@dataclass(frozen=True)
class OwnError:
    """max|error| / range against float64, of an artefact and of the source framework on the same input."""

    artefact: float
    source: float

    @property
    def multiple(self) -> float | None:
        """The artefact's error in units of the source's own; None where the source has none."""
        return self.artefact / self.source if self.source > 0 else None

    def within(self, factor: float) -> bool:
        """Whether the artefact's error is at most ``factor`` times the source's own, and a little."""
        return self.artefact <= factor * self.source + SOURCE_ERROR_SLACK


def own_error(got: Array, expected: Array, truth: Array, *, softmax: bool = False) -> OwnError | None:
    """The errors of one output; None where it holds no floating-point numbers, or another shape.

    Args:
        got: the artefact's answer; ``expected``: the source framework's; ``truth``: in float64.
    """
    if truth.dtype.kind != "f" or got.dtype.kind != "f" or not (got.shape == expected.shape == truth.shape):
        return None
    artefact, source = (
        closeness(side.astype(np.float64), truth, softmax=softmax).max_abs_over_range
        for side in (got, expected)
    )
    return OwnError(artefact, source) if math.isfinite(source) else None


def worst_error(errors: Iterable[OwnError]) -> OwnError | None:
    """The artefact's worst error and the source's worst, each over all outputs; None of nothing."""
    seen = list(errors)
    return OwnError(max(e.artefact for e in seen), max(e.source for e in seen)) if seen else None


def worst(figures: Iterable[Closeness]) -> Closeness:
    """The largest difference and the smallest ratio; ``APART`` of nothing: nothing compared is a failure."""
    seen = list(figures)
    if not seen:
        return APART
    return Closeness(max(c.max_abs_over_range for c in seen), min(c.snr_db for c in seen))
