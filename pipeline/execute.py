"""The whole way: plan, execute against the store, report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from optim.errors import GateNotMetError
from pipeline.config import Config
from pipeline.interrupts import stop_if_interrupted
from pipeline.load_config import load_config
from pipeline.parity.verdict import summaries
from pipeline.plan import Step, StepState, explain, make_plan, remember
from pipeline.progress import Reporter, Silent
from pipeline.records import (
    BenchmarkRecord,
    BundleRecord,
    ConvertRecord,
    OptimizeRecord,
    ParityRecord,
    ParitySummary,
    Record,
    RunRecord,
    StepRecord,
)
from pipeline.sources.warm_child import WarmChild
from pipeline.stages.catalog import stage_named
from pipeline.stages.contract import BUNDLE, DIVERGENCE, RECORD_FILE, StageContext, read_record
from pipeline.store import Store, replace_folder, write_atomically
from targets.contract import State

_Kind = TypeVar("_Kind", bound=Record)


@dataclass
class _Progressed:
    """What a run has behind it."""

    folders: dict[str, Path] = field(default_factory=dict)
    steps: list[StepRecord] = field(default_factory=list)
    warm: WarmChild = field(default_factory=WarmChild)

    def record(self, step: str, kind: type[_Kind]) -> _Kind:
        return read_record(self.folders[step], kind)


def run(
    config: Config | Path | str,
    *,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    reporter: Reporter | None = None,
) -> RunRecord:
    """Take a model the whole way.

    Args:
        config: a config, or the path of a config file.
        overrides: ``key.sub=value`` strings, only with a path.
        out: folder for results; default ``<config.out>/<config.name>``.
        reporter: shows progress; default silent.

    Returns:
        The record; ``status`` is ``gate_not_met`` when a parity gate was missed, and then no bundle is
        written.

    Raises:
        UserError, UnsupportedModelError, MissingRuntimeError: see ``optim.errors``.
    """
    started = datetime.now(UTC)
    begin = time.perf_counter()
    config = config if isinstance(config, Config) else load_config(Path(config), overrides)
    reporter = reporter or Silent()
    store = Store(Path(config.store).absolute())
    out = (out or Path(config.out) / config.name).absolute()
    steps = make_plan(config)
    states = explain(steps, store, config.name)
    done = _Progressed()
    with done.warm:
        for state in states:
            if state.step.stage == "export" and not done.record("parity", ParityRecord).passed:
                continue  # never a bundle of a model that is not the same
            _execute(state, store, config, done, reporter)
    stop_if_interrupted()
    remember(steps, store, config.name)
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.parent / f".{out.name}.lock"):
        bundles = _place_bundles(steps, done, out)
        _place_divergence(done.folders["parity"], out)
        record = _record(config, started, time.perf_counter() - begin, done, bundles, out)
        return _report(record, config, out, reporter, done.folders["parity"])


def _execute(state: StepState, store: Store, config: Config, done: _Progressed, reporter: Reporter) -> None:
    stop_if_interrupted()
    step = state.step
    begin = time.perf_counter()

    def produce(folder: Path) -> None:
        with reporter.step(step.name) as progress:
            context = StageContext(step.name, config, dict(done.folders), folder, progress, done.warm)
            record = stage_named(step.stage)(context)
            write_atomically(folder / RECORD_FILE, record.model_dump_json(indent=1))

    entry, cached = store.ensure(step.key, produce)
    if cached:
        reporter.cached(step.name)
    done.folders[step.name] = entry.path
    reason = state.reason if state.cached or not cached else "another run has just done it"
    seconds = 0.0 if cached else time.perf_counter() - begin
    done.steps.append(StepRecord(name=step.name, key=step.key, cached=cached, reason=reason, seconds=seconds))


def _place_bundles(steps: Sequence[Step], done: _Progressed, out: Path) -> tuple[BundleRecord, ...]:
    """Copy bundles out of the store; remove those that this run does not stand behind."""
    folder = out / "bundles"
    records = []
    for step in steps:
        if step.stage != "export" or step.name not in done.folders:
            continue
        record = done.record(step.name, BundleRecord)
        source = done.folders[step.name] / BUNDLE
        target = folder / record.target
        if source.is_dir():
            replace_folder(source, target)
        records.append(record.model_copy(update={"path": str(target) if source.is_dir() else ""}))
    kept = {Path(record.path).name for record in records if record.path}
    for stale in folder.iterdir() if folder.is_dir() else ():
        if stale.name not in kept:
            shutil.rmtree(stale)
    return tuple(records)


def _place_divergence(parity: Path, out: Path) -> None:
    """Copy the smallest models that part out of the store; remove those of an earlier run."""
    target = out / DIVERGENCE
    if (parity / DIVERGENCE).is_dir():
        replace_folder(parity / DIVERGENCE, target)
    elif target.is_dir():
        shutil.rmtree(target)


def _with_folder(parity: ParityRecord, out: Path) -> ParityRecord:
    """The divergence's folder as it stands in the results."""
    found = parity.first_divergence
    if found is None or not found.folder:
        return parity
    moved = found.model_copy(update={"folder": str(out / DIVERGENCE)})
    return parity.model_copy(update={"first_divergence": moved})


def _record(
    config: Config,
    started: datetime,
    seconds: float,
    done: _Progressed,
    bundles: tuple[BundleRecord, ...],
    out: Path,
) -> RunRecord:
    from pipeline.bench.host import environment

    convert = done.record("convert", ConvertRecord)
    optimize = done.record("optimize", OptimizeRecord)
    parity = done.record("parity", ParityRecord)
    benchmark = done.record("benchmark", BenchmarkRecord) if "benchmark" in done.folders else None
    good = parity.passed and all(bundle.status == "ok" for bundle in bundles)
    return RunRecord(
        status="ok" if good else "gate_not_met",
        name=config.name,
        started=started.isoformat(timespec="seconds"),
        seconds=seconds,
        steps=tuple(done.steps),
        convert=convert.model_copy(update={"output": str(done.folders["convert"] / convert.output)}),
        optimize=optimize.model_copy(update={"output": str(done.folders["optimize"] / optimize.output)}),
        parity_detail=_with_folder(parity, out),
        parity=_summaries(parity, bundles),
        benchmark=benchmark,
        bundles=bundles,
        environment=environment(),
        config=config.model_dump(mode="json"),
        out=str(out),
        report=str(out / "report.html"),
    )


def _summaries(parity: ParityRecord, bundles: tuple[BundleRecord, ...]) -> tuple[ParitySummary, ...]:
    """One line a question; none of a bundle that was not executed as it is made for, a GPU's on the CPU."""
    compared = [
        one
        for one in bundles
        if one.max_abs_over_range is not None and one.snr_db is not None and one.state is not State.PRODUCED
    ]
    artefacts = (
        ParitySummary(
            question=f"reference_vs_artefact:{one.target}",
            passed=one.status == "ok",
            worst_max_abs_over_range=one.max_abs_over_range or 0.0,
            worst_snr_db=one.snr_db if one.snr_db is not None else 0.0,
            error_multiple=one.error_multiple,
        )
        for one in compared
    )
    return (*summaries(parity), *artefacts)


def _report(record: RunRecord, config: Config, out: Path, reporter: Reporter, parity: Path) -> RunRecord:
    from optim.model import load
    from pipeline.parity.feature_maps import read_feature_maps
    from pipeline.parity.layer_map import layer_map
    from pipeline.parity.run_layers import FEATURE_MAPS
    from pipeline.report import render

    with reporter.step("report") as progress:
        progress("layer map", 0.1)
        rows = layer_map(
            record.convert.layers, load(Path(record.convert.output)), load(Path(record.optimize.output))
        )
        progress("page", 0.4)
        maps = read_feature_maps(parity / FEATURE_MAPS)
        render(record, rows, out, config.report, maps)
    return record


def require_ok(record: RunRecord) -> None:
    """Turn a missed gate into the error that the command line exits with.

    Raises:
        GateNotMetError: naming the first comparison that failed.
    """
    if record.status == "ok":
        return
    failed = [one for one in record.parity_detail.comparisons if not one.passed]
    first = failed[0] if failed else None
    bundle = next((one for one in record.bundles if one.status != "ok"), None)
    if first is not None:
        what = f"{first.question} on {first.feed}, output {first.output}: {'; '.join(first.reasons)}"
    elif not record.parity_detail.passed:
        what = "accuracy or class agreement on the data is below the gate"
    else:
        what = f"bundle {bundle.target}: {'; '.join(bundle.reasons)}" if bundle else "a gate was not met"
    raise GateNotMetError(what, where=record.name, hint=f"open {record.report}")
