"""Bring one tensor into the axis order of another, where a framework or a pass stores it differently."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optim.contract import Array
from pipeline.parity.metrics import value_range

# From channels last to channels first and back, by rank; and the turn of rows and columns.
_MOVES: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((1, 0),),
    3: ((0, 2, 1),),
    4: ((0, 3, 1, 2), (0, 2, 3, 1), (0, 1, 3, 2)),
    5: ((0, 4, 1, 2, 3), (0, 2, 3, 4, 1)),
}
_SAME = 1e-3  # of the range: nearer than this two tensors are one tensor, whatever else is wrong with them


@dataclass(frozen=True)
class Aligned:
    """Two arrays of one shape, element by element comparable; ``words`` says what was done, if anything."""

    reference: Array
    got: Array
    words: str = ""


def align(reference: Array, got: Array) -> Aligned | None:
    """``got`` in the axis order of ``reference``; None where no order of axes makes them comparable.

    Equal shapes are taken as they stand unless they differ grossly and another order does not. Arrays that
    hold the same numbers in an order that no turn of axes explains (a flattened picture of the other layout)
    are both sorted.
    """
    candidates: list[Aligned] = []
    if reference.shape == got.shape:
        plain = Aligned(reference, got)
        if _apart(plain) <= _SAME:
            return plain
        candidates.append(plain)
    for order in _MOVES.get(got.ndim, ()):
        turned = got.transpose(order)
        if turned.shape == reference.shape:
            candidates.append(Aligned(reference, turned, f"axes {', '.join(map(str, order))}"))
    if reference.shape != got.shape and _without_ones(reference) == _without_ones(got):
        candidates.append(Aligned(reference, got.reshape(reference.shape), "axes of size 1 left out"))
    best = min(candidates, key=_apart, default=None)
    if best is not None and _apart(best) <= _SAME:
        return best
    if reference.size == got.size and reference.size > 1 and reference.dtype.kind == got.dtype.kind == "f":
        ordered = Aligned(
            np.sort(reference, axis=None), np.sort(got, axis=None), "the elements stand in another order"
        )
        if _apart(ordered) <= _SAME:
            return ordered
    return candidates[0] if candidates else None


def _without_ones(array: Array) -> tuple[int, ...]:
    return tuple(n for n in array.shape if n != 1)


def _apart(pair: Aligned) -> float:
    x, y = pair.reference, pair.got
    if x.size == 0 or x.dtype.kind != "f" or y.dtype.kind != "f":
        return 0.0 if np.array_equal(x, y) else float("inf")
    with np.errstate(all="ignore"):
        distance = float(np.abs(x.astype(np.float64) - y.astype(np.float64)).max()) / value_range(x)
    return float("inf") if np.isnan(distance) else distance
