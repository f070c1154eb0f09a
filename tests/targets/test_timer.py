"""The timer tells much work from little, and its interval is what theory says."""

from __future__ import annotations

import math
from math import comb

import numpy as np
import pytest

from targets.timer import OrtTimer, median_interval
from tests.optim.table import graph, normal

pytest.importorskip("onnxruntime")

_SHAPE = "g (float[1, 16, 40, 40] X) => (float[1, 16, 40, 40] Y)"
_ONE = f"{_SHAPE} {{ Y = Conv<pads = [1, 1, 1, 1]>(X, W) }}"
_EIGHT = (
    f"{_SHAPE} {{ A0 = Conv<pads = [1, 1, 1, 1]>(X, W) "
    + " ".join(f"A{i + 1} = Conv<pads = [1, 1, 1, 1]>(A{i}, W)" for i in range(6))
    + " Y = Conv<pads = [1, 1, 1, 1]>(A6, W) }"
)


def test_eight_times_the_work_is_not_faster_and_the_other_way_round_is() -> None:
    weights = {"W": normal(16, 16, 3, 3, scale=0.1)}
    little, much = graph(_ONE, weights), graph(_EIGHT, weights)
    feeds = {"X": normal(1, 16, 40, 40)}
    timer = OrtTimer(rounds=9, sample_ms=2.0)
    slower, faster = timer(little, much, feeds), timer(much, little, feeds)
    assert slower.ratio > 2
    assert not slower.faster
    assert faster.faster
    assert faster.low <= faster.ratio <= faster.high


def test_settings_are_part_of_the_fingerprint() -> None:
    assert OrtTimer().fingerprint == OrtTimer().fingerprint
    assert OrtTimer().fingerprint != OrtTimer(threads=2).fingerprint


def test_too_few_samples_bound_nothing() -> None:
    assert median_interval([1.0, 1.1], 0.95) == (-math.inf, math.inf)


@pytest.mark.parametrize("count", [6, 9, 13, 30])
def test_the_interval_holds_the_median_as_often_as_it_says(count: int) -> None:
    low, high = median_interval([float(i) for i in range(count)], 0.95)
    rank = int(low)
    assert high == count - 1 - rank
    outside = 2 * sum(comb(count, k) for k in range(rank + 1)) / 2**count
    assert outside <= 0.05
    draws = np.sort(np.random.default_rng(count).standard_normal((20_000, count)), axis=1)
    covered = np.mean((draws[:, rank] <= 0) & (draws[:, int(high)] >= 0))
    assert covered == pytest.approx(1 - outside, abs=0.01)
