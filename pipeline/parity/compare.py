"""Compare the outputs of two models on one feed, and each with the float64 truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from optim.contract import Array, Feeds, Outputs
from optim.errors import UnsupportedModelError
from optim.heads import Head
from pipeline.config import GateConfig
from pipeline.parity import metrics
from pipeline.parity.heads import AS_LOGARITHMS, comparable
from pipeline.parity.verdict import beyond_float32, judge
from pipeline.records import ComparisonRecord, Metrics
from targets.reference import Float64Session

Question: TypeAlias = Literal["source_vs_converted", "before_vs_after", "reference_vs_artefact"]


@dataclass(frozen=True)
class Contender:
    """A model's name and the saturating heads of its outputs."""

    name: str
    heads: Mapping[str, Head] = field(default_factory=dict)


@dataclass(frozen=True)
class Truth:
    """The float64 run of one feed."""

    outputs: Outputs
    heads: Mapping[str, Head]


def evaluate_truth(
    session: Float64Session, feeds: Mapping[str, Feeds], heads: Mapping[str, Head], notices: list[str]
) -> dict[str, Truth]:
    """Float64 outputs for each feed; empty, with a notice, where the graph cannot be evaluated so."""
    try:
        with np.errstate(all="ignore"):
            return {label: Truth(session.run(feed), heads) for label, feed in feeds.items()}
    except UnsupportedModelError as error:
        notices.append(f"no float64 truth: {error.what}")
        return {}


def compare_three(
    label: str,
    names: tuple[str, ...],
    contenders: tuple[Contender, Contender, Contender],
    runs: tuple[Outputs, Outputs, Outputs],
    truth: Truth | None,
    gate: GateConfig,
    notices: list[str],
) -> list[ComparisonRecord]:
    """Source against converted and converted against optimised, on one synthetic feed."""
    source, before, after = contenders
    records: list[ComparisonRecord] = []
    pairs: tuple[tuple[Question, Contender, Contender, Outputs, Outputs], ...] = (
        ("source_vs_converted", source, before, runs[0], runs[1]),
        ("before_vs_after", before, after, runs[1], runs[2]),
    )
    for question, a, b, x, y in pairs:
        finite = {n for n in names if np.isfinite(np.asarray(x[n], dtype=np.float64)).all()}
        for name in names:
            if name in finite:
                continue
            if np.array_equal(x[name], y[name], equal_nan=True):
                notices.append(f"{label}: {name} is not finite, and equal, in {a.name} and {b.name}")
            else:
                records.append(_not_finite(question, label, name, a, b, x[name], y[name]))
        kept = tuple(n for n in names if n in finite)
        edge = not label.startswith(("zeros", "random"))
        found = compare_pair(question, label, kept, a, b, x, y, gate, truth, runs[0], source, edge=edge)
        notices += [
            f"{label}: the source itself is {one.source_error:.3g} of the range from float64, more than "
            f"{gate.max_abs_over_range:.3g}; on this input the distance from float64 alone is judged"
            for one in found
            if one.source_error is not None and beyond_float32(gate, one.source_error, one.b_error, edge=edge)
        ]
        records += found
    return records


def _not_finite(
    question: Question, label: str, name: str, a: Contender, b: Contender, x: Array, y: Array
) -> ComparisonRecord:
    inf = float("inf")
    return ComparisonRecord(
        question=question,
        a=a.name,
        b=b.name,
        feed=label,
        output=name,
        metrics=Metrics(
            max_abs=inf,
            max_abs_over_range=inf,
            rms=inf,
            snr_db=-inf,
            cosine=float("nan"),
            median_ulp=inf,
            max_relative_clipped=inf,
            nan_count=metrics.nan_count(y),
            inf_count=metrics.inf_count(y),
            elements=int(x.size),
        ),
        passed=False,
        reasons=(
            f"{a.name} holds {metrics.nan_count(x)} NaN and {metrics.inf_count(x)} infinities, "
            f"{b.name} {metrics.nan_count(y)} and {metrics.inf_count(y)}, and they differ",
        ),
    )


def compare_pair(
    question: Question,
    label: str,
    names: tuple[str, ...],
    a: Contender,
    b: Contender,
    x: Outputs,
    y: Outputs,
    gate: GateConfig,
    truth: Truth | None = None,
    source_run: Outputs | None = None,
    source: Contender | None = None,
    *,
    edge: bool = False,
) -> list[ComparisonRecord]:
    """One record for each output and each way of looking at it (see ``heads.comparable``)."""
    records = []
    source_run = x if source_run is None else source_run
    source = a if source is None else source
    for what, (left, right) in comparable(x, y, a.heads, b.heads, names).items():
        unit = next((str(x[name].dtype) for name in names if what == f"{name}{AS_LOGARITHMS}"), None)
        where = f"{what}, {a.name} against {b.name} on {label}"
        measured = metrics.compare(left, right, where=where, unit=unit)
        source_error = own_error = None
        if truth is not None:
            own_error = error_of(what, truth, y, b.heads, names)
            source_error = error_of(what, truth, source_run, source.heads, names)
            if source_error is None:  # the source shows no logits: its recovered ones stand in
                source_error = error_of(recovered(what), truth, source_run, source.heads, names)
        passed, reasons = judge(measured, gate, source_error, own_error, edge=edge)
        records.append(
            ComparisonRecord(
                question=question,
                a=a.name,
                b=b.name,
                feed=label,
                output=what,
                metrics=measured,
                source_error=source_error,
                b_error=own_error,
                passed=passed,
                reasons=reasons,
                worst=metrics.worst_elements(left, right),
            )
        )
    return records


def recovered(what: str) -> str:
    return what.removesuffix(" before Softmax") + AS_LOGARITHMS


def error_of(
    what: str, truth: Truth, run: Outputs, heads: Mapping[str, Head], names: tuple[str, ...]
) -> float | None:
    """max|Δ| / range of a run against the truth, looked at in the same way; None where it cannot be.

    None too for a saturating output that is also looked at before saturation: the activation's slope turns
    the rounding of the logits into an error that says nothing about the model.
    """
    pairs = comparable(truth.outputs, run, truth.heads, heads, names)
    views = (f"{what}{AS_LOGARITHMS}", f"{what} before Sigmoid")
    pair = None if any(v in pairs for v in views) else pairs.get(what)
    if pair is None or pair[0].size == 0 or not np.isfinite(pair[0]).all():
        return None
    return metrics.max_abs_over_range(*pair)
