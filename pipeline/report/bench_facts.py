"""What the page says of a benchmark, beside its tables: pictures, and points of error against latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from pipeline.bench.grade import grade_reasons
from pipeline.bench.records import BenchmarkRecord, RooflineRecord
from pipeline.records import RunRecord
from pipeline.report.bench_plots import Point, pareto_chart, roofline_chart, sweep, sweep_chart
from pipeline.report.charts import NoPlots


def bench_facts(record: RunRecord) -> dict[str, Any]:
    """Values for the template of the page's part on speed."""
    found = record.benchmark
    if found is None:
        return {"sweeps": (), "rooflines": (), "pareto": None, "grade_reasons": {}}
    sweeps = {over: sweep(found.results, over) for over in ("batch", "threads")}
    rooflines = [(one, one.roofline) for one in found.dissections if one.roofline is not None]
    points = pareto_points(found, errors_from_source(record))
    bound = record.parity_detail.gate.get("max_abs_over_range") or 2e-5
    return {
        "sweeps": tuple(
            (over, _or_none(lambda over=over, curves=curves: sweep_chart(curves, over)))  # type: ignore[misc]
            for over, curves in sweeps.items()
            if curves
        ),
        "rooflines": tuple((one.contender, roof, _roofline(roof)) for one, roof in rooflines[-1:]),
        "pareto": _or_none(lambda: pareto_chart(points, bound, _source_ms(found)))
        if len(points) > 1
        else None,
        "grade_reasons": grade_reasons(found.results),
    }


def errors_from_source(record: RunRecord) -> dict[str, float]:
    """Worst max|Δ| / range from the source, by contender: the converted model, and the deployed artefact."""
    raw = [
        one.metrics.max_abs_over_range
        for one in record.parity_detail.comparisons
        if one.question == "source_vs_converted"
    ]
    deployed = [
        one.worst_max_abs_over_range
        for one in record.parity
        if one.question == "reference_vs_artefact:onnxruntime"
    ]
    found = {"raw": max(raw)} if raw else {}
    return found | ({"optimized": max(deployed)} if deployed else {})


def pareto_points(found: BenchmarkRecord, errors: Mapping[str, float]) -> tuple[Point, ...]:
    """Every way to run the model whose error and latency were both measured, at the least batch."""
    batch = min((r.batch for r in found.results), default=1)
    points = [
        Point(r.contender, r.latency_ms, errors[r.contender], "contender")
        for r in found.results
        if r.batch == batch and r.contender in errors
    ]
    if found.tune is None or found.tune.batch != batch:
        return tuple(points)
    known = {one.contender.name: one.error for one in found.tune.raced}
    chosen = {one.contender.name for one in found.tune.choices}
    points += [
        Point(f"tuned: {c.contender.name}", c.latency_ms, error, "choice")
        for c in found.tune.choices
        if c.contender.name != found.tune.default and (error := known.get(c.contender.name)) is not None
    ]
    points += [
        Point(one.contender.name, one.latency_ms, one.error, "candidate")
        for one in found.tune.raced
        if one.latency_ms is not None and one.error is not None and one.contender.name not in chosen
    ]
    return tuple(points)


def _source_ms(found: BenchmarkRecord) -> float | None:
    batch = min((r.batch for r in found.results), default=1)
    return next((r.latency_ms for r in found.results if r.contender == "source" and r.batch == batch), None)


def _roofline(found: RooflineRecord) -> Markup | None:
    return _or_none(lambda: roofline_chart(found))


def _or_none(draw: Callable[[], Markup]) -> Markup | None:
    try:
        return draw()
    except NoPlots:
        return None
