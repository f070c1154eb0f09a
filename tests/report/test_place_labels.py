"""Names in a plot: none on another, on a point or on a line, and all of them inside."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.place_labels import Box, place_labels

FRAME = Box(0, 0, 600, 240)
POINTS = st.lists(st.tuples(st.floats(10, 590), st.floats(10, 230)), min_size=1, max_size=5)


@settings(deadline=None)
@given(points=POINTS)
def test_few_names_never_touch_each_other_or_a_point(points: list[tuple[float, float]]) -> None:
    boxes = place_labels(points, [(60.0, 10.0)] * len(points), FRAME, radius=5)
    assert all(box.outside(FRAME) < 1e-6 for box in boxes)
    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))
    marks = [Box(x - 5, y - 5, 10, 10) for x, y in points]
    assert all(box.overlap(mark) == 0 for box in boxes for mark in marks)


def test_equal_points_get_different_places() -> None:
    boxes = place_labels([(300, 120)] * 4, [(60, 10)] * 4, FRAME)
    assert len(set(boxes)) == 4
    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))


def test_a_name_keeps_clear_of_lines_and_leans_inwards_at_the_edge() -> None:
    line = Box(0, 118, 600, 4)
    (near_line,) = place_labels([(100, 120)], [(60, 10)], FRAME, [line])
    assert near_line.overlap(line) == 0
    (at_edge,) = place_labels([(595, 235)], [(60, 10)], FRAME)
    assert at_edge.outside(FRAME) == 0
    assert at_edge.x + at_edge.width < 595


def test_where_all_is_taken_a_name_stands_somewhere() -> None:
    (box,) = place_labels([(300, 120)], [(60, 10)], FRAME, [FRAME])
    assert box.width == 60
