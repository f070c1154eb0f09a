"""Statistics of latencies: pure functions over arrays, no clock and no process.

Percentiles carry order-statistic intervals: for a sample sorted ascending, the p-quantile lies in [X(l),
X(u)] with probability P(l <= Bin(n, p) < u), whatever the distribution (David & Nagaraja, *Order
Statistics*, 3rd ed., 7.1). Samples of one machine are not independent, so n is first divided by the
integrated autocorrelation time of the indicator 1[x <= quantile], estimated from batch means (Law,
*Simulation Modeling and Analysis*, 9.5.3).

Two contenders are compared in rounds: each round holds one short block of runs of every process, in random
order, so drift and load hit all. The unit is the log of a block's median. Consecutive rounds are gathered
into batches, which takes the autocorrelation out; if two contenders are the same, swapping them changes
nothing, so their log ratios are symmetric round zero: exactly what the Wilcoxon signed-rank interval and
its Hodges-Lehmann estimate ask for (Hollander, Wolfe & Chicken, *Nonparametric Statistical Methods*,
3.2-3.3).

Rounds are not the whole truth: two processes that load the same file differ for their lifetime, by 1 to 7 %
as measured, since their weights lie in other physical pages. No number of rounds averages that away. So
each contender runs in several processes, the process is a random effect, and its variance, pooled over the
contenders, enters the interval with Student's t (the one-way layout; Kalibera & Jones, *Rigorous
Benchmarking in Reasonable Time*, 2013).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from optim.errors import UserError

Floats: TypeAlias = NDArray[np.float64]
Verdict: TypeAlias = Literal["faster", "slower", "no_difference_shown"]

CONFIDENCE: Final = 0.95
VERDICT_CONFIDENCE: Final = (
    0.98  # of ratio intervals: at most 5 in 100 claims may be wrong, not just on average
)
BATCHES: Final = 24  # of rounds, in a comparison; the signed-rank interval at 0.98 needs at least 7
LEAST_ROUNDS: Final = 8
PRIOR_SPREAD: Final = 0.025  # between processes with one model, where none was run twice; as measured
PRIOR_FREEDOM: Final = 6


@dataclass(frozen=True)
class Quantile:
    """A percentile with its interval, or only how many samples it takes.

    ``value`` and ``interval`` are None where ``samples_needed`` exceeds what was measured.
    """

    p: float  # in (0, 1)
    value: float | None
    interval: tuple[float, float] | None
    samples: int
    samples_needed: int

    @property
    def supported(self) -> bool:
        return self.value is not None


@dataclass(frozen=True)
class Ratio:
    """Latency of b over latency of a, with its interval."""

    value: float
    low: float
    high: float
    confidence: float
    rounds: int

    @property
    def half_width(self) -> float:
        """Half the width of the interval of the log ratio: about the relative uncertainty."""
        return 0.5 * math.log(self.high / self.low)


@cache
def _binomial_cdf(n: int, p: float) -> tuple[float, ...]:
    """P(Bin(n, p) <= k) for k = 0..n, by summing the probability masses in the log domain."""
    k = np.arange(n + 1)
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    log_mass = (
        log_factorial[n] - log_factorial - log_factorial[::-1] + k * math.log(p) + (n - k) * math.log1p(-p)
    )
    cdf = np.minimum(np.cumsum(np.exp(log_mass)), 1.0)
    return tuple(float(v) for v in cdf)


def samples_needed(p: float, confidence: float = CONFIDENCE) -> int:
    """Least n for which both bounds of the p-quantile's interval are order statistics of the sample.

    The least value must lie below the quantile and the greatest above it, each but for (1 - confidence) /
    2: max(p, 1 - p)^n <= (1 - confidence) / 2.
    """
    _check_probability(p)
    tail = (1 - confidence) / 2
    return math.ceil(math.log(tail) / math.log(max(p, 1 - p)) - 1e-12)


def order_statistic_ranks(n: int, p: float, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """1-based ranks (l, u) of the equal-tailed interval of the p-quantile, or None where n is too small.

    l is the greatest rank with P(Bin(n, p) < l) <= tail, u the least with P(Bin(n, p) >= u) <= tail.
    """
    _check_probability(p)
    if n < samples_needed(p, confidence):
        return None
    tail = (1 - confidence) / 2
    cdf = np.asarray(_binomial_cdf(n, p))
    low = int(np.searchsorted(cdf, tail, side="right"))  # cdf[l - 1] <= tail
    high = int(np.searchsorted(cdf, 1 - tail - 1e-15, side="left")) + 1  # cdf[u - 1] >= 1 - tail
    return (low, high) if 1 <= low < high <= n else None


def autocorrelation_time(samples: Floats, quantile: float, p: float) -> float:
    """How many samples in a row say as much as one independent one, for the p-quantile; at least 1.

    Variance of the means of the indicator 1[x <= quantile] over sqrt(n) batches, over what independence
    would give. ``samples`` [n] in the order in which they were measured.
    """
    n = len(samples)
    size = math.isqrt(n)
    if size < 8:
        return 1.0
    below = (samples <= quantile).astype(np.float64)[: size * (n // size)]
    means = below.reshape(-1, size).mean(axis=1)
    tau = float(means.var(ddof=1)) / (p * (1 - p) / size)
    chance = 1 + 2 * math.sqrt(2 / (len(means) - 1))  # two standard errors of a variance above independence
    return tau if tau > chance else 1.0


def quantile(samples: Sequence[float] | Floats, p: float, confidence: float = CONFIDENCE) -> Quantile:
    """The p-quantile of latencies in the order of measurement, refused where the samples do not support it.

    With autocorrelated samples the interval is that of a smaller sample of the same distribution.
    """
    x = _checked(samples)
    n, least = len(x), samples_needed(p, confidence)
    if n < least:
        return Quantile(p, None, None, n, least)
    value = float(np.quantile(x, p))
    tau = autocorrelation_time(x, value, p)
    effective = math.floor(n / tau)
    ranks = order_statistic_ranks(effective, p, confidence)
    if ranks is None:
        return Quantile(p, None, None, n, math.ceil(least * tau))
    ordered = np.sort(x)
    # A rank of the small sample, as the same share of the large one; widened outward.
    low = max(0, math.floor((ranks[0] - 1) / effective * n))
    high = min(n - 1, math.ceil(ranks[1] / effective * n) - 1)
    return Quantile(p, value, (float(ordered[low]), float(ordered[high])), n, least)


def median(samples: Sequence[float] | Floats, confidence: float = CONFIDENCE) -> Quantile:
    """The median, with its order-statistic interval."""
    return quantile(samples, 0.5, confidence)


def is_settled(medians: Sequence[float], *, tolerance: float = 0.03, windows: int = 3) -> bool:
    """Whether a warm-up is over: the last windows agree, and the last one does not still improve.

    Args:
        medians: median latency of each warm-up window, in order.
        tolerance: greatest relative improvement of the last window over the best before it.
        windows: how many windows must agree, to three times the tolerance (load goes up and down).
    """
    if len(medians) < windows + 1:
        return False
    last = medians[-windows:]
    best_before = min(medians[:-1])
    return max(last) <= min(last) * (1 + 3 * tolerance) and medians[-1] >= best_before * (1 - tolerance)


@cache
def _signed_rank_cdf(n: int) -> tuple[float, ...]:
    """P(T <= t) for the signed-rank statistic T of n values, t = 0..n(n+1)/2, by counting subsets of 1..n."""
    counts = np.zeros(n * (n + 1) // 2 + 1)
    counts[0] = 1.0
    for rank in range(1, n + 1):
        counts[rank:] = (counts[rank:] + counts[:-rank]) / 2 if rank < len(counts) else counts[rank:]
        counts[:rank] /= 2
    return tuple(float(v) for v in np.cumsum(counts))


def signed_rank_interval(values: Sequence[float] | Floats, confidence: float) -> tuple[float, float, float]:
    """Hodges-Lehmann estimate and signed-rank interval (estimate, low, high) of a centre of symmetry.

    The interval's bounds are Walsh averages (x_i + x_j) / 2, i <= j, at rank c and M + 1 - c, where c is
    the greatest rank with P(T < c) <= (1 - confidence) / 2.

    Raises:
        UserError: too few values for the confidence asked for.
    """
    x = _checked(values)
    n = len(x)
    i, j = np.triu_indices(n)
    walsh = np.sort((x[i] + x[j]) / 2)
    tail = (1 - confidence) / 2
    c = int(np.searchsorted(np.asarray(_signed_rank_cdf(n)), tail, side="right"))
    if c < 1:
        raise UserError(
            f"{n} values are too few for a {confidence:.0%} signed-rank interval", hint="measure longer"
        )
    return float(np.median(walsh)), float(walsh[c - 1]), float(walsh[len(walsh) - c])


def rounds_needed(confidence: float) -> int:
    """Least number of values for which a signed-rank interval has this confidence: 2^-n <= (1 - c) / 2."""
    return max(LEAST_ROUNDS, math.ceil(-math.log2((1 - confidence) / 2) - 1e-12))


def ratio_of_medians(
    a: Sequence[Floats],
    b: Sequence[Floats],
    *,
    confidence: float = VERDICT_CONFIDENCE,
    batches: int = BATCHES,
) -> Ratio:
    """Latency of process b over that of process a, from blocks measured in the same rounds.

    Speaks of these two processes, not of their models: see ``compare_groups``.

    Args:
        a, b: one array of latencies per round, in order of time; equally many rounds.
        confidence: of the interval.
        batches: into how many groups of consecutive rounds to gather.

    Raises:
        UserError: unequal or too few rounds.
    """
    logs = _log_medians([a, b])
    centre, low, high = _batched_interval(logs[1] - logs[0], confidence, batches)
    return Ratio(math.exp(centre), math.exp(low), math.exp(high), confidence, logs.shape[1])


Groups: TypeAlias = Mapping[str, Sequence[Sequence[Floats]]]
"""Blocks of latencies by contender, process and round."""


def compare_groups(groups: Groups, a: str, b: str, *, confidence: float = VERDICT_CONFIDENCE) -> Ratio:
    """Latency of contender b over that of a, each run in one or more processes, in the same rounds.

    The half width joins two causes: rounds (signed-rank) and processes (Student's t with the variance
    between processes with the same model, pooled over all ``groups``; taken as the prior where no group has
    two).

    Raises:
        UserError: unequal or too few rounds.
    """
    names = list(groups)
    logs = _log_medians([process for name in names for process in groups[name]])
    owner = np.array([k for k, name in enumerate(names) for _ in groups[name]])
    of_a, of_b = owner == names.index(a), owner == names.index(b)
    difference = logs[of_b].mean(axis=0) - logs[of_a].mean(axis=0)
    centre, low, high = _batched_interval(difference, confidence, BATCHES)
    spread, freedom = _process_spread(logs, owner)
    between = math.sqrt(1 / of_a.sum() + 1 / of_b.sum())
    from_processes = student_t(1 - (1 - confidence) / 2, freedom) * spread * between
    below, above = math.hypot(centre - low, from_processes), math.hypot(high - centre, from_processes)
    return Ratio(
        math.exp(centre), math.exp(centre - below), math.exp(centre + above), confidence, logs.shape[1]
    )


def _process_spread(logs: Floats, owner: NDArray[np.int_]) -> tuple[float, int]:
    """Pooled standard deviation between processes with the same model, and its degrees of freedom.

    ``logs`` [process, round] are log medians, ``owner`` [process] the contender's number.
    """
    centred = logs - np.median(logs, axis=0)
    levels = np.array([np.median(row) for row in centred])
    squares, freedom = 0.0, 0
    for k in np.unique(owner):
        own = levels[owner == k]
        squares += float(((own - own.mean()) ** 2).sum())
        freedom += len(own) - 1
    return (math.sqrt(squares / freedom), freedom) if freedom else (PRIOR_SPREAD, PRIOR_FREEDOM)


def spread_over_processes(groups: Groups) -> tuple[float, int]:
    """Relative standard deviation between processes with the same model, and its degrees of freedom."""
    logs = _log_medians([process for blocks in groups.values() for process in blocks])
    owner = np.array([k for k, blocks in enumerate(groups.values()) for _ in blocks])
    return _process_spread(logs, owner)


def widened(
    value: float, interval: tuple[float, float], *, spread: float, freedom: int, processes: int
) -> tuple[float, float]:
    """An interval of a median widened by what processes with the same model differ, in the log domain."""
    part = student_t(1 - (1 - CONFIDENCE) / 2, freedom) * spread / math.sqrt(processes)
    below = math.hypot(math.log(value / interval[0]), part)
    above = math.hypot(math.log(interval[1] / value), part)
    return value * math.exp(-below), value * math.exp(above)


def student_t(p: float, freedom: int) -> float:
    """The p-quantile (p > 0.5) of Student's t, by bisection of its distribution function."""
    low, high = 0.0, 1.0
    while _student_cdf(high, freedom) < p:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, freedom: int) -> float:
    """Finite sums for whole degrees of freedom (Abramowitz & Stegun, 26.7.3 and 26.7.4)."""
    theta = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(theta), math.sin(theta)
    if freedom % 2:
        term, total = cosine, 0.0
        for k in range(1, freedom - 1, 2):  # cos + 2/3 cos^3 + (2*4)/(3*5) cos^5 + ...
            total += term
            term *= cosine * cosine * (k + 1) / (k + 2)
        inside = 2 / math.pi * (theta + sine * total)
    else:
        term, total = 1.0, 0.0
        for k in range(0, freedom - 1, 2):  # 1 + 1/2 cos^2 + (1*3)/(2*4) cos^4 + ...
            total += term
            term *= cosine * cosine * (k + 1) / (k + 2)
        inside = sine * total
    return 0.5 + 0.5 * inside


def _log_medians(processes: Sequence[Sequence[Floats]]) -> Floats:
    """Log of each block's median, [process, round].

    Raises:
        UserError: unequal or too few rounds.
    """
    rounds = {len(blocks) for blocks in processes}
    if len(rounds) != 1:
        raise UserError(f"{sorted(rounds)} rounds", expected="all measured in the same rounds")
    if min(rounds) < LEAST_ROUNDS:
        raise UserError(
            f"{min(rounds)} rounds are too few for a comparison", expected=f"at least {LEAST_ROUNDS}"
        )
    return np.array([[math.log(float(np.median(_checked(x)))) for x in blocks] for blocks in processes])


def _batched_interval(values: Floats, confidence: float, batches: int) -> tuple[float, float, float]:
    """Estimate, low and high of the centre of autocorrelated ``values`` [round]."""
    groups = np.array_split(values, min(batches, len(values)))
    # A median inside each group keeps one stolen time slice from carrying the group away.
    return signed_rank_interval(np.array([np.median(g) for g in groups]), confidence)


def noise_floor(a_a: Ratio | None) -> float:
    """By how much an A/A comparison, which should find nothing, claims a difference; as |log ratio|."""
    if a_a is None:
        return 0.0
    return max(0.0, math.log(a_a.low), -math.log(a_a.high))


def judge(ratio: Ratio, a_a: Ratio | None = None, *, least_effect: float = 0.0) -> Verdict:
    """Whether b is faster or slower than a, as far as this measurement shows.

    A difference is claimed when the whole interval lies beyond 1 by more than ``least_effect`` (relative),
    and by more than an A/A comparison of the same measurement wrongly claims.
    """
    margin = max(noise_floor(a_a), math.log1p(least_effect))
    if math.log(ratio.low) > margin:
        return "slower"
    if math.log(ratio.high) < -margin:
        return "faster"
    return "no_difference_shown"


def throughput_per_s(samples_ms: Sequence[float] | Floats, batch: int) -> float:
    """Examples per second of one caller who calls again at once: batch · n / total time."""
    x = _checked(samples_ms)
    return batch * len(x) * 1e3 / float(x.sum())


def _check_probability(p: float) -> None:
    if not 0 < p < 1:
        raise UserError(f"{p} is no probability", expected="a value between 0 and 1")


def _checked(samples: Sequence[float] | Floats) -> Floats:
    x = np.asarray(samples, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0:
        raise UserError(f"samples have shape {x.shape}", expected="a list of at least one number")
    if not np.isfinite(x).all():
        raise UserError("samples hold NaN or infinity")
    return x
