"""In which order the axes of a source's weight stand in a target: told from shapes that leave no doubt.

What was folded into the weight on the way, another order of its rows among it, the layer map tells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

# NumPy's: target = source.transpose(axes). Kernels HWIO → OIHW, as they are, OHWI, and HWCM → CMHW; matrices
# [in, out] → [out, in], or as they are.
_ORDERS: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((0, 1), (1, 0)),
    3: ((0, 1, 2), (2, 1, 0), (2, 0, 1)),
    4: ((0, 1, 2, 3), (3, 2, 0, 1), (3, 0, 1, 2), (2, 3, 0, 1)),
    5: ((0, 1, 2, 3, 4), (4, 3, 0, 1, 2), (4, 0, 1, 2, 3)),
}


def axes_of(sources: Iterable[tuple[int, ...]], target: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes in which one of the source's weights stands in the target; None where none or several fit.

    A kernel whose groups the target writes together ([C, M] as [C·M, 1]) counts as its axes (2, 3, 0, 1).
    """
    found = {order for shape in sources for order in _fitting(shape, target)}
    return found.pop() if len(found) == 1 else None


def _fitting(source: tuple[int, ...], target: tuple[int, ...]) -> list[tuple[int, ...]]:
    if len(source) < 2 or math.prod(source) != math.prod(target) or len(source) != len(target):
        return []
    fits = [order for order in _ORDERS.get(len(source), ()) if tuple(source[a] for a in order) == target]
    together = (math.prod(source[2:]), 1, *source[:2])
    if len(source) == 4 and source[2] > 1 and target == together:
        fits.append((2, 3, 0, 1))
    return fits
