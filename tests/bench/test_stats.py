"""Statistics against exact distributions (SciPy as the oracle) and against simulation with fixed seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.errors import UserError
from pipeline.bench import stats

scipy_stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize(
    ("p", "needed"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368), (0.999, 3688), (0.01, 368)]
)
def test_samples_needed(p: float, needed: int) -> None:
    assert stats.samples_needed(p) == needed
    assert max(p, 1 - p) ** needed <= 0.025 < max(p, 1 - p) ** (needed - 1)


@pytest.mark.parametrize("confidence", [0.95, 0.98, 0.999, 0.9995, 0.99999])
def test_rounds_needed(confidence: float) -> None:
    """So many values have an interval of this confidence, and one fewer has none (down to the least)."""
    needed = stats.rounds_needed(confidence)
    stats.signed_rank_interval(np.linspace(-1, 1, needed), confidence)
    if needed > stats.LEAST_ROUNDS:
        with pytest.raises(UserError, match="too few"):
            stats.signed_rank_interval(np.linspace(-1, 1, needed - 1), confidence)


@settings(deadline=None, max_examples=200)
@given(st.integers(6, 3000), st.floats(0.05, 0.99), st.sampled_from([0.9, 0.95, 0.99]))
def test_ranks_are_the_tightest_with_the_promised_coverage(n: int, p: float, confidence: float) -> None:
    tail = (1 - confidence) / 2
    ranks = stats.order_statistic_ranks(n, p, confidence)
    if n < stats.samples_needed(p, confidence):
        assert ranks is None
        return
    if ranks is None:  # the two demands of the formula meet at the last sample
        assert n <= stats.samples_needed(p, confidence) + 2
        return
    low, high = ranks
    binomial = scipy_stats.binom(n, p)
    assert 1 <= low < high <= n
    assert binomial.cdf(low - 1) <= tail + 1e-9
    assert binomial.sf(high - 1) <= tail + 1e-9
    assert binomial.cdf(low) > tail - 1e-9
    assert binomial.sf(high - 2) > tail - 1e-9


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_quantile_intervals_cover_the_truth(p: float) -> None:
    rng = np.random.default_rng(7)
    truth = scipy_stats.lognorm(0.5).ppf(p)
    found = [stats.quantile(rng.lognormal(0, 0.5, 800), p).interval for _ in range(400)]
    given_ = [interval for interval in found if interval is not None]
    # By chance, independent samples can look autocorrelated, and then too few for the percentile.
    assert len(given_) >= 0.97 * len(found)
    hits = sum(low <= truth <= high for low, high in given_)
    assert hits >= scipy_stats.binom(len(given_), 0.95).ppf(0.001)


def test_quantile_intervals_cover_the_truth_of_autocorrelated_samples() -> None:
    from tests.bench.noise import autoregressive

    rng = np.random.default_rng(11)
    plain = hits = 0
    for _ in range(200):
        x = np.exp(0.2 * autoregressive(rng, 2000, 0.9))
        interval = stats.median(x).interval
        assert interval is not None
        hits += interval[0] <= 1.0 <= interval[1]
        ranks = stats.order_statistic_ranks(len(x), 0.5)
        assert ranks is not None
        ordered = np.sort(x)
        plain += bool(ordered[ranks[0] - 1] <= 1.0 <= ordered[ranks[1] - 1])
    assert hits >= 0.88 * 200
    assert plain < 0.6 * 200  # what the textbook interval would have covered


def test_a_percentile_without_support_is_refused() -> None:
    q = stats.quantile(np.linspace(1, 2, 100), 0.99)
    assert (q.value, q.interval, q.supported, q.samples_needed) == (None, None, False, 368)


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [math.inf], [[1.0]]])
def test_samples_that_are_none_are_refused(bad: list[float]) -> None:
    with pytest.raises(UserError):
        stats.median(bad)


@pytest.mark.parametrize("p", [0.0, 1.0, -1.0])
def test_percentiles_outside_the_open_interval_are_refused(p: float) -> None:
    with pytest.raises(UserError, match="probability"):
        stats.quantile([1.0, 2.0], p)


@given(st.sampled_from([0.9, 0.975, 0.99, 0.999]), st.integers(1, 60))
def test_student_t(p: float, freedom: int) -> None:
    assert stats.student_t(p, freedom) == pytest.approx(scipy_stats.t.ppf(p, freedom), rel=1e-9)


def test_signed_rank_distribution_by_enumeration() -> None:
    n = 7
    sums = [sum(r + 1 for r in range(n) if mask >> r & 1) for mask in range(2**n)]
    exact = [sum(s <= t for s in sums) / 2**n for t in range(n * (n + 1) // 2 + 1)]
    assert np.allclose(stats._signed_rank_cdf(n), exact, atol=1e-12)


def test_signed_rank_interval_agrees_with_the_test_it_inverts() -> None:
    x = np.random.default_rng(3).normal(0.3, 1, 20)
    _, low, high = stats.signed_rank_interval(x, 0.95)
    for shift, inside in [(low + 1e-6, True), (high - 1e-6, True), (low - 1e-6, False), (high + 1e-6, False)]:
        p_value = scipy_stats.wilcoxon(x - shift, method="exact").pvalue
        assert (p_value > 0.05) == inside


def test_too_few_values_for_the_confidence_are_refused() -> None:
    with pytest.raises(UserError, match="too few"):
        stats.signed_rank_interval([1.0, 2.0, 3.0], 0.99)


def test_ratio_sees_through_a_drift_that_doubles_both() -> None:
    load = np.exp(np.linspace(0, np.log(2), 60))
    a = [np.full(5, x) for x in load]
    b = [np.full(5, 1.1 * x) for x in load]
    ratio = stats.ratio_of_medians(a, b)
    assert ratio.value == pytest.approx(1.1)
    assert ratio.low == pytest.approx(1.1)


def test_rounds_must_match_and_suffice() -> None:
    block = [np.ones(3)]
    with pytest.raises(UserError, match="same rounds"):
        stats.ratio_of_medians(block * 20, block * 21)
    with pytest.raises(UserError, match="too few"):
        stats.ratio_of_medians(block * 7, block * 7)


@pytest.mark.parametrize(
    ("interval", "a_a", "least", "verdict"),
    [
        ((1.02, 1.06), None, 0.01, "slower"),
        ((0.9, 0.95), None, 0.01, "faster"),
        ((0.99, 1.06), None, 0.0, "no_difference_shown"),
        ((1.005, 1.02), None, 0.01, "no_difference_shown"),
        ((1.02, 1.06), (1.03, 1.05), 0.01, "no_difference_shown"),  # identical models differ as much
        ((1.02, 1.06), (0.97, 1.03), 0.01, "slower"),
        ((0.9, 0.95), (0.85, 0.9), 0.01, "no_difference_shown"),
    ],
)
def test_judge(
    interval: tuple[float, float], a_a: tuple[float, float] | None, least: float, verdict: str
) -> None:
    ratio = stats.Ratio(math.sqrt(interval[0] * interval[1]), *interval, 0.98, 60)
    calibration = None if a_a is None else stats.Ratio(1.0, *a_a, 0.98, 60)
    assert stats.judge(ratio, calibration, least_effect=least) == verdict


@pytest.mark.parametrize(
    ("medians", "settled"),
    [
        ([5.0, 3.0, 2.0, 1.5, 1.2], False),  # still improving
        ([5.0, 1.01, 1.0, 1.0], True),
        ([1.0, 1.0, 1.0], False),  # too few windows
        ([1.0, 1.0, 2.0, 1.0], False),  # jumps
        ([5.0, 1.0, 1.0, 0.9], False),
    ],
)
def test_settling(medians: list[float], settled: bool) -> None:
    assert stats.is_settled(medians) == settled


def test_throughput_counts_examples() -> None:
    assert stats.throughput_per_s([10.0, 10.0], 8) == pytest.approx(800)


def test_widening_keeps_the_interval_where_processes_agree() -> None:
    assert stats.widened(1.0, (0.9, 1.1), spread=0.0, freedom=3, processes=4) == pytest.approx((0.9, 1.1))
    low, high = stats.widened(1.0, (0.999, 1.001), spread=0.02, freedom=6, processes=4)
    assert math.log(high) == pytest.approx(scipy_stats.t.ppf(0.975, 6) * 0.01, rel=0.01)
    assert low < 0.98
