"""A benchmark and its gate as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from pipeline.bench.gate import GateRecord
from pipeline.bench.grade import grade_reasons, reasons_by_name
from pipeline.bench.records import (
    BenchmarkRecord,
    BenchResult,
    CudaPeaks,
    CudaRecord,
    CudaResult,
    DissectionRecord,
    Percentile,
    RooflineRecord,
    ScenarioRecord,
    Timing,
    TuneRecord,
)
from pipeline.report.format_values import count, size
from pipeline.tables import BAD, GOOD, row, table

_TOP = 6  # operators and nodes shown; the record holds all
_VERDICTS = {"faster": GOOD, "slower": "yellow"}


def print_benchmark(console: Console, record: BenchmarkRecord) -> None:
    """Latencies, comparisons, costs, and whatever else was measured."""
    _print_latencies(console, record)
    _print_comparisons(console, record)
    _print_costs(console, record)
    for one in record.dissections:
        _print_dissection(console, one, with_nodes=one == record.dissections[-1])
    if record.scenarios:
        _print_scenarios(console, record.scenarios)
    if record.tune is not None:
        _print_tuning(console, record.tune)
    for expected in record.expectations:
        low, high = expected.expected_interval_ms
        text = f"{expected.contender}: expected {expected.expected_ms:.3f} ms [{low:.3f} – {high:.3f}], "
        text += f"found {expected.latency_ms:.3f} ms: {expected.verdict.replace('_', ' ')}"
        console.print(text + (f" ({expected.reason})" if expected.reason else ""))
    if record.cuda is not None:
        _print_cuda(console, record.cuda)
    for why, names in grade_reasons(record.results).items():
        console.print(f"trust: {why} ({'; '.join(names)})")  # names hold commas
    for skipped in record.skipped:
        console.print(f"skipped: {skipped}")


def _print_latencies(console: Console, record: BenchmarkRecord) -> None:
    numbers = ("batch", "threads", "ms", "interval", "p90", "p99", "examples/s", "samples")
    made = table("Latency (median, 95 % interval)", "model", *numbers, "grade", right=numbers)
    for one in record.results:
        interval = f"{one.interval_ms[0]:.3f} – {one.interval_ms[1]:.3f}"
        tail = (_percentile(one, 0.9), _percentile(one, 0.99))
        cells = (one.batch, one.threads, f"{one.latency_ms:.3f}", interval, *tail)
        row(made, one.contender, *cells, f"{one.throughput_per_s:.1f}", one.samples, one.grade.letter)
    console.print(made)


def _print_comparisons(console: Console, record: BenchmarkRecord) -> None:
    if not record.comparisons:
        return
    share = f"{record.comparisons[0].confidence:.0%} interval"
    numbers = ("batch", "ratio", share, "A/A")
    made = table("Faster or slower?", "model", "against", "verdict", *numbers, right=numbers)
    for pair in record.comparisons:
        words = Text(pair.verdict.replace("_", " "), style=_VERDICTS.get(pair.verdict, ""))
        interval = f"{pair.interval[0]:.3f} – {pair.interval[1]:.3f}"
        same = pair.a_a_ratio_interval
        noise = "-" if same is None else f"{same[0]:.3f} – {same[1]:.3f}"
        row(made, pair.b, pair.a, words, pair.batch, f"{pair.ratio:.3f}", interval, noise)
    console.print(made)


def _print_costs(console: Console, record: BenchmarkRecord) -> None:
    numbers = ("batch", "session ms", "first run ms", "peak memory MiB", "file")
    made = table("Costs beside latency", "model", *numbers, right=numbers)
    for one in record.results:
        costs = (f"{one.session_creation_ms:.1f}", f"{one.first_run_ms:.2f}", f"{one.peak_rss_mib:.0f}")
        row(made, one.contender, one.batch, *costs, size(one.file_bytes))
    console.print(made)


def _print_dissection(console: Console, one: DissectionRecord, *, with_nodes: bool) -> None:
    name = f"{one.contender}, batch {one.batch}, {one.threads} thread{'s' if one.threads != 1 else ''}"
    if one.profile is None:
        console.print(f"{name}: no profile: {one.failed}")
        return
    made = table(f"Where the time goes: {name}", "op", "nodes", "µs", "share", right=("nodes", "µs", "share"))
    for op in one.profile.ops[:_TOP]:
        row(made, op.op, op.nodes, f"{op.median_us:.1f}", f"{op.share:.1%}")
    console.print(made)
    if one.profile.note:
        console.print(one.profile.note)
    moved = f"{one.profile.layout_nodes} nodes only move data ({one.profile.layout_share:.1%} of the time)"
    console.print(f"{moved}, {one.profile.reorders} of them layout reorders put in by the runtime")
    if one.placement is not None:
        _print_placement(console, one)
    if one.roofline is not None:
        _print_roofline(console, one.roofline, with_nodes=with_nodes)


def _print_placement(console: Console, one: DissectionRecord) -> None:
    placed = one.placement
    if placed is None:
        return
    if placed.proved:
        console.print(f"placement: all {len(placed.nodes)} executed nodes ran on {placed.wanted}")
        return
    for node in placed.elsewhere:
        console.print(f"placement: {node.node} ({node.op}) ran on {node.provider}", style=BAD)


def _reading(found: RooflineRecord) -> str:
    """Bandwidths that bound the run: the memory's, and a cache's where one holds the weights."""
    memory = found.peaks.gbyte_per_s
    near = found.peaks.gbyte_per_s_of(found.least_bytes)
    words = f"{memory:.1f} GB/s from memory"
    return words if near <= memory else f"{words}, {near:.1f} GB/s from the caches that hold it"


def _print_roofline(console: Console, found: RooflineRecord, *, with_nodes: bool) -> None:
    peaks = found.peaks
    console.print(
        f"roofline: {count(found.operations)} operations, at least {size(found.least_bytes)}; this machine "
        f"reaches {peaks.gflop_per_s:.0f} GFLOP/s and reads {_reading(found)}: limit "
        f"{found.limit_us / 1e3:.3f} ms, {found.share_of_limit:.0%} of it reached"
        + (f" ({found.note})" if found.note else "")
    )
    if not with_nodes:  # of the last one only: a page of tables helps nobody
        return
    made = table(
        "Most to win", "node", "op", "µs", "limit µs", "bound by", "share", right=("µs", "limit µs", "share")
    )
    for node in found.nodes[:_TOP]:
        times = (f"{node.median_us:.1f}", f"{node.limit_us:.1f}")
        row(made, node.node, node.op, *times, node.bound, f"{node.share_of_limit:.0%}")
    console.print(made)


def _print_scenarios(console: Console, records: tuple[ScenarioRecord, ...]) -> None:
    numbers = ("sessions", "queries", "median ms", "tail", "tail ms", "samples/s")
    made = table("Scenarios", "model", "scenario", *numbers, "grade", "", right=numbers)
    for one in records:
        load = one.scenario
        name = f"{load.name} at {load.rate_per_s:,.4g}/s" if load.name == "server" else load.name
        rate, queries = f"{one.throughput_per_s:.1f}", str(one.queries)
        if load.name == "offline":  # the whole is one query: its time says nothing about one sample
            tail: tuple[str, ...] = ("-", "-", "-")
            queries = f"{one.queries} x {load.queries}"
        else:
            tail = (_value(one.median, one.queries), f"p{100 * one.tail.p:g}", _value(one.tail, one.queries))
        if one.throughput_interval_per_s is not None:
            low, high = one.throughput_interval_per_s
            rate = f"{rate} [{low:.1f} – {high:.1f}]"
        words = "valid" if one.valid else "; ".join(one.reasons)
        if one.highest_rate_per_s is not None:
            words += f"; keeps its bound up to {one.highest_rate_per_s:.3g}/s"
        mark = Text(words, style=GOOD if one.valid else "yellow")
        letter = "-" if one.grade is None else one.grade.letter
        row(made, one.contender, name, load.sessions, queries, *tail, rate, letter, mark)
    console.print(made)
    for one in records:
        for note in one.notes:
            console.print(f"note: {one.scenario.name} of {one.contender}: {note}")
    for why, names in _scenario_reasons(records).items():
        console.print(f"trust: {why} ({'; '.join(names)})")


def _print_tuning(console: Console, record: TuneRecord) -> None:
    made = table(
        f"Tuned for this machine, batch {record.batch} ({record.seconds:.0f} s of {record.budget_s:.0f} s"
        f"{', out of time' if record.out_of_time else ''})",
        "runtime", "settings", "ms", "95 % interval", "ratio to default", "98 % interval", "verdict",
        right=("ms", "ratio to default"),
    )  # fmt: skip
    for one in record.choices:
        expected = f"{one.interval_ms[0]:.3f} – {one.interval_ms[1]:.3f}"
        ratio = f"{one.ratio_interval[0]:.3f} – {one.ratio_interval[1]:.3f}"
        words = Text(one.verdict.replace("_", " "), style=_VERDICTS.get(one.verdict, ""))
        name = f"{one.contender.name}{' ←' if one == record.winner else ''}"
        row(made, one.runtime, name, f"{one.latency_ms:.3f}", expected, f"{one.ratio:.3f}", ratio, words)
    console.print(made)
    if record.choice_for("cuda") is not None:
        on_gpu = record.winner.runtime == "cuda"
        where = "GPU, which won" if on_gpu else "CPU, since the GPU did not win"
        console.print(f"an onnxruntime bundle is made for the {where}, unless its option device differs")
    broken = [d for d in record.dropped if d.stage == 0]
    for lost in broken:
        console.print(f"not raced: {lost.name}: {lost.reason}")
    slower = len(record.dropped) - len(broken)
    console.print(
        f"{len(record.raced)} candidates, {slower} dropped in {record.stages} stages, "
        f"{len(record.undecided)} not told apart from a winner"
    )


def _print_cuda(console: Console, record: CudaRecord) -> None:
    if record.status == "not measured":
        console.print(f"CUDA: not measured ({record.reason})", style="dim")
        return
    for model, found in _by_model(record.results).items():
        _print_cuda_times(console, f"CUDA on {record.device}: {model}", found, record)
        _print_cuda_costs(console, found)
    if record.peaks is not None:
        console.print(f"the GPU reaches {_peaks(record.peaks)}; per node {record.nodes}")
    for heat in record.heats:
        if heat.a_a_ratio is not None and heat.a_a_interval is not None:
            low, high = heat.a_a_interval
            interval = f"{heat.a_a_ratio:.3f} [{low:.3f}, {high:.3f}]"
            console.print(f"A/A of {heat.name}: {interval} in {heat.rounds} rounds", style="dim")
    for failed in record.failed:
        console.print(f"could not run: {failed}")


def _peaks(peaks: CudaPeaks) -> str:
    rates = (
        ("TFLOP/s in float32 without TF32", peaks.fp32_tflop_per_s),
        ("with TF32", peaks.tf32_tflop_per_s),
        ("in float16", peaks.fp16_tflop_per_s),
        ("GB/s from memory", peaks.gbyte_per_s),
    )
    found = [f"{value:.1f} {words}" for words, value in rates if value is not None]
    return ", ".join([*found, *peaks.failed])


def _by_model(results: Sequence[CudaResult]) -> dict[str, list[CudaResult]]:
    """By batch size, then by the host's time: the best first."""
    found: dict[str, list[CudaResult]] = {}
    for one in sorted(results, key=lambda r: (r.batch, r.host.median_ms)):
        found.setdefault(one.model, []).append(one)
    return found


def _print_cuda_times(console: Console, title: str, found: Sequence[CudaResult], record: CudaRecord) -> None:
    numbers = (
        "batch",
        "GPU ms",
        "host ms",
        "NumPy to NumPy, pageable",
        "pinned",
        "launch gap",
        "× as installed",
    )
    made = table(title, "settings", *numbers, "error", "grade", right=numbers)
    gaps = {(g.model, g.batch, g.precision, g.tf32, g.layout): g.gap_ms for g in record.launch_gaps}
    for one in found:
        cell = one.settings
        gap = gaps.get((one.model, one.batch, cell.precision, cell.tf32, cell.layout)) if cell.graph else None
        against = next(
            (c.ratio for c in record.comparisons
             if (c.model, c.batch, c.settings) == (one.model, one.batch, cell)), None,
        )  # fmt: skip
        figures = (
            _ms(one.gpu), _ms(one.host), _ms(one.end_to_end_pageable), _ms(one.end_to_end_pinned),
            "-" if gap is None else f"{gap:.3f}", "-" if against is None else f"{against:.3f}",
        )  # fmt: skip
        error = "-" if one.error is None else f"{one.error:.1e}"
        row(made, cell.title, one.batch, *figures, error, "-" if one.grade is None else one.grade.letter)
    console.print(made)
    for why, names in reasons_by_name(
        (f"{one.settings.title}, batch {one.batch}", one.grade.reasons) for one in found if one.grade
    ).items():
        where = names[0] if len(names) == 1 else f"{len(names)} of {len(found)} cells"
        console.print(f"trust: {why} ({where})")


def _print_cuda_costs(console: Console, found: Sequence[CudaResult]) -> None:
    numbers = (
        "batch", "session ms", "first run ms", "to device, pageable", "pinned", "to host", "limit ms",
        "of it reached", "mJ", "MiB",
    )  # fmt: skip
    made = table("Copies and costs", "settings", *numbers, right=numbers)
    for one in found:
        energy = "-" if one.energy_mj is None else f"{one.energy_mj:.2f}"
        starts = (f"{one.session_creation_ms:.0f}", f"{one.first_run_ms:.1f}")
        copies = (_ms(one.host_to_device_pageable), _ms(one.host_to_device_pinned), _ms(one.device_to_host))
        limit = ("-", "-")
        if one.limit is not None:
            limit = (f"{one.limit.limit_us / 1e3:.3f}", f"{one.limit.share_of_limit:.0%}")
        memory = f"{one.device_memory_mib:.0f}"
        row(made, one.settings.title, one.batch, *starts, *copies, *limit, energy, memory)
    console.print(made)
    for note in dict.fromkeys(one.limit.note for one in found if one.limit is not None and one.limit.note):
        console.print(f"limit: {note}")
    for note in dict.fromkeys(one.energy_note for one in found if one.settings.bound and one.energy_note):
        console.print(f"energy: {note}")


def _ms(found: Timing | None) -> str:
    return "-" if found is None else f"{found.median_ms:.3f}"


def _scenario_reasons(records: Sequence[ScenarioRecord]) -> dict[str, tuple[str, ...]]:
    return reasons_by_name(
        (f"{one.scenario.name} of {one.contender}", one.grade.reasons) for one in records if one.grade
    )


def _value(p: Percentile, samples: int) -> str:
    """The percentile, or how many more samples it takes."""
    return f"{p.value_ms:.3f}" if p.value_ms is not None else f"needs {p.samples_needed - samples} more"


def _percentile(result: BenchResult, p: float) -> str:
    found = (_value(one, result.samples) for one in result.percentiles if abs(one.p - p) < 1e-9)
    return next(found, "-")


def print_gate(console: Console, record: GateRecord) -> None:
    """Before and now, figure by figure."""
    made = table("Against the baseline", "figure", "before", "now", "verdict", right=("before", "now"))
    for check in record.checks:
        style = BAD if not check.passed else GOOD if check.verdict == "better" else ""
        before = _with_interval(check.before, check.interval_before)
        now = _with_interval(check.now, check.interval_now)
        row(made, check.title, before, now, Text(check.verdict.replace("_", " "), style=style))
    console.print(made)
    for title in record.only_before:
        console.print(f"measured then and not now: {title}")
    for title in record.only_now:
        console.print(f"measured now and not then: {title}")
    for note in record.notes:
        console.print(f"note: {note}")


def _with_interval(value: float, interval: tuple[float, float] | None) -> str:
    return f"{value:.5g}" + ("" if interval is None else f" [{interval[0]:.5g} – {interval[1]:.5g}]")
