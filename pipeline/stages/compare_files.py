"""Two models compared on request: any source, artefact or golden file against any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from optim.contract import Array, Feeds
from optim.errors import UserError
from optim.model import load
from pipeline.config import GateConfig, ParityConfig
from pipeline.parity.compare import Contender, Question, compare_pair
from pipeline.parity.compare_layers import (
    LayerComparison,
    as_study_row,
    compare_layers,
    without_counterpart,
)
from pipeline.parity.feature_maps import FeatureMaps, feature_maps, spread
from pipeline.parity.golden import check_golden, is_golden, read_golden
from pipeline.parity.layer_study import CONVERTED, study_layers
from pipeline.parity.study import compare_models, feeds_for
from pipeline.records import ComparisonRecord, LayerStudyRow, ParityRecord
from pipeline.sources import convert
from pipeline.sources.contract import ConvertRequest, Progress, SourceLayer
from pipeline.sources.layer_values import ShowsLayers
from pipeline.sources.warm_child import WarmChild
from pipeline.stages.contract import DIVERGENCE
from pipeline.stages.parity import open_any
from targets.contract import Session
from targets.manifest import MANIFEST_FILE, read_manifest
from targets.reference import Float64Session

_MOST_NAMED = 5
Io = tuple[dict[str, Array], dict[str, Array]]


@dataclass(frozen=True)
class FileComparison:
    """Two models compared, and their layers and pictures where that was asked for."""

    record: ParityRecord
    layers: tuple[LayerComparison, ...] = ()
    maps: tuple[FeatureMaps, ...] = ()


@dataclass(frozen=True)
class _Graph:
    """The ONNX graph behind a model, and its source's layers where it was converted for this."""

    path: Path
    layers: tuple[SourceLayer, ...] = ()


def compare_files(
    a: ConvertRequest,
    b: ConvertRequest,
    *,
    io: Io | None,
    gate: GateConfig,
    layers: bool,
    out: Path,
    progress: Progress,
) -> FileComparison:
    """Compare any two sources or artefacts; where ``io`` holds expected outputs, both with those too.

    A failure is traced to the first node at which the two part (sources are converted for that), and the
    smallest models that show it are written to ``out``. Where either is a golden file, the other one has to
    reproduce what it holds.

    Raises:
        UserError: inputs or outputs differ in name, count, dtype or shape; both are golden files.
    """
    golden = [request for request in (a, b) if is_golden(Path(request.model))]
    if golden:
        return _against_golden(a, b, golden, gate, layers=layers)
    with ExitStack() as stack:
        progress("opening", 0.0)
        warm = [stack.enter_context(WarmChild()) for _ in (a, b)]
        graphs = [_graph_of(one, stack, kept) for one, kept in zip((a, b), warm, strict=True)]
        left, right = (
            stack.enter_context(open_any(one, warm=kept)) for one, kept in zip((a, b), warm, strict=True)
        )
        feeds: Mapping[str, Feeds] = (
            feeds_for(left, ParityConfig(), shapes=a.inputs) if io is None else {"data": io[0]}
        )
        progress("comparing", 0.4)
        record = compare_models(
            left,
            right,
            feeds,
            gate,
            names=(a.model, b.model),
            truth=stack.enter_context(Float64Session(graphs[0].path)),
            models=(load(graphs[0].path), load(graphs[1].path)),
            folder=out / DIVERGENCE,
        )
        if io is not None and io[1]:
            sessions = ((a.model, left), (b.model, right))
            record = _with_expected(
                record, [_against_expected(name, one, io, gate) for name, one in sessions]
            )
        progress("layers", 0.8)
        if not layers:
            return FileComparison(record)
        label, feed = next(((k, v) for k, v in feeds.items() if not k.startswith("zeros")), ("", {}))
        return _with_layers(record, graphs, left, feed, label)


def _against_golden(
    a: ConvertRequest, b: ConvertRequest, golden: Sequence[ConvertRequest], gate: GateConfig, *, layers: bool
) -> FileComparison:
    """The one model against the references that the other file holds."""
    if len(golden) == 2:
        raise UserError("both are golden files", where=f"{a.model} and {b.model}", expected="one model")
    if layers:
        raise UserError(
            "a golden file holds inputs and outputs, no layers", where=golden[0].model, hint="drop --layers"
        )
    model = b if golden[0] is a else a
    with open_any(model) as session:
        record = check_golden(session, read_golden(Path(golden[0].model)), gate, name=model.model)
    return FileComparison(record)


def _with_layers(
    record: ParityRecord, graphs: Sequence[_Graph], source: Session, feed: Feeds, label: str
) -> FileComparison:
    """The layers of both graphs as a stream; of a source that shows its own, those beside them."""
    rows: list[LayerComparison] = []
    studied: list[LayerStudyRow] = []
    maps: list[FeatureMaps] = []
    own = graphs[0].layers
    if own and isinstance(source, ShowsLayers):
        drawn = spread(len(own))
        for index, one in enumerate(study_layers(source, own, graphs[0].path, graphs[1].path, feed)):
            studied.append(one.row)
            picture = feature_maps(one.row.layer, one.values, CONVERTED) if index in drawn else None
            maps += [picture] if picture is not None else []
    pictures: list[FeatureMaps] = []
    for row in compare_layers(graphs[0].path, graphs[1].path, feed, pictures=pictures):
        rows.append(row)
        if not own:
            studied.append(as_study_row(row))
    chosen = maps or [pictures[i] for i in sorted(spread(len(pictures)))]
    notices = (*record.notices, *_missing(graphs))
    record = record.model_copy(update={"layers": tuple(studied), "layers_feed": label, "notices": notices})
    return FileComparison(record, tuple(rows), tuple(chosen))


def _missing(graphs: Sequence[_Graph]) -> tuple[str, ...]:
    """A line on the layers that only the first graph has."""
    absent = without_counterpart(graphs[0].path, graphs[1].path)
    if not absent:
        return ()
    shown = ", ".join(absent[:_MOST_NAMED]) + (", ..." if len(absent) > _MOST_NAMED else "")
    count = f"{len(absent)} tensor{'s' if len(absent) > 1 else ''} of the first model"
    return (f"{count} without a counterpart in the second: {shown}",)


def _graph_of(request: ConvertRequest, stack: ExitStack, warm: WarmChild) -> _Graph:
    """The ONNX file of a model, converted aside where it is none."""
    path = Path(request.model)
    if (path / MANIFEST_FILE).is_file():
        held = [path / name for name in read_manifest(path).artefact.files if name.endswith(".onnx")]
        if held:
            return _Graph(held[0])
    if path.suffix == ".onnx":
        return _Graph(path)
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="fairlead-parity-")))
    done = convert(request, folder / "model.onnx", warm=warm)
    return _Graph(folder / "model.onnx", done.layers)


def _against_expected(name: str, session: Session, io: Io, gate: GateConfig) -> list[ComparisonRecord]:
    feeds, expected = io
    got = session.run(feeds)
    absent = sorted(expected.keys() - got.keys())
    if absent:
        raise UserError(f"the data hold outputs {absent}", where=name, expected=f"among {sorted(got)}")
    contender = Contender("expected")
    model = Contender(name)
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
