"""Seconds that a measurement will take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bench.measure import Schedule
from pipeline.bench.race_cost import affordable_seconds, timing_s

SCHEDULE = Schedule(min_duration_s=0.1, max_duration_s=10, min_samples=10, min_rounds=10)


@pytest.mark.parametrize(
    ("latencies_s", "processes", "seconds"),
    [
        ([0.1], 1, 10 * 0.101),  # as many rounds as are asked for
        ([0.1], 2, 20 * 0.101),
        ([0.001], 1, 20 * (0.005 + 0.001 + 0.001)),  # blocks of 5 ms, a run to settle before each
        ([0.1, 0.001], 1, 20 * (0.101 + 0.007)),  # the quick one takes more rounds, and the slow one with it
    ],
)
def test_rounds_blocks_and_settling_are_counted(
    latencies_s: list[float], processes: int, seconds: float
) -> None:
    assert timing_s(latencies_s, processes, SCHEDULE) == pytest.approx(seconds)


@given(st.lists(st.floats(1e-5, 0.5), min_size=1, max_size=6), st.integers(1, 4), st.floats(0.1, 60))
def test_what_is_said_to_fit_fits(latencies_s: list[float], processes: int, left_s: float) -> None:
    seconds = affordable_seconds(latencies_s, processes, SCHEDULE, (0.2, 3.0), left_s)
    assert 0.2 <= seconds <= 3.0
    if seconds > 0.2:
        assert timing_s(latencies_s, processes, SCHEDULE.lasting(seconds)) <= left_s
