"""Stage benchmark: source, converted and optimised model, interleaved in one run; and all beside latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from optim.contract import Feeds, TensorSpec
from optim.errors import UserError
from optim.model import load, save, signature
from pipeline.bench.child import Child
from pipeline.bench.complete import measure_all
from pipeline.bench.contender import Contender, CudaOptions
from pipeline.bench.expectation import compare_with_expected
from pipeline.bench.records import BenchmarkRecord, TuneRecord
from pipeline.bench.tune_model import Subject, tune_model
from pipeline.config import BenchmarkConfig, TuneConfig
from pipeline.feeds import batch_size, load_data, random, ranges_of, zeros
from pipeline.fixed_sizes import fixed_by
from pipeline.records import ConvertRecord, OptimizeRecord
from pipeline.sources.contract import ConvertRequest, Progress
from pipeline.stages.contract import CONVERTED, OPTIMIZED, StageContext
from pipeline.stages.convert import source_request
from pipeline.stages.parity import kept_references
from targets.closeness import Gate
from targets.manifest import MANIFEST_FILE, Manifest, integrity_problems, read_manifest
from targets.onnxruntime import recorded_options
from targets.references import Reference

RACES = "races"  # folder in the store: state of races, which outlives a killed step
Ranges = Mapping[str, tuple[float, float]]


def tuned_file(runtime: str) -> str:
    """Name of the tuned graph that the step leaves for a runtime's bundle."""
    return f"tuned_{runtime}.onnx"


def execute(context: StageContext) -> BenchmarkRecord:
    """Time the contenders that the config names, on random inputs of the data's own range."""
    config = context.config
    settings = config.benchmark
    if settings is None:
        raise UserError("the config skips the benchmark")
    converted = context.done["convert"] / CONVERTED
    models = {"raw": converted, "optimized": context.done["optimize"] / OPTIMIZED}
    inputs = fixed_by(signature(load(converted))[0], signature(load(models["optimized"]))[0])
    dataset = load_data(config, inputs)
    ranges = {} if dataset is None else ranges_of(dataset)
    request = source_request(config, context.record_of("convert", ConvertRecord))
    contenders = swept(
        [
            _source(name, request, settings) if name == "source" else _onnx(name, models[name], settings)
            for name in settings.contenders
        ],
        settings,
    )
    tuner = None if settings.tune is None else _run_tuner(context, settings, models, inputs, ranges)
    record = measure_all(
        contenders, settings, _feeds(inputs, settings, ranges), context.progress, tuner=tuner
    )
    if record.tune is not None:
        for choice in record.tune.choices:
            save(load(Path(choice.contender.model)), context.out / tuned_file(choice.runtime))
    return record


def _run_tuner(
    context: StageContext,
    settings: BenchmarkConfig,
    models: Mapping[str, Path],
    inputs: Sequence[TensorSpec],
    ranges: Ranges,
) -> Callable[[Progress], TuneRecord]:
    """The race of a run: held to the source's own answers, which the parity step kept."""
    wanted = settings.tune or TuneConfig()
    gate = context.config.parity.gate
    recipe = context.record_of("optimize", OptimizeRecord).recipe
    subject = Subject(
        default=_onnx("default", models["optimized"], settings),
        models={"raw": models["raw"], recipe: models["optimized"]},
        raw=models["raw"],
        references=kept_references(context.done["parity"]),
        gate=Gate(gate.max_abs_over_range, gate.snr_db, gate.source_error_factor),  # a bundle's own
        cpu_fallback=settings.allow_cpu_fallback,
    )
    folder = Path(context.config.store).absolute() / RACES
    feeds = _one_feed(inputs, wanted.batch, settings.seed, ranges)
    return lambda progress: tune_model(subject, wanted, feeds, folder, settings.seed, progress)


def benchmark_files(
    requests: Sequence[ConvertRequest],
    settings: BenchmarkConfig,
    progress: Progress,
    *,
    store: Path = Path(".fairlead/store"),
) -> BenchmarkRecord:
    """Time models of any format, and bundles, against each other; all must have the same inputs.

    A bundle runs with the settings in its manifest, and is compared with the latency it expects.

    Raises:
        UserError: a file is missing, the inputs differ, or there is no ONNX model to tune.
    """
    from pipeline.sources import open_source

    contenders: list[Contender] = []
    signatures: dict[str, tuple[TensorSpec, ...]] = {}
    manifests: dict[str, Manifest] = {}
    names = _names([request.model for request in requests])
    for name, request in zip(names, requests, strict=True):
        path = Path(request.model)
        if (path / MANIFEST_FILE).is_file():
            manifests[name] = _intact(path)
            contenders.append(bundle_contender(name, path, manifests[name], settings.device))
            signatures[name] = signature(load(Path(contenders[-1].model)))[0]
        elif path.suffix == ".onnx":
            signatures[name] = signature(load(path))[0]
            contenders += swept([_onnx(name, path, settings)], settings)
        else:
            with open_source(request) as session:
                signatures[name] = session.inputs
            contenders += swept([_source(name, request, settings)], settings)
    first, *others = signatures.items()
    for name, specs in others:
        if {spec.name for spec in specs} != {spec.name for spec in first[1]}:
            raise UserError(
                f"{name} has inputs {sorted(spec.name for spec in specs)}",
                expected=f"those of {first[0]}: {sorted(spec.name for spec in first[1])}",
            )
    feeds = _feeds(first[1], settings, {})
    tuner = None
    if settings.tune is not None:
        tuner = _file_tuner(contenders, settings, first[1], store.absolute() / RACES)
    record = measure_all(contenders, settings, feeds, progress, tuner=tuner)
    found = [
        compare_with_expected(one, manifests[one.contender].benchmark.get("expected", {}), record.host)
        for one in record.results
        if one.contender in manifests
    ]
    return record.model_copy(update={"expectations": tuple(one for one in found if one is not None)})


def bundle_contender(
    name: str, folder: Path, manifest: Manifest, device: Literal["cpu", "cuda"] = "cpu"
) -> Contender:
    """A bundle with the settings that its manifest records; one made for CUDA runs there where that is asked
    for, and on the CPU else.

    Raises:
        UserError: its target is not one that a benchmark runs in place, or its settings are not known.
    """
    if manifest.target != "onnxruntime":
        raise UserError(
            f"a bundle for {manifest.target} is not benchmarked in place",
            where=str(folder),
            expected="a bundle for onnxruntime, or a model file",
        )
    options = recorded_options(manifest.artefact.options)
    on_gpu = options.device == "cuda" == device
    stated = {"layout": options.layout, "tf32": options.tf32, "graph": options.cuda_graph}
    return Contender(
        name=name,
        kind="onnx",
        model=str(folder / manifest.artefact.files[0]),
        optimization=options.optimization if on_gpu else options.level_on_cpu,
        threads=options.threads or _all_cores(),
        allow_spinning=options.allow_spinning,
        io_binding=options.io_binding,
        device="cuda" if on_gpu else "cpu",
        cuda=CudaOptions.model_validate({**stated, "cpu_fallback": options.cpu_fallback}) if on_gpu else None,
    )


def swept(contenders: Sequence[Contender], settings: BenchmarkConfig) -> list[Contender]:
    """Each contender at each number of threads; the first keeps its name."""
    first, *more = settings.thread_counts
    return [
        one if count == first else _with_threads(one, count) for count in (first, *more) for one in contenders
    ]


def _with_threads(one: Contender, threads: int) -> Contender:
    name = f"{one.name}, {threads} thread{'s' if threads != 1 else ''}"
    return one.model_copy(update={"name": name, "threads": threads})


def _file_tuner(
    contenders: Sequence[Contender], settings: BenchmarkConfig, inputs: Sequence[TensorSpec], folder: Path
) -> Callable[[Progress], TuneRecord]:
    """The race of a single file: held to its own unoptimised answers, since there is no source."""
    default = next((one for one in contenders if one.kind == "onnx"), None)
    if default is None:
        raise UserError("there is no ONNX model to tune", hint="`fairlead convert` makes one")
    wanted = settings.tune or TuneConfig()

    def race(progress: Progress) -> TuneRecord:
        size = batch_size(inputs, wanted.batch)
        given = {"zeros": zeros(inputs, size), "random": random(inputs, seed=1, batch=size)}
        with Child(default.model_copy(update={"optimization": "off"})) as child:
            child.open()
            references = tuple(Reference(n, f, child.outputs(f)) for n, f in given.items())
        path = Path(default.model)
        subject = Subject(
            default, {"as given": path}, path, references, Gate(), cpu_fallback=settings.allow_cpu_fallback
        )
        feeds = _one_feed(inputs, wanted.batch, settings.seed, {})
        return tune_model(subject, wanted, feeds, folder, settings.seed, progress)

    return race


def _intact(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    if problems := integrity_problems(folder, manifest):
        raise UserError("; ".join(problems), where=str(folder), expected="a bundle as it was made")
    return manifest


def _all_cores() -> int:
    import psutil

    return psutil.cpu_count(logical=False) or 1


def _names(models: Sequence[str]) -> list[str]:
    """Short names; the path where two files are named alike, numbered where one is given twice."""
    short = [Path(model).name for model in models]
    full = [name if short.count(name) == 1 else model for name, model in zip(short, models, strict=True)]
    return [
        name if full.count(name) == 1 else f"{name} ({full[: index + 1].count(name)})"
        for index, name in enumerate(full)
    ]


def _feeds(inputs: Sequence[TensorSpec], settings: BenchmarkConfig, ranges: Ranges) -> dict[int, Feeds]:
    """Inputs for each batch size; a fixed batch allows its own size only."""
    sizes = dict.fromkeys(batch_size(inputs, wanted) for wanted in settings.batch)
    return {size: _one_feed(inputs, size, settings.seed, ranges) for size in sizes}


def _one_feed(inputs: Sequence[TensorSpec], batch: int, seed: int, ranges: Ranges) -> Feeds:
    return random(inputs, seed=seed, batch=batch_size(inputs, batch), ranges=ranges)


def _source(name: str, request: ConvertRequest, settings: BenchmarkConfig) -> Contender:
    return Contender(
        name=name,
        kind="source",
        model=request.model,
        request=request,
        threads=settings.thread_counts[0],
        allow_spinning=settings.allow_spinning,
    )


def _onnx(name: str, path: Path, settings: BenchmarkConfig) -> Contender:
    return Contender(
        name=name,
        kind="onnx",
        model=str(path),
        threads=settings.thread_counts[0],
        allow_spinning=settings.allow_spinning,
        device=settings.device,
    )
