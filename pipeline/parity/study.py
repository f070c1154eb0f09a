"""Is it still the same model? Source against converted, before against after, each against float64.

Inputs: zeros, seeded random ones, edge cases, and the user's data; several batch sizes where free.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from optim.contract import Feeds, Outputs, TensorSpec
from optim.errors import UnsupportedModelError, UserError
from optim.heads import Head, saturating_heads
from optim.model import load, signature
from pipeline.config import GateConfig, ParityConfig
from pipeline.feeds import (
    Dataset,
    batch_size,
    batches,
    edge_cases,
    free_batch,
    random,
    ranges_of,
    with_shapes,
    zeros,
)
from pipeline.fixed_sizes import fixed_by
from pipeline.parity.answers import DATA_BATCH, answers_of
from pipeline.parity.compare import Contender, Question, Truth, compare_pair, compare_three, evaluate_truth
from pipeline.parity.first_divergence import first_divergence
from pipeline.parity.remembered_truth import RememberedTruth
from pipeline.parity.runtime_choice import RuntimeChoice, choose_optimization, distance
from pipeline.parity.signatures import check_signatures
from pipeline.parity.source_truth import compare_truths
from pipeline.parity.source_truth_words import told
from pipeline.parity.study_data import study_data
from pipeline.records import AccuracyRecord, ComparisonRecord, DivergenceRecord, ParityRecord
from pipeline.sources.contract import Progress, no_progress
from pipeline.sources.float64_values import RunsInFloat64
from targets.contract import Session
from targets.reference import Float64Session, OptimizationLevel, OrtSession


def study(
    source: Session,
    converted: Path,
    optimized: Path,
    dataset: Dataset | None,
    config: ParityConfig,
    progress: Progress = no_progress,
    *,
    threads: int = 1,
    divergence: Path | None = None,
    truth: Float64Session | None = None,
) -> ParityRecord:
    """Compare the source, the converted and the optimised model on all feeds.

    Where they part, the smallest models that show it go to the folder ``divergence``. ``truth``: a float64
    session of the converted model that shows its logits (``truth_of``), where the caller needs one too.

    The converted model runs in ONNX Runtime with its optimisations off; the optimised one at the fastest
    level that stays near the float64 truth.

    Raises:
        UserError: the models' inputs or outputs differ, or the data do not fit or give non-finite results.
    """
    started = time.perf_counter()
    after_passes = load(optimized)
    with _open(converted, "off", threads) as probe:
        specs, names = concrete_specs(probe.inputs, dataset), tuple(o.name for o in probe.outputs)
        specs = fixed_by(specs, signature(after_passes)[0])  # it may take one size only
        check_signatures("source", source, "converted", probe)
        _refuse_text(probe.outputs)
    feeds = synthetic_feeds(specs, config, dataset)
    notices: list[str] = []
    progress("float64", 0.0)
    heads, heads_after = saturating_heads(load(converted)), saturating_heads(after_passes)
    truth_session = truth or truth_of(converted)
    truths = evaluate_truth(truth_session, feeds, heads, notices) if config.float64 else {}
    progress("source", 0.2)
    of_source = answers_of(source, feeds, dataset, specs, lambda _label: None)
    own_truth = None
    if config.float64:
        own_truth, truths = compare_truths(source, feeds, of_source.runs, truths, heads, names)
        notices += told(own_truth)
    choice = _choose(optimized, feeds, truths, of_source.runs, names, config.gate, threads)
    if choice is not None and choice.notice:
        notices.append(choice.notice)
    level = "all" if choice is None else choice.level
    # One after the other: two runtimes hold a large model twice.
    with _open(converted, "off", threads, heads) as session:
        before = answers_of(session, feeds, dataset, specs, lambda x: progress(f"comparing on {x}", 0.4))
    with _open(optimized, level, threads, heads_after) as session:
        check_signatures("converted", before, "optimized", session, names)
        after = answers_of(session, feeds, dataset, specs, lambda x: progress(f"comparing on {x}", 0.6))
    contenders = (Contender("source"), Contender("converted", heads), Contender("optimized", heads_after))
    comparisons: list[ComparisonRecord] = []
    for label in feeds:
        runs = (of_source.runs[label], before.runs[label], after.runs[label])
        comparisons += compare_three(label, names, contenders, runs, truths.get(label), config.gate, notices)
    accuracies: tuple[AccuracyRecord, ...] = ()
    reasons: list[str] = []
    if dataset is not None:
        progress("comparing on the data", 0.85)
        answers, exact = (of_source.data, before.data, after.data), truth_session if truths else None
        rows, accuracies, reasons = study_data(dataset, specs, names, contenders, answers, exact, config.gate)
        comparisons += rows
    found = None
    failed = {c.feed: feeds[c.feed] for c in comparisons if not c.passed and c.feed in feeds}
    if failed and any(c.question == "before_vs_after" and not c.passed for c in comparisons):
        progress("looking for the first divergence", 0.95)
        found = _diverge(load(converted), load(optimized), failed, level, notices, divergence)
    progress("parity", 1.0)
    settings = runtime_settings(before.settings, after.settings, choice, float64=bool(truths))
    seconds = time.perf_counter() - started
    record = summary(comparisons, accuracies, config.gate, settings, notices, reasons, seconds, found)
    return record.model_copy(update={"source_float64": own_truth})


def compare_models(
    a: Session,
    b: Session,
    feeds: Mapping[str, Feeds],
    gate: GateConfig,
    *,
    names: tuple[str, str] = ("a", "b"),
    question: Question = "reference_vs_artefact",
    truth: Float64Session | None = None,
    models: tuple[ir.Model, ir.Model] | None = None,
    folder: Path | None = None,
) -> ParityRecord:
    """Compare two models on given feeds; ``a`` is the reference.

    ``models``: the ONNX graphs behind the two, where there are any: then a failure is traced to its node, and
    the smallest models that show it go to ``folder``.

    Raises:
        UserError: inputs or outputs differ in name, count, dtype or shape; the reference is not finite;
            there are no feeds.
    """
    started = time.perf_counter()
    check_signatures(names[0], a, names[1], b, dtypes=True)
    heads = ({}, {}) if models is None else tuple(saturating_heads(model) for model in models)
    left, right = Contender(names[0], heads[0]), Contender(names[1], heads[1])
    outputs = tuple(o.name for o in b.outputs)
    notices: list[str] = []
    comparisons: list[ComparisonRecord] = []
    truths = evaluate_truth(truth, feeds, heads[0], notices) if truth is not None else {}
    runs = {label: a.run(feed) for label, feed in feeds.items()}
    own_truth = None
    if truth is not None and isinstance(a, RunsInFloat64):
        own_truth, truths = compare_truths(a, feeds, runs, truths, heads[0], outputs)
        notices += told(own_truth)
    for label, feed in feeds.items():
        comparisons += compare_pair(
            question, label, outputs, left, right, runs[label], b.run(feed), gate, truths.get(label)
        )
    settings = {
        f"{n}.{k}": v
        for n, s in zip(names, (a, b), strict=True)
        for k, v in getattr(s, "settings", {}).items()
    }
    failed = {c.feed: feeds[c.feed] for c in comparisons if not c.passed}
    divergence = _diverge(*models, failed, "off", notices, folder) if models is not None and failed else None
    seconds = time.perf_counter() - started
    record = summary(comparisons, (), gate, settings, notices, [], seconds, divergence)
    return record.model_copy(update={"source_float64": own_truth})


def _diverge(
    a: ir.Model,
    b: ir.Model,
    feeds: Mapping[str, Feeds],
    level: OptimizationLevel,
    notices: list[str],
    folder: Path | None,
) -> DivergenceRecord | None:
    """Where the two part; None, with a notice, where that cannot be found out."""
    try:
        found = first_divergence(a, b, feeds, optimization=level, folder=folder)
    except UnsupportedModelError as error:
        notices.append(f"the first divergence cannot be found: {error.what}")
        return None
    if found is None:
        notices.append("no single tensor parts beyond the noise: the difference is spread over the network")
        return None
    return found.record().model_copy(update={"folder": "" if folder is None else str(folder)})


def feeds_for(
    a: Session,
    config: ParityConfig,
    dataset: Dataset | None = None,
    shapes: Mapping[str, tuple[int, ...] | None] | None = None,
) -> dict[str, Feeds]:
    """The feeds of a comparison without a config: synthetic ones, and the data in whole where given.

    ``shapes``: of inputs whose sizes the model leaves free; -1 stays free.
    """
    specs = concrete_specs(with_shapes(a.inputs, shapes or {}), dataset)
    feeds = synthetic_feeds(specs, config, dataset)
    if dataset is not None:
        for batch in batches(dataset, specs, DATA_BATCH):
            feeds[f"data[{batch.start}:{batch.start + batch.count}]"] = batch.feeds
    return feeds


# --- feeds ---------------------------------------------------------------------------------------


def concrete_specs(specs: Sequence[TensorSpec], dataset: Dataset | None) -> tuple[TensorSpec, ...]:
    """Input specs whose free dimensions, but the first, take their sizes from the data."""
    if dataset is None:
        return tuple(specs)
    concrete = []
    for spec in specs:
        array = dataset.feeds.get(spec.name)
        if array is not None and array.ndim == len(spec.shape):
            shape = tuple(
                d if i == 0 or isinstance(d, int) else int(array.shape[i]) for i, d in enumerate(spec.shape)
            )
            spec = replace(spec, shape=shape)  # noqa: PLW2901
        concrete.append(spec)
    return tuple(concrete)


def synthetic_feeds(
    specs: Sequence[TensorSpec], config: ParityConfig, dataset: Dataset | None
) -> dict[str, Feeds]:
    """Zeros and random inputs at each batch size, edge cases at the first."""
    ranges = ranges_of(dataset) if dataset is not None else None
    sizes = config.batch_sizes if free_batch(specs) else (batch_size(specs, 1),)
    feeds: dict[str, Feeds] = {}
    for size in sizes:
        feeds[f"zeros/batch={size}"] = zeros(specs, size)
        for seed in config.seeds:
            feeds[f"random(seed={seed})/batch={size}"] = random(specs, seed, size, ranges)
    feeds |= {f"{k}/batch={sizes[0]}": v for k, v in edge_cases(specs, sizes[0], ranges).items()}
    return feeds


# --- runs ----------------------------------------------------------------------------------------


def truth_of(converted: Path) -> Float64Session:
    """The float64 session of a converted model, its logits shown beside its outputs."""
    return RememberedTruth(converted, expose=[h.logits for h in saturating_heads(load(converted)).values()])


def _refuse_text(outputs: Sequence[TensorSpec]) -> None:
    """Text has no distance: what a label table gives is for whoever reads the class to look up."""
    for one in outputs:
        if one.dtype not in ("", "bfloat16") and np.dtype(one.dtype).kind not in "fiub":
            raise UnsupportedModelError(
                f"output '{one.name}' is text, and parity compares numbers",
                expected="outputs of numbers",
                hint="name the outputs of numbers (model.outputs), such as the scores before the labels",
            )


def _open(
    model: Path, level: OptimizationLevel, threads: int, heads: Mapping[str, Head] = MappingProxyType({})
) -> OrtSession:
    """A session that shows the logits of these heads."""
    logits = [head.logits for head in heads.values()]
    return OrtSession(model, optimization=level, threads=threads, expose=logits, map_weights=True)


def _choose(
    optimized: Path,
    feeds: Mapping[str, Feeds],
    truths: Mapping[str, Truth],
    source_outputs: Mapping[str, Outputs],
    names: Sequence[str],
    gate: GateConfig,
    threads: int,
) -> RuntimeChoice | None:
    usual = {label: f for label, f in feeds.items() if label.startswith(("zeros", "random"))}
    if not usual or any(label not in truths for label in usual):
        return None
    errors = [
        distance(truths[label].outputs, source_outputs[label], truths[label].heads, tuple(names))
        for label in usual
    ]
    return choose_optimization(
        optimized,
        usual,
        {label: truths[label].outputs for label in usual},
        gate,
        source_error=max(errors, default=None),
        threads=threads,
    )


# --- the record ----------------------------------------------------------------------------------


def runtime_settings(
    before: Mapping[str, str], after: Mapping[str, str], choice: RuntimeChoice | None, *, float64: bool
) -> dict[str, str]:
    """What the comparison ran on, so that it can be repeated."""
    settings = {"float64_truth": "numpy" if float64 else "none", "tf32": "not used (CPU)"}
    for name, used in (("converted", before), ("optimized", after)):
        settings |= {f"{name}.{k}": v for k, v in used.items()}
    for entry in choice.levels if choice else ():
        settings[f"optimized.error_at_{entry.level}"] = f"{entry.error:.3g}"
    return settings


def summary(
    comparisons: Sequence[ComparisonRecord],
    accuracies: tuple[AccuracyRecord, ...],
    gate: GateConfig,
    settings: dict[str, str],
    notices: Sequence[str],
    reasons: Sequence[str],
    seconds: float,
    divergence: DivergenceRecord | None = None,
) -> ParityRecord:
    """The record of a study; its metrics are those of the worst comparison.

    Raises:
        UserError: nothing was compared.
    """
    if not comparisons:
        raise UserError(
            "nothing was compared", where="parity", expected="at least one finite output on one input"
        )
    failed = [c for c in comparisons if not c.passed]
    worst = max(failed or comparisons, key=lambda c: c.metrics.max_abs_over_range)
    passed = not failed and not reasons
    return ParityRecord(
        status="ok" if passed else "gate_not_met",
        passed=passed,
        gate=gate.model_dump(),
        comparisons=tuple(comparisons),
        accuracy=accuracies,
        metrics=worst.metrics,
        first_divergence=divergence,
        runtime_settings=settings,
        notices=tuple(dict.fromkeys(notices)),
        reasons=tuple(reasons),
        seconds=seconds,
    )
