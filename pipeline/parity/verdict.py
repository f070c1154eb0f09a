"""Whether a measured difference is small enough, and if not, why not. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.config import GateConfig
from pipeline.records import ComparisonRecord, Metrics, ParityRecord, ParitySummary
from targets.closeness import SOURCE_ERROR_SLACK

MOST_FLOAT32_LOSS = 50  # times the bound: what rounding alone may do to an extreme input


def judge(
    metrics: Metrics,
    gate: GateConfig,
    source_error: float | None = None,
    own_error: float | None = None,
    *,
    edge: bool = False,
) -> tuple[bool, tuple[str, ...]]:
    """Whether the comparison passes the gate, with a reason for each bound that is missed.

    Args:
        metrics: the artefact against its reference.
        gate: the bounds.
        source_error: the source framework's own max|Δ| / range against float64; None where unknown.
        own_error: the artefact's, likewise.
        edge: the input is a made-up extreme. Where even the source lies farther from float64 than the bound
            on differences, an exact artefact would miss that bound: the distance from float64 alone decides.
    """
    reasons: list[str] = []
    if metrics.elements == 0:
        reasons.append("nothing was compared")
    if metrics.nan_count or metrics.inf_count:
        reasons.append(
            f"{metrics.nan_count} NaN and {metrics.inf_count} infinities among {metrics.elements} values"
        )
    anchored = beyond_float32(gate, source_error, own_error, edge=edge)
    if not anchored and not metrics.max_abs_over_range <= gate.max_abs_over_range:
        reasons.append(
            f"max|Δ|/range is {metrics.max_abs_over_range:.3g}, above {gate.max_abs_over_range:.3g}"
        )
    if not anchored and not metrics.snr_db >= gate.snr_db and metrics.max_abs != 0:
        reasons.append(f"SNR is {metrics.snr_db:.1f} dB, below {gate.snr_db:.1f} dB")
    if source_error is not None and own_error is not None:
        bound = gate.source_error_factor * source_error + SOURCE_ERROR_SLACK
        if not own_error <= bound:
            reasons.append(
                f"the error against float64 is {own_error:.3g} of the range, above {bound:.3g} "
                f"({gate.source_error_factor:g} × the source's own {source_error:.3g} "
                f"+ {SOURCE_ERROR_SLACK:g})"
            )
        elif reasons and own_error < source_error:
            reasons.append(f"the source is farther from float64: {source_error:.3g}, this {own_error:.3g}")
    return not reasons, tuple(reasons)


def beyond_float32(
    gate: GateConfig, source_error: float | None, own_error: float | None, *, edge: bool
) -> bool:
    """Whether an extreme input asks for more digits than the source's own float32 run has.

    Not where the source is so far from the graph's float64 value that the two may be different functions.
    """
    return (
        edge
        and source_error is not None
        and own_error is not None
        and gate.max_abs_over_range < source_error <= MOST_FLOAT32_LOSS * gate.max_abs_over_range
    )


def summaries(record: ParityRecord) -> tuple[ParitySummary, ...]:
    """One line a question: the worst of its comparisons."""
    lines = []
    for question in dict.fromkeys(one.question for one in record.comparisons):
        asked = [one for one in record.comparisons if one.question == question]
        lines.append(
            ParitySummary(
                question=question,
                passed=all(one.passed for one in asked),
                worst_max_abs_over_range=max(one.metrics.max_abs_over_range for one in asked),
                worst_snr_db=min(one.metrics.snr_db for one in asked),
                error_multiple=error_multiple(asked),
            )
        )
    return tuple(lines)


def error_multiple(comparisons: Iterable[ComparisonRecord]) -> float | None:
    """The worst error against float64 over the source's own worst; None where the two are not known."""
    known = [
        (one.b_error, one.source_error)
        for one in comparisons
        if one.b_error is not None and one.source_error is not None
    ]
    source = max((theirs for _, theirs in known), default=0.0)
    return max(own for own, _ in known) / source if source > 0 else None
