"""How far one array is from its reference: pure functions over NumPy or CuPy arrays.

Every function takes ``reference`` first and ``got`` second, arrays of one shape and any real dtype, and
computes in float64. The array module is that of the reference, so the same code reduces on a GPU.

Definitions:

* range of a reference: max - min, but at least 1/16 of max|reference|, and 1 where the reference is zero
  throughout. A float32 result carries an error of 6e-8 of its magnitude; measured against a range far below
  the magnitude (a constant output, at the limit), rounding alone would look like a fault.
* SNR: 10 log10(sum reference^2 / sum (reference - got)^2) dB; +inf where the two are equal.
* ULP: spacing of the coarser dtype of the two at the reference.
* MaxRelativeDifference: max(|reference - got| / max(|reference|, 1e-8)), the clip of the MobileNetV2 checks.

Where ``got`` holds NaN or infinity the distances are infinite, SNR is -inf and cosine NaN.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from optim.errors import UserError
from pipeline.records import Metrics, WorstElement
from targets.float64.call import to_host
from targets.float64.windows import Array, Module

RELATIVE_CLIP = 1e-8
RANGE_FLOOR = 1 / 16  # of max|reference|
FRACTION_BITS = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}
LEAST_EXPONENT = {"float16": -14, "bfloat16": -126, "float32": -126, "float64": -1022}


def module_of(array: Array) -> Module:
    """NumPy, or CuPy for an array on a GPU."""
    return (
        np
        if isinstance(array, np.ndarray | np.generic)
        else sys.modules[type(array).__module__.split(".")[0]]
    )


def doubled(array: Array) -> Array:
    """The array as float64; booleans and integers too."""
    return array.astype(np.float64)


def value_range(reference: Array) -> float:
    """Range of a reference as defined above."""
    xp = module_of(reference)
    values = doubled(reference)
    low, high = float(xp.min(values)), float(xp.max(values))
    return max(high - low, RANGE_FLOOR * max(abs(low), abs(high))) or 1.0


def _difference(reference: Array, got: Array) -> Array:
    return module_of(reference).abs(doubled(reference) - doubled(got))


def _finite(array: Array) -> bool:
    return bool(module_of(array).isfinite(doubled(array)).all())


def max_abs(reference: Array, got: Array) -> float:
    """max|reference - got|, in the unit of the arrays."""
    return float(_difference(reference, got).max()) if _finite(got) else math.inf


def max_abs_over_range(reference: Array, got: Array) -> float:
    """max|reference - got| / range of the reference."""
    return max_abs(reference, got) / value_range(reference)


def rms(reference: Array, got: Array) -> float:
    """Root of the mean squared difference."""
    if not _finite(got):
        return math.inf
    difference = _difference(reference, got)
    top = float(difference.max())  # scaled, so that squares neither overflow nor vanish
    return top * math.sqrt(float(((difference / top) ** 2).mean())) if top else 0.0


def snr_db(reference: Array, got: Array) -> float:
    """Signal-to-noise ratio in dB; +inf where equal, -inf where a zero reference is missed."""
    noise = rms(reference, got)
    if noise == 0:
        return math.inf
    signal = rms(reference, module_of(reference).zeros_like(reference))
    if noise == math.inf or signal == 0:
        return -math.inf
    return 20.0 * (math.log10(signal) - math.log10(noise))


def cosine(reference: Array, got: Array) -> float:
    """Cosine of the angle between the two as vectors; 1 where both are zero, 0 where only one is."""
    if not _finite(got):
        return math.nan
    xp = module_of(reference)
    a, b = doubled(reference).ravel(), doubled(got).ravel()
    top_a, top_b = float(xp.abs(a).max()), float(xp.abs(b).max())
    if top_a == 0 or top_b == 0:
        return 1.0 if top_a == top_b else 0.0
    a, b = a / top_a, b / top_b
    product = float((a * b).sum()) / math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return max(-1.0, min(1.0, product))


def median_ulp(reference: Array, got: Array, unit: str | None = None) -> float:
    """Median of |reference - got| in units in the last place of the coarser dtype; ``unit`` counts too."""
    if not _finite(got):
        return math.inf
    xp = module_of(reference)
    names = [n for n in (unit, reference.dtype.name, got.dtype.name) if n in FRACTION_BITS]
    if not names:  # integers: the unit is one
        return float(xp.median(_difference(reference, got)))
    coarse = min(names, key=FRACTION_BITS.__getitem__)
    _, exponent = xp.frexp(doubled(reference))  # |x| = m 2^e with m in [0.5, 1)
    exponent = xp.where(doubled(reference) == 0, LEAST_EXPONENT[coarse], exponent - 1)
    exponent = xp.maximum(exponent, LEAST_EXPONENT[coarse]) - FRACTION_BITS[coarse]
    return float(xp.median(_difference(reference, got) / xp.ldexp(xp.ones(reference.shape), exponent)))


def max_relative_clipped(reference: Array, got: Array) -> float:
    """max(|reference - got| / max(|reference|, 1e-8))."""
    if not _finite(got):
        return math.inf
    xp = module_of(reference)
    return float((_difference(reference, got) / xp.maximum(xp.abs(doubled(reference)), RELATIVE_CLIP)).max())


def nan_count(array: Array) -> int:
    """Number of NaN."""
    return int(module_of(array).isnan(doubled(array)).sum())


def inf_count(array: Array) -> int:
    """Number of +inf and -inf."""
    return int(module_of(array).isinf(doubled(array)).sum())


def worst_elements(reference: Array, got: Array, most: int = 3) -> tuple[WorstElement, ...]:
    """The elements farthest apart, worst first; those that are equal are none."""
    a, b = doubled(to_host(reference)), doubled(to_host(got))
    with np.errstate(invalid="ignore"):
        distance = np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf).ravel()
    chosen = np.argsort(-distance, kind="stable")[:most]
    return tuple(
        WorstElement(
            index=tuple(int(n) for n in np.unravel_index(i, a.shape)),
            reference=float(a.ravel()[i]),
            got=float(b.ravel()[i]),
        )
        for i in chosen
        if distance[i] > 0
    )


# --- classes -------------------------------------------------------------------------------------


def top_classes(scores: Array, k: int = 1) -> np.ndarray:
    """The ``k`` highest classes of each row, best first; of equal scores the lower index wins. [N, k]."""
    rows = np.asarray(to_host(scores), dtype=np.float64)
    rows = rows.reshape(rows.shape[0], -1)
    return np.argsort(-rows, axis=1, kind="stable")[:, :k]


def top1_agreement(reference: Array, got: Array) -> float:
    """Share of rows on which both name the same class. Arrays are [N, classes]."""
    check_same(reference, got)
    return float((top_classes(reference)[:, 0] == top_classes(got)[:, 0]).mean())


def topk_agreement(reference: Array, got: Array, k: int = 5) -> float:
    """Mean share of the reference's top-k classes that are in ``got``'s top-k too."""
    check_same(reference, got)
    a, b = top_classes(reference, k), top_classes(got, k)
    return float(
        np.mean([len(set(x) & set(y)) / len(x) for x, y in zip(a.tolist(), b.tolist(), strict=True)])
    )


def accuracy(scores: Array, labels: Array) -> float:
    """Share of rows whose highest score is at the label. ``labels``: integers, [N].

    Raises:
        UserError: counts differ, or a label is no index of a class.
    """
    classes = int(np.prod(scores.shape[1:]))
    wanted = np.asarray(to_host(labels)).reshape(-1)
    if len(wanted) != scores.shape[0] or len(wanted) == 0:
        raise UserError(
            f"{scores.shape[0]} results cannot be scored with {len(wanted)} labels",
            expected="one label for each example, and at least one",
        )
    if wanted.min() < 0 or wanted.max() >= classes:
        raise UserError(
            f"labels run from {wanted.min()} to {wanted.max()}, but the model has {classes} classes",
            expected=f"labels in 0 ... {classes - 1}",
        )
    return float((top_classes(scores)[:, 0] == wanted).mean())


# --- all at once ---------------------------------------------------------------------------------


def check_same(reference: Array, got: Array, *, where: str = "") -> None:
    """Refuse what cannot be compared.

    Raises:
        UserError: shapes differ, kinds of dtype differ, or nothing is there to compare.
    """
    here = f"{_kind(reference)}{list(reference.shape)} against {_kind(got)}{list(got.shape)}"
    if tuple(reference.shape) != tuple(got.shape):
        raise UserError(f"shapes differ: {here}", where=where, expected="one shape on both sides")
    if reference.size == 0:
        raise UserError(f"nothing to compare: {here}", where=where, expected="at least one element")
    both = {_numeric_kind(reference), _numeric_kind(got)}
    if len(both) > 1 or both == {"other"}:
        raise UserError(
            f"dtypes cannot be compared: {here}",
            where=where,
            expected="floats with floats, integers with integers",
        )


def _kind(array: Array) -> str:
    return str(array.dtype.name)


def _numeric_kind(array: Array) -> str:
    name = array.dtype.name
    if name.startswith(("float", "bfloat")):
        return "float"
    return {"i": "integer", "u": "integer", "b": "bool"}.get(array.dtype.kind, "other")


def compare(reference: Any, got: Any, *, where: str = "", unit: str | None = None) -> Metrics:
    """All metrics of ``got`` against ``reference``.

    ``unit``: the dtype whose spacing is the unit in the last place, where the arrays were widened.

    Raises:
        UserError: shapes or kinds of dtype differ, nothing to compare, or the reference is not finite.
    """
    check_same(reference, got, where=where)
    if not _finite(reference):
        raise UserError(
            f"the reference holds {nan_count(reference)} NaN and {inf_count(reference)} infinities, "
            f"the other side {nan_count(got)} and {inf_count(got)}",
            where=where,
            expected="a finite reference",
        )
    return Metrics(
        max_abs=max_abs(reference, got),
        max_abs_over_range=max_abs_over_range(reference, got),
        rms=rms(reference, got),
        snr_db=snr_db(reference, got),
        cosine=cosine(reference, got),
        median_ulp=median_ulp(reference, got, unit),
        max_relative_clipped=max_relative_clipped(reference, got),
        nan_count=nan_count(got),
        inf_count=inf_count(got),
        elements=int(reference.size),
    )
