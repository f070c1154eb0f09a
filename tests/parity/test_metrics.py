"""Metrics against values worked out by hand, and properties that hold for all arrays."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from optim.errors import UserError
from pipeline.parity import metrics
from pipeline.parity.metrics import compare
from pipeline.records import Metrics

REF = np.array([0.0, 1.0, 2.0, 4.0], np.float32)
GOT = np.array([0.0, 1.0, 2.5, 4.0], np.float32)
ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3), elements=st.floats(-1e6, 1e6, width=32))


def test_by_hand():
    m = compare(REF, GOT)
    assert m.max_abs == 0.5
    assert m.max_abs_over_range == 0.125
    assert m.rms == pytest.approx(0.25)
    assert m.snr_db == pytest.approx(10 * math.log10(21 / 0.25))
    assert m.cosine == pytest.approx(22 / math.sqrt(21 * 23.25))
    assert m.max_relative_clipped == 0.25
    assert m.median_ulp == 0
    assert (m.nan_count, m.inf_count, m.elements) == (0, 0, 4)


def test_relative_difference_clips_its_denominator():
    ref, got = np.array([0.0, 1e-9]), np.array([1e-8, 2e-9])
    assert metrics.max_relative_clipped(ref, got) == pytest.approx(1.0)
    assert metrics.max_relative_clipped(got, ref) == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_one_ulp_is_one_ulp(dtype):
    x = np.array([1.0, 1.5, 3.0, 1e-3, 100.0, -7.0]).astype(dtype)
    nearest = np.nextafter(x, np.array(np.inf, dtype))
    assert metrics.median_ulp(x, nearest) == 1.0
    assert metrics.median_ulp(x.astype(np.float64), nearest) == pytest.approx(1.0)


def test_ulp_of_subnormal_numbers_is_the_smallest_step():
    tiny = np.float32(1e-45)
    reference, got = np.array([0, tiny], np.float32), np.array([tiny, 2 * tiny], np.float32)
    assert metrics.median_ulp(reference, got) == 1.0


@pytest.mark.parametrize(
    ("reference", "want"),
    [
        ([1.0, 3.0], 2.0),
        ([-1.0, 1.0], 2.0),
        ([5.0, 5.0], 5 / 16),  # constant: a sixteenth of its magnitude
        ([-5.0], 5 / 16),
        ([0.0, 0.0], 1.0),  # zero throughout: absolute
        ([1000.0, 1000.001], 1000.001 / 16),  # almost constant: likewise
    ],
)
def test_range(reference, want):
    assert metrics.value_range(np.array(reference)) == pytest.approx(want)


@given(ARRAYS)
def test_equal_arrays_are_equal(x):
    m = compare(x, x.copy())
    assert (m.max_abs, m.max_abs_over_range, m.rms, m.median_ulp, m.max_relative_clipped) == (0, 0, 0, 0, 0)
    assert m.snr_db == math.inf
    assert m.cosine == pytest.approx(1.0)


@given(ARRAYS, st.integers(0, 2**32 - 1), st.floats(-6, 0))
@settings(deadline=None)
def test_metrics_agree_with_plain_formulas(x, seed, exponent):
    noise = np.random.default_rng(seed).normal(size=x.shape) * 10**exponent
    y = (x + noise).astype(np.float32)
    d = np.abs(x.astype(float) - y.astype(float))
    assert metrics.max_abs(x, y) == d.max()
    assert metrics.rms(x, y) == pytest.approx(math.sqrt((d**2).mean()), rel=1e-9, abs=1e-300)
    if (d > 0).any() and (x != 0).any():
        want = 10 * math.log10((x.astype(float) ** 2).sum() / (d**2).sum())
        assert metrics.snr_db(x, y) == pytest.approx(want, rel=1e-6, abs=1e-6)


def test_squares_neither_overflow_nor_vanish():
    big = np.array([1e200, -1e200])
    assert metrics.rms(big, 2 * big) == pytest.approx(1e200)
    assert metrics.snr_db(big, 1.1 * big) == pytest.approx(20, abs=1e-6)
    assert metrics.cosine(big, 2 * big) == pytest.approx(1)
    small = np.array([1e-200, 0])
    assert metrics.rms(small, 0 * small) == pytest.approx(1e-200 / math.sqrt(2))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_results_are_infinitely_far(bad):
    got = GOT.copy()
    got[1] = bad
    m = compare(REF, got)
    assert m.max_abs == m.max_abs_over_range == m.rms == m.max_relative_clipped == math.inf
    assert m.snr_db == -math.inf
    assert m.nan_count + m.inf_count == 1
    again = Metrics.model_validate_json(m.model_dump_json())
    assert again.snr_db == -math.inf
    assert math.isnan(again.cosine)


@pytest.mark.parametrize(
    ("reference", "got", "said"),
    [
        (REF, GOT[:2], r"shapes differ: float32\[4\] against float32\[2\]"),
        (REF[:0], GOT[:0], r"nothing to compare"),
        (REF, GOT.astype(np.int32), r"dtypes cannot be compared: float32\[4\] against int32\[4\]"),
        (np.array(["a"]), np.array(["a"]), r"dtypes cannot be compared"),
        (np.array([1, np.nan]), np.array([1.0, 2.0]), r"reference holds 1 NaN and 0 infinities"),
    ],
)
def test_what_cannot_be_compared_is_refused(reference, got, said):
    with pytest.raises(UserError, match=said):
        compare(reference, got, where="out")


def test_floats_of_different_precision_compare():
    assert compare(REF.astype(np.float64), GOT.astype(np.float16)).max_abs == 0.5


def test_integers_compare_by_value():
    m = compare(np.array([1, 2, 3]), np.array([1, 2, 4]))
    assert (m.max_abs, m.max_abs_over_range) == (1, 0.5)


SCORES = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.3, 0.3, 0.4]])


def test_classes():
    other = SCORES[:, [1, 0, 2]]
    assert metrics.accuracy(SCORES, np.array([1, 0, 0])) == pytest.approx(2 / 3)
    assert metrics.top1_agreement(SCORES, SCORES * 2) == 1
    assert metrics.top1_agreement(SCORES, other) == pytest.approx(1 / 3)
    assert metrics.topk_agreement(SCORES, other, 2) == pytest.approx((1 + 1 + 0.5) / 3, abs=0.2)
    assert metrics.topk_agreement(SCORES, SCORES, 2) == 1


def test_the_lower_class_wins_a_tie():
    assert metrics.top_classes(np.array([[1.0, 1.0, 0.0]]), 2).tolist() == [[0, 1]]


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 3], [-1, 0, 1], []])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(UserError):
        metrics.accuracy(SCORES, np.array(labels, dtype=np.int64))
