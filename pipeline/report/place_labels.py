"""Where the names of points stand in a plot, so that none lies on another, on a point, or off the plot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_DISTANCES: Final = (7.0, 16.0, 28.0, 42.0, 58.0)  # from a point to its name's nearest edge
# Directions in the order of preference: beside it, then above and below, then to the left.
_ANGLES: Final = (30, -30, 0, 90, -90, 60, -60, 150, -150, 180, 120, -120)


@dataclass(frozen=True)
class Box:
    """A rectangle that grows to the right and upwards."""

    x: float
    y: float
    width: float
    height: float

    def overlap(self, other: Box) -> float:
        """Area that both cover."""
        wide = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        high = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(wide, 0.0) * max(high, 0.0)

    def outside(self, frame: Box) -> float:
        """Area that lies beyond ``frame``."""
        return self.width * self.height - self.overlap(frame)


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    frame: Box,
    taken: Sequence[Box] = (),
    *,
    radius: float = 5.0,
) -> tuple[Box, ...]:
    """A box for each point's label, in the points' order, all in one unit of length.

    Each label takes the first place near its point that is free; where there is none, the one that covers
    least.

    Args:
        points: what is named; no label lies on any of them.
        sizes: width and height of each label.
        frame: where labels have to stay.
        taken: what else they must keep clear of.
        radius: of a point's mark.
    """
    marks = [Box(x - radius, y - radius, 2 * radius, 2 * radius) for x, y in points]
    placed: list[Box] = []
    for point, size in zip(points, sizes, strict=True):
        blocked = [*marks, *taken, *placed]
        best, least = None, math.inf
        for box in _places(point, size):
            cost = sum(box.overlap(other) for other in blocked) + box.outside(frame)
            if cost < least:
                best, least = box, cost
            if cost == 0.0:
                break
        assert best is not None  # there is always a first place
        placed.append(best)
    return tuple(placed)


def _places(point: tuple[float, float], size: tuple[float, float]) -> Iterator[Box]:
    """Boxes round a point, the nearest first."""
    (x, y), (width, height) = point, size
    for distance in _DISTANCES:
        for angle in _ANGLES:
            dx, dy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            # The box touches the circle from outside: it leans on the side that it lies on.
            left = x + dx * distance - width * (1 - dx) / 2
            low = y + dy * distance - height * (1 - dy) / 2
            yield Box(left, low, width, height)
