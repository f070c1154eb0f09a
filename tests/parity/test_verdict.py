"""The gate: each bound by itself, and its reasons."""

from __future__ import annotations

import math

import pytest

from pipeline.config import GateConfig
from pipeline.parity.verdict import judge
from pipeline.records import Metrics

GOOD = {
    "max_abs": 1e-6, "max_abs_over_range": 1e-6, "rms": 1e-7, "snr_db": 120.0, "cosine": 1.0,
    "median_ulp": 0.5, "max_relative_clipped": 1.0, "nan_count": 0, "inf_count": 0, "elements": 10,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "errors", "said"),
    [
        ({}, (None, None), None),
        ({}, (1e-7, 1.1e-6), None),  # the slack of 1e-6 on top of twice the source's error
        ({"max_abs_over_range": 2e-5, "snr_db": 90.0}, (None, None), None),  # the bounds themselves pass
        ({"max_abs_over_range": 2.1e-5}, (None, None), "max|Δ|/range is 2.1e-05, above 2e-05"),
        ({"snr_db": 89.9}, (None, None), "SNR is 89.9 dB, below 90.0 dB"),
        ({"snr_db": math.nan}, (None, None), "SNR"),
        ({"max_abs_over_range": math.nan}, (None, None), "max|Δ|/range"),
        ({"nan_count": 1}, (None, None), "1 NaN"),
        ({"inf_count": 2}, (None, None), "2 infinities"),
        ({"elements": 0}, (None, None), "nothing was compared"),
        ({}, (1e-6, 3.1e-6), "2 × the source's own"),
        ({}, (1e-6, math.nan), "2 × the source's own"),
        ({"max_abs_over_range": 5e-5}, (5e-5, 1e-6), "the source is farther from float64"),
        ({"max_abs": 0.0, "snr_db": -math.inf}, (None, None), None),  # zero against zero
    ],
)
def test_judge(changes, errors, said):
    passed, reasons = judge(Metrics(**(GOOD | changes)), GateConfig(), *errors)
    assert passed == (said is None)
    assert passed == (not reasons)
    if said:
        assert any(said in reason for reason in reasons)


def test_the_configs_own_bounds_count():
    gate = GateConfig(max_abs_over_range=1e-7, snr_db=130.0, source_error_factor=1.0)
    passed, reasons = judge(Metrics(**GOOD), gate, 1e-6, 2.5e-6)
    assert not passed
    assert len(reasons) == 3


@pytest.mark.parametrize(
    ("source_error", "own_error", "edge", "passes"),
    [
        (5e-5, 4e-5, True, True),  # an exact artefact would miss the bound on differences as well
        (5e-5, 4e-5, False, False),  # but zeros, random input and data are held to it
        (1e-6, 1e-6, True, False),  # the source is near float64: the artefact has no excuse
        (5e-5, 2e-4, True, False),  # farther than twice the source's own error
        (5e-3, 1e-6, True, False),  # so far that the two may be different functions
        (5e-5, None, True, False),
    ],
)
def test_extreme_inputs_are_judged_by_the_distance_from_float64(source_error, own_error, edge, passes):
    metrics = Metrics(**(GOOD | {"max_abs_over_range": 6e-5, "snr_db": 85.0}))
    assert judge(metrics, GateConfig(), source_error, own_error, edge=edge)[0] is passes
