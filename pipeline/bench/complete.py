"""A benchmark with all that is reported beside latency: where the time goes, scenarios, tuning, CUDA."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from optim.contract import Feeds
from optim.errors import MissingRuntimeError
from pipeline.bench.contender import Contender
from pipeline.bench.cuda.libraries import why_no_gpu
from pipeline.bench.cuda.measure import hello
from pipeline.bench.cuda.models import measure_models
from pipeline.bench.cuda.process import Stations
from pipeline.bench.dissect import dissect_all
from pipeline.bench.records import BenchmarkRecord, CudaRecord, TuneRecord
from pipeline.bench.scenarios import run_scenarios
from pipeline.bench.study import benchmark
from pipeline.config import BenchmarkConfig
from pipeline.sources.contract import Progress, no_progress


def measure_all(
    contenders: Sequence[Contender],
    settings: BenchmarkConfig,
    feeds_by_batch: Mapping[int, Feeds],
    progress: Progress = no_progress,
    *,
    tuner: Callable[[Progress], TuneRecord] | None = None,
) -> BenchmarkRecord:
    """Everything that ``settings`` ask for, one after the other, so that nothing disturbs anything.

    What goes deeper than latency is done at the first batch size.

    Raises:
        UserError: no contender is left.
        MissingRuntimeError: CUDA was asked for and there is none; nothing is measured in its place.
        GateNotMetError: a node of a CUDA run fell back to the CPU, and that is not allowed.
    """
    begin = time.perf_counter()
    on_gpu, why_not = settings.device == "cuda", why_no_gpu()
    if on_gpu and not why_not:  # asked of a child: a CUDA context here would stay until the end
        with Stations() as stations:
            why_not = hello(stations)["why_not"]
    if on_gpu and why_not:
        raise MissingRuntimeError(
            f"CUDA was not measured: {why_not}", hint="use --device cpu on this machine"
        )
    record = benchmark(contenders, settings, feeds_by_batch, _between(progress, 0.0, 0.5))
    batch, feeds = next(iter(feeds_by_batch.items()))
    latencies = {r.contender: r.latency_ms for r in record.results if r.batch == batch}
    # In a sweep over threads, what goes deeper looks at the first number only.
    first = [c for c in contenders if c.name in latencies and c.threads == contenders[0].threads]
    changes: dict[str, object] = {}
    if settings.profile:
        changes["dissections"] = dissect_all(
            first,
            feeds,
            batch=batch,
            latencies_ms=latencies,
            with_roofline=settings.roofline,
            allow_fallback=settings.allow_cpu_fallback,
            progress=_between(progress, 0.5, 0.65),
        )
    if settings.loads:
        found, failed = run_scenarios(
            first,
            settings.loads,
            feeds,
            batch=batch,
            latencies_ms=latencies,
            most_seconds=max(settings.min_duration_s, 1.0),
            progress=_between(progress, 0.65, 0.75),
        )
        changes |= {"scenarios": found, "skipped": (*record.skipped, *failed)}
    if tuner is not None:
        changes["tune"] = tuner(_between(progress, 0.75, 1.0))
    if on_gpu:
        models = dict.fromkeys(c.model for c in contenders if c.kind == "onnx")
        changes["cuda"] = measure_models(
            list(models),
            feeds_by_batch,
            cpu_fallback=settings.allow_cpu_fallback,
            progress=_between(progress, 0.75, 1.0),
        )
    else:
        reason = why_not or "the benchmark was asked for on the CPU"
        changes["cuda"] = CudaRecord(status="not measured", reason=reason)
    return record.model_copy(update={**changes, "seconds": time.perf_counter() - begin})


def _between(progress: Progress, start: float, end: float) -> Progress:
    """Progress of a part within the whole."""

    def show(text: str, fraction: float) -> None:
        progress(text, start + fraction * (end - start))

    return show
