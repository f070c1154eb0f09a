"""What a reader asks first, answered from the record: same model? how much faster? where is it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.records import AccuracyRecord, BenchComparison, RunRecord
from pipeline.report.format_values import decibel, percent, scientific, shape, significant, speed_up
from targets.contract import State

Tone = Literal["good", "bad", "plain"]

QUESTIONS = {
    "source_vs_converted": (
        "Is the converted model the source model?",
        "The source framework against the ONNX graph, run without optimisation.",
    ),
    "before_vs_after": (
        "Did the optimiser leave it alone?",
        "The ONNX graph before the passes against the graph after them.",
    ),
    "reference_vs_artefact": (
        "Does the deployed artefact answer like the source?",
        "The source framework against the optimised graph in the runtime that will serve it.",
    ),
}


def asked(question: str) -> tuple[str, str]:
    """A question in words, and between what; ``reference_vs_artefact:NAME`` is about one target."""
    kind, _, target = question.partition(":")
    if kind not in QUESTIONS:
        return question, ""
    words, between = QUESTIONS[kind]
    return (f"{words} ({target})" if target else words), between


@dataclass(frozen=True)
class Answer:
    """One card at the head of the page."""

    question: str
    answer: str
    detail: tuple[str, ...]
    tone: Tone


def headline(record: RunRecord) -> tuple[Answer, ...]:
    """The cards, in reading order."""
    return (_same_model(record), _how_much_faster(record), _where(record))


def main_comparison(record: RunRecord) -> BenchComparison | None:
    """The comparison a reader wants first: optimised against source, else against raw, at the least batch."""
    if record.benchmark is None:
        return None
    for a in ("source", "raw"):
        found = [c for c in record.benchmark.comparisons if (c.a, c.b) == (a, "optimized")]
        if found:
            return min(found, key=lambda c: c.batch)
    return record.benchmark.comparisons[0] if record.benchmark.comparisons else None


def _same_model(record: RunRecord) -> Answer:
    detail = record.parity_detail
    measured = [one.metrics for one in detail.comparisons]
    compared = len(measured)
    if not measured:
        return Answer("Is it the same model?", "Not shown", ("nothing was compared",), "bad")
    largest = scientific(max(one.max_abs_over_range for one in measured))
    least = decibel(min(one.snr_db for one in measured))  # often of another comparison than the largest
    lines = [f"worst of {compared} comparisons: max|Δ| {largest} of the range, SNR {least}"]
    if detail.source_float64 is not None and detail.source_float64.max_abs_over_range is not None:
        exact = scientific(detail.source_float64.max_abs_over_range)
        lines.append(f"source and converted graph, both in float64: {exact} of the range apart")
    lines += [
        f"{one.contender}: accuracy {percent(one.accuracy)} on {one.examples} examples" + _agreement(one)
        for one in detail.accuracy
        if one.accuracy is not None
    ]
    if detail.first_divergence is not None:
        first = detail.first_divergence
        lines.append(f"they first part at {first.node}: {first.cause}")
    answer = "Yes, within the gate" if detail.passed else "No: a gate was missed"
    return Answer("Is it the same model?", answer, tuple(lines), "good" if detail.passed else "bad")


def _agreement(one: AccuracyRecord) -> str:
    if one.top1_agreement is None or one.contender == "source":
        return ""
    return f", same class as the source on {percent(one.top1_agreement)}"


def _how_much_faster(record: RunRecord) -> Answer:
    question = "How much faster is it?"
    chosen = main_comparison(record)
    if chosen is None:
        return Answer(question, "Not measured", ("the run was configured without a benchmark",), "plain")
    low, high = chosen.interval
    setting = f"{chosen.b} against {chosen.a}, {chosen.device}, batch {chosen.batch}"
    interval = (
        f"ratio of latencies {significant(chosen.ratio)}, "
        f"{100 * chosen.confidence:g} % interval {significant(low)} to {significant(high)}"
    )
    if chosen.verdict == "no_difference_shown":
        return Answer(question, "No difference shown", (setting, interval), "plain")
    tone: Tone = "good" if chosen.verdict == "faster" else "bad"
    return Answer(question, speed_up(chosen.ratio), (setting, interval), tone)


def _where(record: RunRecord) -> Answer:
    question = "Where is the bundle?"
    if not record.bundles:
        why = () if record.status == "ok" else ("a bundle is made only of a model that meets every gate",)
        return Answer(question, "None was made", why, "plain")
    verified = [b for b in record.bundles if b.state is State.VERIFIED]
    lines = tuple(f"{b.target}: {b.path or 'not written'} ({b.state.value})" for b in record.bundles)
    failed = any(b.state is State.FAILED for b in record.bundles)
    tone: Tone = "bad" if failed else "good" if verified else "plain"
    return Answer(question, f"{len(verified)} of {len(record.bundles)} verified", lines, tone)


def model_in_one_line(record: RunRecord) -> str:
    """``keras · tensorflow 2.21.0 · image ? × 28 × 28 × 1 → scores ? × 10``."""
    sides = [
        ", ".join(f"{t.name} [{shape(t.shape)}]" for t in side)
        for side in (record.convert.inputs, record.convert.outputs)
    ]
    return f"{record.convert.framework}: {' → '.join(sides)}"
