"""Mean and variance, and the digits they print."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.parity.moments import moments, same_digits
from pipeline.records import Moments


def test_moments_are_taken_in_double():
    value = np.full(10_000_000, 16777217.0, np.float32) + np.arange(10_000_000) % 2
    mean, variance = moments(value)
    assert mean == pytest.approx(float(value.astype(np.float64).mean()), rel=1e-12)
    assert variance == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize(
    ("b", "says"),
    [
        ((-82.80, 7827.31), ""),
        ((-82.8000001, 7827.3100004), ""),
        ((-82.79, 7827.31), "mean -82.80 is -82.79 in caffe: they are 0.01 apart, which is more"),
        ((-82.80, 7827.32), "variance 7827.31 is 7827.32 in caffe: they are 1.0e-02 apart and lie on either"),
    ],
)
def test_digits_that_agree_and_that_do_not(b, says):
    told = same_digits(Moments(mean=-82.80, variance=7827.31), Moments(mean=b[0], variance=b[1]), "caffe")
    assert told.startswith(says)
    assert bool(told) == bool(says)


def test_an_edge_of_rounding_is_explained():
    told = same_digits(Moments(mean=0.0649999, variance=1.0), Moments(mean=0.0650001, variance=1.0), "b")
    assert told.startswith("mean 0.06 is 0.07 in b: they are 2.0e-07 apart and lie on either side")
