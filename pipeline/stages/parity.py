"""Stage parity: is it the same model, before and after; and the references that bundles replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from optim.contract import Feeds, TensorSpec
from optim.errors import UnsupportedModelError, UserError
from optim.model import load, signature
from pipeline.config import ParityConfig
from pipeline.feeds import Dataset, batch_size, load_data, random, ranges_of, zeros
from pipeline.fixed_sizes import fixed_by
from pipeline.parity.run_layers import with_layers
from pipeline.parity.study import concrete_specs, study, truth_of
from pipeline.records import ConvertRecord, ParityRecord
from pipeline.sources import open_source
from pipeline.sources.contract import ConvertRequest
from pipeline.sources.warm_child import WarmChild
from pipeline.stages.contract import CONVERTED, DIVERGENCE, OPTIMIZED, StageContext
from pipeline.stages.convert import source_request
from targets.catalog import target_named
from targets.contract import Artefact, Session
from targets.manifest import MANIFEST_FILE, integrity_problems, read_manifest
from targets.reference import Float64Session, OrtSession
from targets.references import Reference, load_reference, load_truth, save_reference, save_truth

REFERENCES = "references"
TRUTH = "truth"
_MOST_EXAMPLES = 16  # of the user's data in a bundle


def execute(context: StageContext) -> ParityRecord:
    """Compare source, converted and optimised model; keep the source's answers as references."""
    config = context.config
    converted = context.done["convert"] / CONVERTED
    optimized = context.done["optimize"] / OPTIMIZED
    request = source_request(config, context.record_of("convert", ConvertRecord))
    with open_source(request, warm=context.warm) as source:
        dataset = load_data(config, source.inputs)
        truth = truth_of(converted) if config.parity.float64 else None
        record = study(
            source,
            converted,
            optimized,
            dataset,
            config.parity,
            context.progress,
            divergence=context.out / DIVERGENCE,
            truth=truth,
        )
        specs = fixed_by(concrete_specs(source.inputs, dataset), signature(load(optimized))[0])
        _keep_references(source, specs, truth, dataset, config.parity, context.out)
        if config.parity.layers:
            layers = context.record_of("convert", ConvertRecord).layers
            record = with_layers(
                record, source, layers, (converted, optimized), dataset, config.parity, context.out
            )
    return record


def kept_references(done: Path) -> tuple[Reference, ...]:
    """The references that the stage left in ``done``, with their float64 outputs where there are any."""
    return tuple(_kept(file) for file in sorted((done / REFERENCES).glob("*.npz")))


def _kept(file: Path) -> Reference:
    truth = file.parent.with_name(TRUTH) / file.name
    return replace(load_reference(file), truth=load_truth(truth) if truth.is_file() else {})


def _keep_references(
    source: Session,
    specs: Sequence[TensorSpec],
    truth: Float64Session | None,
    dataset: Dataset | None,
    config: ParityConfig,
    out: Path,
) -> None:
    """What the source framework, and float64, answer to zeros, random input and the first examples."""
    for folder in (REFERENCES, TRUTH):
        (out / folder).mkdir()
    ranges = None if dataset is None else ranges_of(dataset)
    size = batch_size(specs, 1)
    feeds: dict[str, Feeds] = {"zeros": zeros(specs, size)}
    feeds |= {f"random_{seed}": random(specs, seed, size, ranges) for seed in config.seeds}
    if dataset is not None:
        count = batch_size(specs, min(_MOST_EXAMPLES, dataset.examples))
        if count <= dataset.examples:
            feeds["data"] = {
                name: array if name in dataset.shared else array[:count]
                for name, array in dataset.feeds.items()
            }
    for name, feed in feeds.items():
        outputs = {key: np.asarray(value) for key, value in source.run(feed).items()}
        reference = with_truth(Reference(name, feed, outputs), truth)
        save_reference(reference, out / REFERENCES / f"{name}.npz")
        if reference.truth:
            save_truth(reference, out / TRUTH / f"{name}.npz")


def with_truth(reference: Reference, session: Float64Session | None) -> Reference:
    """The reference with its outputs in float64, where the graph has a float64 run."""
    if session is None:
        return reference
    try:
        with np.errstate(all="ignore"):
            exact = session.run(reference.feeds)
    except UnsupportedModelError:  # parity says so in a notice
        return reference
    shown = {name: exact[name] for name in reference.outputs if name in exact}
    return replace(reference, truth={k: v for k, v in shown.items() if v.dtype.kind == "f"})


def open_any(request: ConvertRequest, *, warm: WarmChild | None = None) -> Session:
    """A session of a source model (in the child that ``warm`` kept of it), an ONNX file or a bundle."""
    path = Path(request.model)
    if (path / MANIFEST_FILE).is_file():
        return _open_bundle(path)
    if path.suffix == ".onnx":
        return OrtSession(path, optimization="off")
    return open_source(request, warm=warm)


def _open_bundle(folder: Path) -> Session:
    """The artefact of an intact bundle, in its own runtime."""
    manifest = read_manifest(folder)
    problems = integrity_problems(folder, manifest)
    if problems:
        raise UserError("; ".join(problems), where=str(folder), expected="a bundle as it was made")
    artefact = Artefact(manifest.artefact.files, manifest.artefact.options)
    return target_named(manifest.target).open(folder, artefact)
