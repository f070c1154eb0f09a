"""Records as tables for people. Names come from model files, so nothing of theirs is read as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.console_benchmark import print_benchmark, print_gate
from pipeline.console_layers import print_layer_checks
from pipeline.parity.source_truth_words import in_words
from pipeline.records import (
    BenchmarkRecord,
    BundleRecord,
    ConvertRecord,
    GoldenRecord,
    OptimizeRecord,
    ParityRecord,
    RunRecord,
)
from pipeline.tables import BAD as _BAD
from pipeline.tables import GOOD as _GOOD
from pipeline.tables import console as _console
from pipeline.tables import row as _row
from pipeline.tables import table as _table
from targets.contract import State

if TYPE_CHECKING:
    from pipeline.bench.gate import GateRecord
    from pipeline.doctor import DoctorRecord
    from pipeline.inspect_model import InspectRecord
    from pipeline.parity.compare_layers import LayerComparison
    from pipeline.plan import StepState


def _mark(good: bool) -> Text:
    return Text("pass", style=_GOOD) if good else Text("FAIL", style=_BAD)


def _times(multiple: float | None) -> str:
    """An error against float64 as a multiple of the source framework's own."""
    return "-" if multiple is None else f"{multiple:.2f}"


def _db(value: float) -> str:
    return "exact" if value == float("inf") else f"{value:.1f}"


# --- run and plan --------------------------------------------------------------------------------


def show_run(record: RunRecord) -> None:
    """The end of a run: is it the same model, how fast is it, where is it."""
    console = _console()
    console.print(_parity_summary(record))
    if record.parity_detail.accuracy:
        table = _table(
            "Accuracy on the data",
            "model",
            "examples",
            "accuracy",
            "same class as source",
            right=("examples", "accuracy"),
        )
        for one in record.parity_detail.accuracy:
            accuracy = "-" if one.accuracy is None else f"{one.accuracy:.4f}"
            agreement = "-" if one.top1_agreement is None else f"{one.top1_agreement:.4f}"
            _row(table, one.contender, one.examples, accuracy, agreement)
        console.print(table)
    if record.benchmark is not None:
        print_benchmark(console, record.benchmark)
    for bundle in record.bundles:
        print_layer_checks(console, bundle)
    lines = _table("Results", "what", "where", "state")
    _row(lines, "report", record.report, "")
    for bundle in record.bundles:
        style = _GOOD if bundle.status == "ok" else _BAD
        _row(
            lines,
            f"bundle {bundle.target}",
            bundle.path or "not written",
            Text(bundle.state.value, style=style),
        )
    if not record.bundles:
        _row(lines, "bundle", "none: the parity gate was not met", Text("not written", style=_BAD))
    console.print(lines)
    _print_findings(console, record.parity_detail)
    cached = sum(step.cached for step in record.steps)
    console.print(f"{record.seconds:.1f} s, {cached} of {len(record.steps)} steps from the store")


def _parity_summary(record: RunRecord) -> Table:
    table = _table(
        "Is it the same model?",
        "question",
        "max|Δ| / range",
        "SNR dB",
        "× source",
        "",
        "",
        right=("max|Δ| / range", "SNR dB", "× source"),
    )
    for line in record.parity:
        name = line.question.replace("_", " ")
        figures = (
            f"{line.worst_max_abs_over_range:.1e}",
            _db(line.worst_snr_db),
            _times(line.error_multiple),
        )
        _row(table, name, *figures, _mark(line.passed), _judged_by(record.parity_detail, line.question))
    return table


def _judged_by(parity: ParityRecord, question: str) -> str:
    """Why a difference beyond the gate passes: it was measured from float64, and the source is no nearer."""
    bound = parity.gate["max_abs_over_range"] or 0.0
    beyond = [
        one
        for one in parity.comparisons
        if one.question == question and one.passed and one.metrics.max_abs_over_range > bound
    ]
    if not beyond:
        return ""
    worst = max(beyond, key=lambda one: one.metrics.max_abs_over_range)
    if worst.source_error is None or worst.b_error is None:
        return ""
    return (
        f"{worst.feed}, a made-up extreme, asks for more digits than float32 has: judged by the distance "
        f"from float64, source {worst.source_error:.1e}, {worst.b} {worst.b_error:.1e}"
    )


def show_plan(states: Sequence[StepState]) -> None:
    """What would run and why."""
    table = _table("Plan", "step", "state", "why", "key")
    for state in states:
        word = Text("from the store", style=_GOOD) if state.cached else Text("runs", style="yellow")
        _row(table, state.step.name, word, state.reason, state.step.key[:12])
    _console().print(table)


# --- stages --------------------------------------------------------------------------------------


def show_conversion(record: ConvertRecord) -> None:
    """One conversion."""
    console = _console()
    table = _table(f"Converted to {record.output}", "tensor", "name", "dtype", "shape")
    for kind, tensors in (("input", record.inputs), ("output", record.outputs)):
        for tensor in tensors:
            _row(table, kind, tensor.name, tensor.dtype, _shape(tensor.shape))
    console.print(table)
    checks = _table("Against its own framework", "input", "output", "max|Δ| / range", "SNR dB", "")
    for one in record.parity:
        _row(
            checks, one.feed, one.output, f"{one.max_abs_over_range:.1e}", _db(one.snr_db), _mark(one.passed)
        )
    console.print(checks)
    for frozen in record.frozen:
        console.print(f"frozen: {frozen.name} = {frozen.value} ({frozen.why})")
    for note in record.notes:
        console.print(f"note: {note}")
    console.print(
        f"{record.framework}; opset {record.opset}, {record.nodes} nodes, "
        f"{record.weight_bytes / 2**20:.1f} MiB of weights; "
        f"{record.seconds:.1f} s, peak {record.peak_rss_mib:.0f} MiB"
    )


def show_ledger(record: OptimizeRecord) -> None:
    """What each pass did."""
    console = _console()
    numbers = ("sites", "refused", "rolled back", "nodes", "max|Δ| / range", "ms")
    table = _table(f"Ledger of {record.recipe}", "pass", "numerics", *numbers, right=numbers)
    for line in record.ledger:
        certificate = "-" if line.certificate is None else f"{line.certificate.max_abs_over_range:.1e}"
        nodes = (
            f"{line.nodes_before} → {line.nodes_after}"
            if line.nodes_before != line.nodes_after
            else line.nodes_after
        )
        counts = (line.sites, len(line.refusals), len(line.rolled_back))
        style = "" if line.sites or line.refusals else "dim"
        _row(
            table,
            line.name,
            line.numerics.value,
            *counts,
            nodes,
            certificate,
            f"{line.seconds * 1e3:.0f}",
            style=style,
        )
    console.print(table)
    for line in record.ledger:
        for refusal in line.refusals:
            console.print(f"refused: {line.name} at {refusal.site}: {refusal.reason}")
        for back in line.rolled_back:
            measured = f"{back.measured:.1e} against {back.bound:.1e} on {back.feed}"
            console.print(f"rolled back: {line.name} at {back.site}: {measured}", style=_BAD)
    console.print(f"{record.nodes_before} → {record.nodes_after} nodes; written to {record.output}")


def show_parity(record: ParityRecord, layers: Sequence[LayerComparison] = ()) -> None:
    """One comparison of two models, and their layers side by side."""
    console = _console()
    console.print(
        Text(
            "the same model" if record.passed else "NOT the same model",
            style=_GOOD if record.passed else _BAD,
        )
    )
    table = _table(
        "Comparisons", "input", "output", "max|Δ|", "max|Δ| / range", "SNR dB", "cosine", "× source", "",
        right=("max|Δ|", "max|Δ| / range", "SNR dB", "cosine", "× source"),
    )  # fmt: skip
    for one in record.comparisons:
        m = one.metrics
        known = one.b_error is not None and one.source_error
        times = _times(one.b_error / one.source_error if known else None)  # type: ignore[operator]
        numbers = (f"{m.max_abs:.2e}", f"{m.max_abs_over_range:.1e}", _db(m.snr_db), f"{m.cosine:.9f}", times)
        _row(table, one.feed, one.output, *numbers, _mark(one.passed))
    console.print(table)
    for one in record.comparisons:
        for reason in one.reasons:
            console.print(f"{one.output} on {one.feed}: {reason}", style=_BAD)
    _print_findings(console, record)
    if layers:
        _print_layers(console, layers)


def _print_findings(console: Console, record: ParityRecord) -> None:
    """Where the models part, if they do, and what the user should know."""
    if record.source_float64 is not None:
        console.print(in_words(record.source_float64))
    found = record.first_divergence
    if found is not None:
        console.print(
            f"first divergence: node {found.node}, tensor {found.tensor}; probable cause: {found.cause}"
        )
        if found.detail:
            console.print(found.detail)
        if found.folder:
            console.print(f"smallest models that show it, their input and reproduce.py: {found.folder}")
    for notice in record.notices:
        console.print(f"note: {notice}")


def show_golden(record: GoldenRecord) -> None:
    """A golden file."""
    console = _console()
    table = _table(f"Recorded in {record.output}", "set", "tensor", "dtype", "shape")
    for one in record.tensors:
        _row(table, one.key, one.name, one.dtype, _shape(one.shape))
    console.print(table)


def _print_layers(console: Console, layers: Sequence[LayerComparison]) -> None:
    numbers = ("mean A", "variance A", "mean B", "variance B", "max|Δ| / range", "SNR dB")
    table = _table("Layers", "tensor", "op", "shape", *numbers, right=numbers)
    for one in layers:
        moments = (f"{value:.6g}" for value in (one.mean_a, one.variance_a, one.mean_b, one.variance_b))
        m = one.metrics
        errors = (one.note, "") if m is None else (f"{m.max_abs_over_range:.1e}", _db(m.snr_db))
        _row(table, one.tensor, one.op, _shape(one.shape), *moments, *errors)
    console.print(table)


def show_benchmark(record: BenchmarkRecord) -> None:
    """Latencies with intervals, comparisons, grades, and all that was measured beside."""
    print_benchmark(_console(), record)


def show_gate(record: GateRecord) -> None:
    """A benchmark against its baseline."""
    print_gate(_console(), record)


def show_bundle(record: BundleRecord) -> None:
    """One bundle and its state."""
    console = _console()
    style = {State.VERIFIED: _GOOD, State.PRODUCED: "yellow"}.get(record.state, _BAD)
    console.print(Text(f"{record.target}: {record.state.value}", style=style))
    if record.max_abs_over_range is not None and record.snr_db is not None:
        console.print(f"max|Δ| / range {record.max_abs_over_range:.1e}, SNR {_db(record.snr_db)} dB")
    if record.error is not None and record.error_multiple is not None:
        console.print(
            f"error against float64 {record.error:.1e} of the range: "
            f"{record.error_multiple:.2f} × the source's own"
        )
    for reason in record.reasons:
        console.print(f"- {reason}")
    for note in record.notes:
        console.print(f"- {note}")
    if record.state is State.VERIFIED:
        for absent in record.not_executed:
            console.print(f"- not executed: {absent}")
    console.print(record.path)


# --- lists ---------------------------------------------------------------------------------------


def show_inspection(record: InspectRecord) -> None:
    """What a model holds."""
    console = _console()
    console.print(f"{record.model}: {record.format}, {record.framework}")
    table = _table("Inputs and outputs", "tensor", "name", "dtype", "shape")
    for kind, tensors in (("input", record.inputs), ("output", record.outputs)):
        for tensor in tensors:
            _row(table, kind, tensor.name, tensor.dtype, _shape(tensor.shape))
    console.print(table)
    layers = _table("Layers", "name", "op", "output shape", "parameters", "padding", right=("parameters",))
    for layer in record.layers:
        _row(layers, layer.name, layer.op, _shape(layer.output_shape), f"{layer.parameters:,}", layer.padding)
    if record.layers:
        console.print(layers)
    ops = _table("Ops", "op", "count", right=("count",))
    for op, count in record.ops.items():
        _row(ops, op, count)
    console.print(ops)
    console.print(f"{record.parameters:,} parameters, {record.weight_bytes / 2**20:.1f} MiB of weights")


def show_doctor(record: DoctorRecord) -> None:
    """What works here, what is missing, and what brings it."""
    console = _console()
    host = record.host
    console.print(f"Python {record.python}; {host.get('cpu_model', 'CPU unknown')}; GPU: {record.gpu}")
    providers = _table(
        "ONNX Runtime providers (a session was made and run)", "provider", "works", "detail", "needs"
    )
    for provider in record.providers:
        _row(providers, provider.name, _yes(provider.works), provider.detail, provider.needs)
    console.print(providers)
    parts = _table("Sources, targets and their libraries", "part", "role", "works", "detail", "for", "needs")
    for part in record.parts:
        _row(parts, part.name, part.role, _yes(part.works), part.detail, part.purpose, part.needs)
    console.print(parts)
    for line in record.advice:
        console.print(f"- {line}")


def _yes(works: bool) -> Text:
    return Text("yes", style=_GOOD) if works else Text("no", style="yellow")


def show_targets(found: Sequence[Mapping[str, Any]]) -> None:
    """Targets and their state on this machine."""
    table = _table("Targets", "name", "state here", "what it writes", "needs")
    for one in found:
        _row(table, one["name"], one["state"], one["summary"], one["needs"] or "-")
    _console().print(table)


def show_passes(found: Mapping[str, Any]) -> None:
    """Passes and recipes."""
    console = _console()
    table = _table("Passes", "name", "numerics", "what it does")
    for one in found["passes"]:
        _row(table, one["name"], one["numerics"], one["summary"])
    console.print(table)
    for recipe in found["recipes"]:
        lines = _table(f"Recipe {recipe['name']}", "pass", "why")
        for line in recipe["lines"]:
            _row(lines, line["pass"], line["why"])
        console.print(lines)


def _shape(shape: Sequence[object]) -> str:
    return "[" + ", ".join("?" if one is None else str(one) for one in shape) + "]"
