"""Stage export: a bundle for one target, proved before it is put in place; and its later verification."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from optim.contract import Array
from optim.errors import UserError
from optim.model import load
from pipeline.bench.host import environment
from pipeline.bench.records import TunedChoice
from pipeline.config import Config, GateConfig
from pipeline.feeds import batch_size, random, zeros
from pipeline.parity.layer_map import layer_map
from pipeline.parity.study_data import FLOAT64_EXAMPLES
from pipeline.parity.target_axes import axes_of
from pipeline.probes import in_parallel, target_probes
from pipeline.records import (
    BenchmarkRecord,
    BundleRecord,
    ConvertRecord,
    LayerPlaceRecord,
    LayerRecord,
    OptimizeRecord,
    ParityRecord,
)
from pipeline.sources.contract import ConvertRequest, Progress, no_progress
from pipeline.sources.warm_child import WarmChild
from pipeline.stages.benchmark import tuned_file
from pipeline.stages.calibration import calibration_of
from pipeline.stages.contract import BUNDLE, CONVERTED, OPTIMIZED, StageContext
from pipeline.stages.convert import conversion_record
from pipeline.stages.optimize import optimize_file
from pipeline.stages.parity import kept_references, open_any, with_truth
from pipeline.stages.test_set import raw_test_set
from pipeline.stages.trace_layers import trace_layers
from pipeline.stages.tuned_settings import choice_for_bundle, expected_of, with_choice
from targets.bundle import Bundle, BundleSpec, BundleVerdict, verify_bundle, write_bundle
from targets.calibration import Calibration
from targets.catalog import TARGETS, target_named
from targets.closeness import Gate
from targets.contract import State, Target
from targets.litert import DATA
from targets.preprocessing import Preprocessing
from targets.reference import Float64Session
from targets.references import Reference

_SHIPPED_TOOLS = (
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "tf2onnx",
)


def execute(context: StageContext) -> BundleRecord:
    """Write the bundle of the target that the step is named after."""
    begin = time.perf_counter()
    config = context.config
    name = context.step.removeprefix("export ")
    chosen = next(target for target in config.targets if target.name == name)
    context.progress("building", 0.1)
    spec = _spec(context, target_named(name), chosen.options)
    bundle = write_bundle(spec, context.out / BUNDLE)
    context.progress("proved", 1.0)
    return _record(bundle, time.perf_counter() - begin).model_copy(update={"path": BUNDLE})


def _spec(context: StageContext, target: Target, given: Mapping[str, object]) -> BundleSpec:
    config = context.config
    converted = context.record_of("convert", ConvertRecord)
    optimized = context.record_of("optimize", OptimizeRecord)
    parity = context.record_of("parity", ParityRecord)
    measured = context.record_of("benchmark", BenchmarkRecord) if "benchmark" in context.done else None
    choice = choice_for_bundle(None if measured is None else measured.tune, target.name, given)
    options = _options(context, target.name, given, choice)
    graph = _graph(context, choice)
    references = kept_references(context.done["parity"])
    return BundleSpec(
        name=config.name,
        model=graph,
        target=target,
        references=references,
        options=options,
        gate=_gate(config.parity.gate),
        preprocessing=_preprocessing(config),
        labels=_labels(config),
        description=config.description,
        licences=_licences(config.bundle.licence),
        signing_key=None if config.bundle.signing_key is None else config.resolve(config.bundle.signing_key),
        provenance=_provenance(config.model.path, converted, optimized),
        parity={
            "gate": parity.gate,
            "worst": parity.metrics.model_dump(mode="json"),
            "accuracy": [one.model_dump(mode="json") for one in parity.accuracy],
            "comparisons": len(parity.comparisons),
        },
        benchmark=_benchmark(measured, choice, options),
        hardware=environment(),
        versions=_versions(),
        layers=_layers(converted.layers, context.done["convert"] / CONVERTED, graph),
        test_set=raw_test_set(config) if options.get("test_set") is True else None,
        calibration=_calibration(context, options, references),
        trace=trace_layers(context) if options.get("layer_checks") is True else None,
    )


def _layers(
    layers: Sequence[LayerRecord], converted: Path, built_from: Path
) -> tuple[dict[str, object], ...]:
    """The source's layers, each with its padding in numbers and the tensors of the graph that carry it."""
    rows = layer_map(layers, load(converted), load(built_from))
    return tuple(
        {
            **layer.model_dump(mode="json"),
            "padding_in_numbers": row.padding_after or row.padding_before,
            "tensors": list(row.tensors_after),
        }
        for layer, row in zip(layers, rows, strict=True)
    )


def _calibration(
    context: StageContext, options: Mapping[str, object], references: Sequence[Reference]
) -> Calibration | None:
    """Examples for a target that quantises, unless the user names some."""
    if options.get("precision") != "int8" or options.get("calibration"):
        return None
    judged = sum(_examples(one) for one in references if one.name == DATA)
    return calibration_of(context.config, context.done["optimize"] / OPTIMIZED, judged)


def _graph(context: StageContext, choice: TunedChoice | None) -> Path:
    """The optimised graph, or the one that won this bundle's race; the bundle's references prove either."""
    if choice is not None:
        return context.done["benchmark"] / tuned_file(choice.runtime)
    return context.done["optimize"] / OPTIMIZED


def _options(
    context: StageContext, target: str, given: Mapping[str, object], choice: TunedChoice | None
) -> dict[str, object]:
    """The user's options; then what the race found best, else the optimisation that parity was shown for."""
    options = with_choice(given, choice)
    level = context.record_of("parity", ParityRecord).runtime_settings.get("optimized.optimization")
    if target == "onnxruntime" and level is not None:
        options.setdefault("optimization", level)
        if options.get("device") == "cuda":
            options.setdefault("cpu_optimization", level)
    return options


def export_model(
    request: ConvertRequest,
    target: str,
    output: Path,
    *,
    recipe: str,
    options: Mapping[str, object],
    labels: Path | None,
    io: tuple[dict[str, Array], dict[str, Array]] | None,
    progress: Progress,
    licence: str | None = None,
    signing_key: Path | None = None,
) -> BundleRecord:
    """Bundle one model of any format: converted, optimised with ``recipe``, and held to the source's answers.

    The references are zeros, random input and ``io``; what ``io`` expects stands in for the source's answer.

    Raises:
        UserError: the model, labels or arrays do not fit.
        UnsupportedModelError: the model cannot be converted, or the target cannot express it.
    """
    begin = time.perf_counter()
    chosen = target_named(target)
    names = None if labels is None else _read_labels(labels)
    with TemporaryDirectory(prefix="fairlead-export-") as folder, WarmChild() as warm:
        raw, optimized = Path(folder) / CONVERTED, Path(folder) / OPTIMIZED
        progress("convert", 0.1)
        converted = conversion_record(request, raw, progress, warm=warm)
        progress("optimize", 0.3)
        supplied = None if io is None else io[0]
        rewritten = optimize_file(raw, optimized, recipe=recipe, supplied=supplied, progress=progress)
        progress("references", 0.5)
        spec = BundleSpec(
            name=output.name,
            model=optimized,
            target=chosen,
            references=_references(replace(request, outputs=_names(converted)), io, warm, raw),
            options=options,
            gate=_gate(GateConfig()),
            labels=names,
            licences=_licences(licence),
            signing_key=signing_key,
            provenance=_provenance(request.model, converted, rewritten),
            hardware=environment(),
            versions=_versions(),
            layers=_layers(converted.layers, raw, optimized),
        )
        progress("building", 0.6)
        bundle = write_bundle(spec, output)
    return _record(bundle, time.perf_counter() - begin)


def _names(converted: ConvertRecord) -> tuple[str, ...]:
    return tuple(tensor.name for tensor in converted.outputs)


def _references(
    request: ConvertRequest,
    io: tuple[dict[str, Array], dict[str, Array]] | None,
    warm: WarmChild,
    converted: Path,
) -> tuple[Reference, ...]:
    """What the source itself, and float64, answer to zeros, random input and the user's arrays."""
    with open_any(request, warm=warm) as source:
        batch = batch_size(source.inputs, 1)
        feeds = {"zeros": zeros(source.inputs, batch), "random_0": random(source.inputs, 0, batch)}
        found = [Reference(name, feed, source.run(feed)) for name, feed in feeds.items()]
        if io is not None:
            given, expected = io
            found.append(Reference("data", given, expected or source.run(given)))
    exact = Float64Session(converted)
    return tuple(with_truth(one, exact if _examples(one) <= FLOAT64_EXAMPLES else None) for one in found)


def _examples(reference: Reference) -> int:
    return max((array.shape[0] for array in reference.feeds.values() if array.ndim), default=1)


def _provenance(model: str, converted: ConvertRecord, optimized: OptimizeRecord) -> dict[str, Any]:
    ledger = optimized.model_dump(mode="json", by_alias=True)["ledger"]
    return {
        "model": Path(model).name,
        "source_format": converted.source_format,
        "framework": converted.framework,
        "converted_sha256": converted.sha256,
        "optimized_sha256": optimized.sha256,
        "recipe": optimized.recipe,
        "frozen": [one.model_dump(mode="json") for one in converted.frozen],
        "notes": list(converted.notes),
        "ledger": [_ledger_line(line) for line in ledger],
    }


def _licences(licence: str | None) -> dict[str, str]:
    return {} if licence is None else {"model": licence}


def verify_folder(folder: Path, public_key: Path | None = None, *, device: str | None = None) -> BundleRecord:
    """Replay a bundle's references on this machine; with a key, the signature must be its owner's.

    Where a runtime is missing the record's status is ``not_executed``: not all was proved that the bundle is
    made for. ``device`` asks for that of one device alone.

    Raises:
        UserError: there is no bundle at ``folder``, or nothing in it is made for ``device``.
    """
    begin = time.perf_counter()
    verdict = verify_bundle(folder, public_key=public_key, device=device)
    record = _verdict_record(verdict, folder, time.perf_counter() - begin)
    if verdict.state is not State.PRODUCED:
        return record
    return record.model_copy(update={"status": "not_executed", "hint": verdict.hint})


def list_targets(progress: Progress = no_progress) -> list[dict[str, Any]]:
    """Targets with their state on this machine, for ``fairlead targets``; each runtime is really started."""
    tried = in_parallel(target_probes(), progress).values()
    known = {name: one for group in tried for name, one in group.items()}
    return [
        {
            "name": name,
            "state": "verifiable" if known[name].available else "produced, not executed",
            "needs": known[name].needs,
            "detail": known[name].detail,
            "summary": known[name].summary,
        }
        for name in TARGETS
    ]


# --- pieces --------------------------------------------------------------------------------------


def _record(bundle: Bundle, seconds: float) -> BundleRecord:
    checks = {"layers": "layers_compared", "predictions": "predictions", "notes": "notes"}
    found = {field: bundle.artefact.options.get(key, ()) for field, key in checks.items()}
    record = _verdict_record(bundle.verdict, bundle.path, seconds)
    places = tuple(_place(one) for one in bundle.layers)
    named = any(place.target for place in places)
    return BundleRecord.model_validate({**record.model_dump(), **found, "layer_map": places if named else ()})


def _place(layer: Mapping[str, Any]) -> LayerPlaceRecord:
    """Where one source layer stands in the target, with the axes of its weights there."""
    sources = [tuple(shape) for _, shape in layer["weights"]]
    target = [
        {**one, "axes": [axes_of(sources, tuple(shape)) for _, shape in one["weights"]]}
        for one in layer["target"]
    ]
    return LayerPlaceRecord.model_validate({"layer": layer["name"], "target": target})


def _verdict_record(verdict: BundleVerdict, path: Path | None, seconds: float) -> BundleRecord:
    not_executed = (verdict.detail,) if verdict.state is State.PRODUCED and verdict.detail else ()
    return BundleRecord(
        status="failed" if verdict.state is State.FAILED or verdict.problems else "ok",
        target=verdict.target,
        state=verdict.state,
        path="" if path is None else str(path),
        artefacts=verdict.artefacts,
        max_abs_over_range=verdict.max_abs_over_range,
        snr_db=verdict.snr_db,
        error=None if verdict.error is None else verdict.error.artefact,
        source_error=None if verdict.error is None else verdict.error.source,
        error_multiple=None if verdict.error is None else verdict.error.multiple,
        reasons=verdict.problems or not_executed,
        not_executed=verdict.not_executed,
        seconds=seconds,
    )


def _gate(gate: GateConfig) -> Gate:
    return Gate(gate.max_abs_over_range, gate.snr_db, gate.source_error_factor)


def _preprocessing(config: Config) -> Preprocessing:
    given = config.data.preprocess
    return Preprocessing(scale=given.scale, mean=given.mean, std=given.std)


def _labels(config: Config) -> tuple[str, ...] | None:
    return None if config.data.label_names is None else _read_labels(config.resolve(config.data.label_names))


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except FileNotFoundError:
        raise UserError("label file does not exist", where=str(path)) from None
    except UnicodeDecodeError:
        raise UserError(
            "label file is not UTF-8 text", where=str(path), expected="one class name a line"
        ) from None


def _ledger_line(line: dict[str, Any]) -> dict[str, Any]:
    kept = (
        "pass",
        "why",
        "numerics",
        "sites",
        "refusals",
        "rolled_back",
        "nodes_before",
        "nodes_after",
        "certificate",
    )
    return {name: line[name] for name in kept}


def _benchmark(
    record: BenchmarkRecord | None, choice: TunedChoice | None, options: Mapping[str, object]
) -> dict[str, Any]:
    if record is None:
        return {}
    keys = {"contender", "device", "batch", "threads", "latency_ms", "interval_ms", "samples", "grade"}
    expected: dict[str, Any] = {}
    if record.tune is not None and choice is not None:
        expected = expected_of(record.tune, choice, options, record.host)
    return {
        "results": [one.model_dump(mode="json", include=keys) for one in record.results],
        "comparisons": [one.model_dump(mode="json") for one in record.comparisons],
        "expected": expected,
    }


def _versions(tools: Sequence[str] = _SHIPPED_TOOLS) -> dict[str, str]:
    found = {}
    for tool in ("fairlead", *tools):
        try:
            found[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
