"""Mean and variance of a layer, and whether two sides print the same digits of them."""

from __future__ import annotations

import math

import numpy as np

from optim.contract import Array
from pipeline.records import Moments

DECIMALS = 2  # as the MNIST system prints them


def moments(value: Array) -> tuple[float, float]:
    """Mean and variance (of the population) in float64; of an empty array NaN."""
    if value.size == 0:
        return float("nan"), float("nan")
    doubled = value.astype(np.float64)
    return float(doubled.mean()), float(doubled.var())


def same_digits(a: Moments, b: Moments, side: str) -> str:
    """Empty where mean and variance print alike with two decimals; else which do not, and why.

    A number may print otherwise although nothing is wrong: where it lies on the edge between two roundings.
    """
    told = []
    for word, x, y in (("mean", a.mean, b.mean), ("variance", a.variance, b.variance)):
        if f"{x:.{DECIMALS}f}" == f"{y:.{DECIMALS}f}":
            continue
        apart = abs(x - y)
        magnitude = max(abs(x), abs(y), 1e-300)
        why = (
            f"they are {apart:.1e} apart and lie on either side of an edge of rounding"
            if apart < 0.01 * 10**-DECIMALS or apart / magnitude < 1e-5
            else f"they are {apart:.3g} apart, which is more than rounding"
        )
        told.append(f"{word} {x:.{DECIMALS}f} is {y:.{DECIMALS}f} in {side}: {why}")
    return "; ".join(told) if not math.isnan(a.mean) else ""
