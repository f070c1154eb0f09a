"""Stage parity: is it the same model, before and after; and the references that bundles replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from optim.contract import Array, Feeds
from optim.errors import UserError
from optim.model import load
from pipeline.config import GateConfig, ParityConfig
from pipeline.feeds import Dataset, batch_size, load_data, random, ranges_of, zeros
from pipeline.parity.compare import Contender, Question, compare_pair
from pipeline.parity.compare_layers import LayerComparison, compare_layers
from pipeline.parity.study import compare_models, concrete_specs, feeds_for, study
from pipeline.records import ComparisonRecord, ConvertRecord, ParityRecord
from pipeline.sources import convert, open_source
from pipeline.sources.contract import ConvertRequest, Progress
from pipeline.stages.contract import CONVERTED, OPTIMIZED, StageContext
from pipeline.stages.convert import source_request
from targets.catalog import target_named
from targets.contract import Artefact, Session
from targets.manifest import MANIFEST_FILE, integrity_problems, read_manifest
from targets.reference import Float64Session, OrtSession
from targets.references import Reference, save_reference

REFERENCES = "references"
_MOST_EXAMPLES = 16  # of the user's data in a bundle


def execute(context: StageContext) -> ParityRecord:
    """Compare source, converted and optimised model; keep the source's answers as references."""
    config = context.config
    converted = context.done["convert"] / CONVERTED
    optimized = context.done["optimize"] / OPTIMIZED
    request = source_request(config, context.record_of("convert", ConvertRecord))
    with open_source(request) as source:
        dataset = load_data(config, source.inputs)
        record = study(source, converted, optimized, dataset, config.parity, context.progress)
        _keep_references(source, dataset, config.parity, context.out / REFERENCES)
    return record


def _keep_references(source: Session, dataset: Dataset | None, config: ParityConfig, folder: Path) -> None:
    """What the source framework answers to zeros, random input and the first examples."""
    folder.mkdir()
    specs = concrete_specs(source.inputs, dataset)
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
        save_reference(Reference(name, feed, outputs), folder / f"{name}.npz")


@dataclass(frozen=True)
class FileComparison:
    """Two models compared, and their layers where that was asked for."""

    record: ParityRecord
    layers: tuple[LayerComparison, ...] = ()


def compare_files(
    a: ConvertRequest,
    b: ConvertRequest,
    *,
    io: tuple[dict[str, Array], dict[str, Array]] | None,
    gate: GateConfig,
    layers: bool,
    progress: Progress,
) -> FileComparison:
    """Compare any two sources or artefacts; where ``io`` holds expected outputs, both with those too.

    A failure is traced to the first node at which the two part: sources are converted for that.

    Raises:
        UserError: inputs or outputs differ in name, count, dtype or shape.
    """
    with ExitStack() as stack:
        progress("opening", 0.0)
        left, right = stack.enter_context(open_any(a)), stack.enter_context(open_any(b))
        feeds: Mapping[str, Feeds] = {"data": io[0]} if io is not None else feeds_for(left, ParityConfig())
        graphs = [_graph_file(request, stack) for request in (a, b)]
        progress("comparing", 0.4)
        record = compare_models(
            left,
            right,
            feeds,
            gate,
            names=(a.model, b.model),
            truth=stack.enter_context(Float64Session(graphs[0])),
            models=(load(graphs[0]), load(graphs[1])),
        )
        if io is not None and io[1]:
            sessions = ((a.model, left), (b.model, right))
            record = _with_expected(
                record, [_against_expected(name, one, io, gate) for name, one in sessions]
            )
        progress("layers", 0.8)
        found = compare_layers(graphs[0], graphs[1], next(iter(feeds.values()))) if layers else ()
        return FileComparison(record, tuple(found))


def _graph_file(request: ConvertRequest, stack: ExitStack) -> Path:
    """The ONNX file of a model, converted aside where it is none."""
    path = Path(request.model)
    if (path / MANIFEST_FILE).is_file():
        held = [path / name for name in read_manifest(path).artefact.files if name.endswith(".onnx")]
        if held:
            return held[0]
    if path.suffix == ".onnx":
        return path
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="fairlead-parity-")))
    convert(request, folder / "model.onnx")
    return folder / "model.onnx"


def _against_expected(
    name: str, session: Session, io: tuple[dict[str, Array], dict[str, Array]], gate: GateConfig
) -> list[ComparisonRecord]:
    feeds, expected = io
    got = session.run(feeds)
    absent = sorted(expected.keys() - got.keys())
    if absent:
        raise UserError(f"the data hold outputs {absent}", where=name, expected=f"among {sorted(got)}")
    contender = Contender("expected", session)
    model = Contender(name, session)
    question: Question = "reference_vs_artefact"
    return compare_pair(question, "data", tuple(expected), contender, model, expected, got, gate)


def _with_expected(record: ParityRecord, found: Sequence[Sequence[ComparisonRecord]]) -> ParityRecord:
    comparisons = (*record.comparisons, *(one for rows in found for one in rows))
    passed = record.passed and all(one.passed for one in comparisons)
    failed = [one for one in comparisons if not one.passed]
    worst = max(failed or comparisons, key=lambda one: one.metrics.max_abs_over_range)
    status = "ok" if passed else "gate_not_met"
    changes = {"comparisons": comparisons, "passed": passed, "metrics": worst.metrics, "status": status}
    return record.model_copy(update=changes)


def open_any(request: ConvertRequest) -> Session:
    """A session of a source model, an ONNX file, or a bundle."""
    path = Path(request.model)
    if (path / MANIFEST_FILE).is_file():
        return _open_bundle(path)
    if path.suffix == ".onnx":
        return OrtSession(path, optimization="off")
    return open_source(request)


def _open_bundle(folder: Path) -> Session:
    """The artefact of an intact bundle, in its own runtime."""
    manifest = read_manifest(folder)
    problems = integrity_problems(folder, manifest)
    if problems:
        raise UserError("; ".join(problems), where=str(folder), expected="a bundle as it was made")
    artefact = Artefact(manifest.artefact.files, manifest.artefact.options)
    return target_named(manifest.target).open(folder, artefact)
