"""The corpus's own measure of how far an output lies from its reference (see the README beside it)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def error(got: Array, reference: Array) -> float:
    """max|got - ref| / max|ref|; for 8-bit integers as a share of 255; for labels the share of wrong ones.

    Infinite where shapes differ (a scalar and a vector of one count as equal) or non-finite values
    disagree.
    """
    if got.size == 1 and reference.size == 1:
        got = got.reshape(reference.shape)
    if got.shape != reference.shape:
        return math.inf
    if reference.size == 0:
        return 0.0
    if reference.dtype.kind in "OUS":
        return float(np.mean(got.astype(str) != reference.astype(str)))
    if reference.dtype.kind == "b" or (reference.dtype.kind in "iu" and reference.dtype.itemsize > 1):
        return float(np.mean(got != reference))
    a, b = got.astype(np.float64), reference.astype(np.float64)
    if reference.dtype.kind in "iu":
        return float(np.abs(a - b).max()) / 255.0
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)):
        return math.inf
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return math.inf
    if not finite.any():
        return 0.0
    return float(np.abs(a - b)[finite].max()) / max(float(np.abs(b[finite]).max()), 1e-30)


def mean_error(got: Array, reference: Array) -> float:
    """mean|got - ref| / max|ref|, for items whose tolerance is negative."""
    if got.shape != reference.shape:
        return math.inf
    a, b = got.astype(np.float64), reference.astype(np.float64)
    return float(np.abs(a - b).mean()) / max(float(np.abs(b).max()), 1e-30)


def within(got: Array, reference: Array, tolerance: float) -> tuple[float, bool]:
    """The error, and whether it lies within ``tolerance``; a negative one bounds the mean."""
    if tolerance < 0:
        figure = mean_error(got, reference)
        return figure, figure <= -tolerance
    figure = error(got, reference)
    return figure, figure <= tolerance
