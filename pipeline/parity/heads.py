"""Outputs that saturate are compared ahead of their Softmax or Sigmoid.

A softmax that says 1.0000 hides a difference in the logits. Where a model can be opened, its logits are
exposed; where it cannot (a source framework), log-probabilities recover them up to a constant.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optim.contract import Array, Outputs
from optim.heads import Head
from targets.closeness import LEAST_PROBABILITY

AS_LOGARITHMS = " as log-probabilities"


def log_probabilities(probabilities: Array) -> Array:
    """Natural logarithm in float64; NaN where a probability has vanished and says nothing."""
    p = np.asarray(probabilities, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p >= LEAST_PROBABILITY, np.log(p), np.nan)


def comparable(
    a: Outputs, b: Outputs, heads_a: Mapping[str, Head], heads_b: Mapping[str, Head], names: tuple[str, ...]
) -> dict[str, tuple[Array, Array]]:
    """Pairs of arrays to compare, by what they are.

    A softmax output gives its log-probabilities where both sides are above 1e-30, and beside them the logits
    where both sides hold them in one shape; a sigmoid output itself, and the logits likewise.
    """
    pairs: dict[str, tuple[Array, Array]] = {}
    for name in names:
        x, y = np.asarray(a[name]), np.asarray(b[name])
        head = heads_a.get(name) or heads_b.get(name)
        if (
            head is not None
            and head.op == "Softmax"
            and x.shape == y.shape
            and x.dtype.kind == y.dtype.kind == "f"
        ):
            pairs |= _log_pair(name, x, y)
        else:
            pairs[name] = (x, y)
        if name in heads_a and name in heads_b:
            left, right = a.get(heads_a[name].logits), b.get(heads_b[name].logits)
            if left is not None and right is not None and left.shape == right.shape:
                pairs[f"{name} before {heads_a[name].op}"] = (left, right)
    return pairs


def _log_pair(name: str, x: Array, y: Array) -> dict[str, tuple[Array, Array]]:
    """Log-probabilities where both say something; the plain outputs too where some say nothing."""
    finite = np.isfinite(x).all() and np.isfinite(y).all()
    left, right = log_probabilities(x), log_probabilities(y)
    clear = ~(np.isnan(left) | np.isnan(right))
    # one side vanished, the other did not by far: that is a difference, and only plain values show it
    one_sided = np.isnan(left) != np.isnan(right)
    parted = bool((np.maximum(x, y)[one_sided] > 1e3 * LEAST_PROBABILITY).any())
    if not finite or parted or not clear.any():
        return {name: (x, y)}
    if clear.all():
        return {f"{name}{AS_LOGARITHMS}": (left, right)}
    return {f"{name}{AS_LOGARITHMS}": (left[clear], right[clear]), name: (x, y)}
