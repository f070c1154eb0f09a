"""Records → one self-contained HTML page, Markdown, and JSON."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from optim.errors import UserError
from pipeline.config import GateConfig, ReportConfig
from pipeline.parity.feature_maps import FeatureMaps
from pipeline.parity.layer_map import LayerMapRow
from pipeline.parity.source_truth_words import in_words
from pipeline.records import BenchResult, ComparisonRecord, ParityRecord, RunRecord, SourceTruthRecord
from pipeline.report import format_values as fmt
from pipeline.report.bench_facts import bench_facts
from pipeline.report.charts import NoPlots, latency_chart, ratio_chart
from pipeline.report.headline import asked, headline, main_comparison, model_in_one_line
from pipeline.report.layer_table import layer_lines, target_columns, weight_text
from pipeline.report.parity_plots import error_growth, pictures
from targets.markdown import markdown_code, markdown_text
from targets.readable_time import readable_time

TEMPLATES = Path(__file__).parent / "templates"
REPORT_JSON_VERSION = 1


@dataclass(frozen=True)
class LatencyPlot:
    """One plot of the distribution; ``svg`` is None where matplotlib is missing."""

    device: str
    batch: int
    svg: Markup | None


def render(
    record: RunRecord,
    layer_map: Sequence[LayerMapRow],
    out_dir: Path,
    config: ReportConfig,
    feature_maps: Sequence[FeatureMaps] = (),
) -> list[Path]:
    """Write ``report.json``, and ``report.html`` and ``report.md`` unless the config turns them off.

    Args:
        record: the finished run.
        layer_map: the rows that parity made of the source's layers; may be empty.
        out_dir: made when missing.
        config: names the title and the formats.
        feature_maps: pictures of what layers compute.

    Returns:
        What was written, the page first.

    Raises:
        UserError: the folder cannot be written.
    """
    facts = _facts(record, layer_map, config) | {
        "growth_plot": growth_plot(record.parity_detail),
        "pictures": pictures(feature_maps),
    }
    texts: dict[str, str] = {}
    if config.html:
        texts["report.html"] = html_environment().get_template("report.html.j2").render(facts)
    if config.markdown:
        texts["report.md"] = _markdown_environment().get_template("report.md.j2").render(facts)
    texts["report.json"] = _json(record, layer_map)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        return [write_whole(out_dir / name, text) for name, text in texts.items()]
    except OSError as error:
        raise UserError(f"cannot write the report: {error.strerror}", where=str(out_dir)) from error


def _facts(record: RunRecord, layer_map: Sequence[LayerMapRow], config: ReportConfig) -> dict[str, Any]:
    layers = layer_lines(record, layer_map)
    return {
        "r": record,
        "title": config.title or record.name,
        "description": str(record.config.get("description") or ""),
        "model_line": model_in_one_line(record),
        "answers": headline(record),
        "main": main_comparison(record),
        "asked": asked,
        "layers": layers,
        "target_columns": target_columns(record),
        "parameters": sum(layer.parameters for layer in layers),
        "latency_plots": _latency_plots(record),
        "ratio_plot": _ratio_plot(record),
        **bench_facts(record),
        "ops": sorted({*record.optimize.ops_before, *record.optimize.ops_after}),
        "environment": tuple(flat(record.environment)),
        "bench_host": tuple(flat(record.benchmark.host)) if record.benchmark else (),
        "config_json": json.dumps(record.config, indent=2, ensure_ascii=False, default=str),
        "style": Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),  # our own file
    }


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A tree of facts as (dotted key, text) lines; what is empty is left out."""
    lines: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines += flat(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)) and value and all(isinstance(v, Mapping) for v in value):
            for index, item in enumerate(value):
                lines += flat(item, f"{prefix}{key}[{index}].")
        elif isinstance(value, (list, tuple)):
            if value:
                lines.append((f"{prefix}{key}", ", ".join(map(str, value))))
        elif value not in ("", None):
            lines.append((f"{prefix}{key}", str(value)))
    return lines


def notable(
    comparisons: Sequence[ComparisonRecord], room: int = 8
) -> tuple[list[ComparisonRecord], list[ComparisonRecord]]:
    """The comparisons to show at once, and the rest: every failure and the worst of those that passed."""
    if len(comparisons) <= room:
        return list(comparisons), []
    passed = [c for c in comparisons if c.passed]
    passed.sort(key=lambda c: c.metrics.max_abs_over_range, reverse=True)
    kept = {id(c) for c in passed[: max(room - (len(comparisons) - len(passed)), 1)]}
    shown = [c for c in comparisons if not c.passed or id(c) in kept]
    return shown, [c for c in comparisons if c.passed and id(c) not in kept]


def _latency_plots(record: RunRecord) -> tuple[LatencyPlot, ...]:
    if record.benchmark is None:
        return ()

    def setting(result: BenchResult) -> tuple[str, int]:
        return result.device, result.batch

    plots = []
    timed = [result for result in record.benchmark.results if result.raw_ms]
    for (device, batch), group in groupby(sorted(timed, key=setting), setting):
        try:
            svg: Markup | None = latency_chart(list(group))
        except NoPlots:
            svg = None
        plots.append(LatencyPlot(device, batch, svg))
    return tuple(plots)


def _ratio_plot(record: RunRecord) -> Markup | None:
    if record.benchmark is None or not record.benchmark.comparisons:
        return None
    try:
        return ratio_chart(record.benchmark.comparisons)
    except NoPlots:
        return None


def growth_plot(record: ParityRecord) -> Markup | None:
    """Error over depth, where layers were compared; None too where matplotlib is missing."""
    bound = record.gate.get("max_abs_over_range") or GateConfig().max_abs_over_range
    try:
        return error_growth(record.layers, bound)
    except NoPlots:
        return None


def gate_words(gate: Mapping[str, float | None]) -> Markup:
    """``max|Δ|/range ≤ 2e-05; SNR ≥ 90 dB; ...``: the bounds that were set, in the words of the tables."""
    forms = {
        "max_abs_over_range": lambda v: f"max|Δ|/range ≤ {fmt.scientific(v)}",
        "snr_db": lambda v: f"SNR ≥ {v:g} dB",
        "source_error_factor": lambda v: f"error against float64 ≤ {v:g} × the source's own",
        "top1_agreement": lambda v: f"same class as the source on ≥ {100 * v:g} % of the data",
        "min_accuracy": lambda v: f"accuracy ≥ {100 * v:g} %",
    }
    set_bounds = [(key, value) for key, value in gate.items() if value is not None]
    words = ((forms[key](value) if key in forms else f"{key} {value:g}", value) for key, value in set_bounds)
    return Markup("; ").join(fmt.datum(fmt.unbroken(text), value) for text, value in words)


def worst_of(comparisons: Sequence[ComparisonRecord], room: int = 4) -> list[ComparisonRecord]:
    """The comparisons whose worst elements are shown: failures first, then the farthest apart."""
    order = sorted(comparisons, key=lambda c: (c.passed, -c.metrics.max_abs_over_range))
    return order[:room]


def _json(record: RunRecord, layer_map: Sequence[LayerMapRow]) -> str:
    body = {
        "report_version": REPORT_JSON_VERSION,
        "record": record.model_dump(mode="json", by_alias=True),
        "layer_map": [row.model_dump(mode="json") for row in layer_map],
    }
    return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _environment(**options: Any) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    formats = {
        "sci": fmt.scientific,
        "db": fmt.decibel,
        "ms": fmt.milliseconds,
        "sec": fmt.seconds,
        "count": fmt.count,
        "size": fmt.size,
        "percent": fmt.percent,
        "sig": fmt.significant,
        "speed_up": fmt.speed_up,
        "digits": fmt.digits,
    }
    environment.filters.update(formats)
    environment.filters["shape"] = fmt.shape
    environment.filters["time"] = readable_time
    environment.filters["unbroken"] = fmt.unbroken
    environment.filters["gate_words"] = gate_words
    environment.filters["weight"] = weight_text
    environment.filters["notable"] = notable
    environment.filters["notable_worst"] = worst_of
    environment.filters["moment"] = fmt.moment
    environment.filters["source_truth"] = _sentence
    environment.filters["breakable"] = fmt.breakable
    return environment


@functools.cache
def html_environment() -> jinja2.Environment:
    """Templates of pages: every text escaped, every number with all its digits beside it."""
    environment = _environment(autoescape=True)
    for name in ("sci", "db", "ms", "sec", "count", "size", "percent", "sig", "speed_up", "digits"):
        environment.filters[name] = _with_all_digits(environment.filters[name])
    return environment


def _sentence(record: SourceTruthRecord) -> str:
    words = in_words(record)
    return words[:1].upper() + words[1:]


def _with_all_digits(form: Any) -> Any:
    return lambda value: fmt.datum(form(value), value)


@functools.cache
def _markdown_environment() -> jinja2.Environment:
    environment = _environment(autoescape=False)  # every untrusted name goes through the filters below
    environment.filters["md"] = markdown_text
    environment.filters["code"] = markdown_code
    return environment


def write_whole(file: Path, text: str) -> Path:
    """Write aside, then move into place."""
    handle, aside = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(aside).chmod(0o644)
        Path(aside).replace(file)
    finally:
        Path(aside).unlink(missing_ok=True)
    return file
