"""The two figures that gate a bundle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from targets.closeness import (
    APART,
    Closeness,
    Gate,
    OwnError,
    closeness,
    own_error,
    worst,
    worst_error,
)

F32 = np.float32
CASES = [
    ("equal", [1, 2, 3], [1, 2, 3], Closeness(0.0, math.inf)),
    # max|Δ| = 0.5, range 2; Σref² = 14, Σ(Δ²) = 0.25
    ("one off", [1, 2, 3.5], [1, 2, 3], Closeness(0.25, 10 * math.log10(14 / 0.25))),
    # no range: a sixteenth of the magnitude 4 stands in
    ("constant", [5, 5], [4, 4], Closeness(4.0, 10 * math.log10(32 / 2))),
    ("silent reference", [0.5, 0], [0, 0], Closeness(0.5, -math.inf)),
    ("same NaN", [math.nan, 1], [math.nan, 1], Closeness(0.0, math.inf)),
    ("new NaN", [math.nan, 1], [0, 1], APART),
    ("lost infinity", [1e30, 1], [math.inf, 1], APART),
    ("other infinity", [-math.inf, 1], [math.inf, 1], APART),
    ("empty", [], [], Closeness(0.0, math.inf)),
]


@pytest.mark.parametrize(("got", "ref", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_table(got: list[float], ref: list[float], expected: Closeness) -> None:
    found = closeness(np.array(got, F32), np.array(ref, F32))
    assert found.max_abs_over_range == pytest.approx(expected.max_abs_over_range, rel=1e-12)
    assert found.snr_db == pytest.approx(expected.snr_db, rel=1e-12)


def test_shape_and_type_must_be_equal() -> None:
    one = np.zeros(3, F32)
    assert closeness(one, np.zeros((3, 1), F32)) == APART
    assert closeness(one, np.zeros(3, np.float64)) == APART


def test_integers_and_strings() -> None:
    assert closeness(np.array([1, 2]), np.array([1, 2])).snr_db == math.inf
    assert closeness(np.array(["a"]), np.array(["a"])).snr_db == math.inf
    assert closeness(np.array(["a"]), np.array(["b"])) == APART


def test_nothing_compared_is_a_failure() -> None:
    assert worst([]) == APART
    assert not Gate().passes(worst([]))


def test_both_bounds_must_hold_and_nan_holds_nothing() -> None:
    gate = Gate(max_abs_over_range=1e-3, snr_db=60)
    assert gate.passes(Closeness(1e-3, 60))
    assert not gate.passes(Closeness(1.1e-3, 60))
    assert not gate.passes(Closeness(1e-3, 59.9))
    assert not gate.passes(Closeness(math.nan, math.nan))


@given(
    hnp.arrays(F32, hnp.array_shapes(max_dims=3), elements=st.floats(-1e6, 1e6, width=32)), st.integers(-8, 8)
)
def test_scaling_both_by_a_power_of_two_changes_nothing(ref: np.ndarray, power: int) -> None:
    got = ref + np.float32(1) * (np.arange(ref.size, dtype=F32) % 3).reshape(ref.shape)
    factor = F32(2.0**power)
    assume(np.any(ref))  # else there is no scale to keep
    smallest = np.abs(ref[ref != 0]).min()
    assume(smallest * min(factor, F32(1)) >= np.finfo(F32).tiny)  # below it, scaling rounds
    assert closeness(got * factor, ref * factor) == closeness(got, ref)


TRUTH = np.array([0.0, 1.0, 2.0])
FAR, NEAR = TRUTH + np.array([0, 0, 8e-7]), TRUTH + np.array([4e-7, 0, 0])  # 4e-7 and 2e-7 of the range 2
OWN_CASES = [
    ("twice as far", FAR, NEAR, OwnError(4e-7, 2e-7), 2.0),
    ("exact", TRUTH, NEAR, OwnError(0.0, 2e-7), 0.0),
    ("the source is exact", FAR, TRUTH, OwnError(4e-7, 0.0), None),
]


@pytest.mark.parametrize(
    ("got", "expected", "error", "multiple"), [c[1:] for c in OWN_CASES], ids=[c[0] for c in OWN_CASES]
)
def test_errors_against_float64(got, expected, error, multiple) -> None:
    found = own_error(got, expected, TRUTH)
    assert found is not None
    assert (found.artefact, found.source) == pytest.approx((error.artefact, error.source), rel=1e-6)
    assert found.multiple == (multiple if multiple is None else pytest.approx(multiple, rel=1e-6))


def test_probabilities_are_compared_with_the_truth_as_logarithms() -> None:
    truth = np.array([1e-6, 1 - 1e-6])
    got = truth.astype(F32)
    got[0] *= 1.5
    plain, logs = (own_error(got, truth.astype(F32), truth, softmax=s) for s in (False, True))
    assert plain is not None
    assert logs is not None
    assert logs.artefact > 1e4 * plain.artefact


def test_what_has_no_error_against_float64() -> None:
    assert own_error(np.array([1, 2]), np.array([1, 2]), TRUTH) is None
    assert own_error(TRUTH[:2], TRUTH, TRUTH) is None
    assert own_error(TRUTH, np.array([0, np.nan, 2]), TRUTH) is None  # the source itself says nothing
    broken = own_error(np.array([0, np.nan, 2]), TRUTH, TRUTH)
    assert broken is not None
    assert not broken.within(1e9)


def test_the_bound_is_a_multiple_and_a_little() -> None:
    assert OwnError(2e-6, 5e-7).within(2)
    assert not OwnError(2.1e-6, 5e-7).within(2)
    assert OwnError(1e-6, 0).within(2)


def test_the_worst_of_both_sides() -> None:
    assert worst_error([OwnError(1, 5), OwnError(3, 2)]) == OwnError(3, 5)
    assert worst_error([]) is None
