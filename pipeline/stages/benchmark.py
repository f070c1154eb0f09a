"""Stage benchmark: source framework, converted and optimised model, interleaved in one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from optim.contract import Feeds, TensorSpec
from optim.errors import UserError
from optim.model import load, signature
from pipeline.bench.contender import Contender
from pipeline.bench.study import benchmark
from pipeline.config import BenchmarkConfig
from pipeline.feeds import batch_size, load_data, random, ranges_of
from pipeline.records import BenchmarkRecord, ConvertRecord
from pipeline.sources.contract import ConvertRequest, Progress
from pipeline.stages.contract import CONVERTED, OPTIMIZED, StageContext
from pipeline.stages.convert import source_request


def execute(context: StageContext) -> BenchmarkRecord:
    """Time the contenders that the config names, on random inputs of the data's own range."""
    config = context.config
    settings = config.benchmark
    if settings is None:
        raise UserError("the config skips the benchmark")
    converted = context.done["convert"] / CONVERTED
    inputs, _outputs = signature(load(converted))
    dataset = load_data(config, inputs)
    ranges = {} if dataset is None else ranges_of(dataset)
    request = source_request(config, context.record_of("convert", ConvertRecord))
    models = {"raw": converted, "optimized": context.done["optimize"] / OPTIMIZED}
    contenders = [
        _source(name, request, settings) if name == "source" else _onnx(name, models[name], settings)
        for name in settings.contenders
    ]
    return benchmark(contenders, settings, _feeds(inputs, settings, ranges), context.progress)


def benchmark_files(
    requests: Sequence[ConvertRequest], settings: BenchmarkConfig, progress: Progress
) -> BenchmarkRecord:
    """Time models of any format against each other; all must have the same inputs.

    Raises:
        UserError: a file is missing, or the inputs differ.
    """
    from pipeline.sources import open_source

    contenders = []
    signatures: dict[str, tuple[TensorSpec, ...]] = {}
    names = _names([request.model for request in requests])
    for name, request in zip(names, requests, strict=True):
        path = Path(request.model)
        if path.suffix == ".onnx":
            signatures[name] = signature(load(path))[0]
            contenders.append(_onnx(name, path, settings))
        else:
            with open_source(request) as session:
                signatures[name] = session.inputs
            contenders.append(_source(name, request, settings))
    first, *others = signatures.items()
    for name, specs in others:
        if {spec.name for spec in specs} != {spec.name for spec in first[1]}:
            raise UserError(
                f"{name} has inputs {sorted(spec.name for spec in specs)}",
                expected=f"those of {first[0]}: {sorted(spec.name for spec in first[1])}",
            )
    return benchmark(contenders, settings, _feeds(first[1], settings, {}), progress)


def _names(models: Sequence[str]) -> list[str]:
    """Short names; the path where two files are named alike, numbered where one is given twice."""
    short = [Path(model).name for model in models]
    full = [name if short.count(name) == 1 else model for name, model in zip(short, models, strict=True)]
    return [
        name if full.count(name) == 1 else f"{name} ({full[: index + 1].count(name)})"
        for index, name in enumerate(full)
    ]


def _feeds(
    inputs: Sequence[TensorSpec], settings: BenchmarkConfig, ranges: Mapping[str, tuple[float, float]]
) -> dict[int, Feeds]:
    """Inputs for each batch size; a fixed batch allows its own size only."""
    sizes = dict.fromkeys(batch_size(inputs, wanted) for wanted in settings.batch)
    return {size: random(inputs, seed=settings.seed, batch=size, ranges=ranges) for size in sizes}


def _source(name: str, request: ConvertRequest, settings: BenchmarkConfig) -> Contender:
    return Contender(
        name=name,
        kind="source",
        model=request.model,
        request=request,
        threads=settings.threads,
        allow_spinning=settings.allow_spinning,
    )


def _onnx(name: str, path: Path, settings: BenchmarkConfig) -> Contender:
    return Contender(
        name=name,
        kind="onnx",
        model=str(path),
        threads=settings.threads,
        allow_spinning=settings.allow_spinning,
    )
