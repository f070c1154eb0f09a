"""Which is faster, by how much, how sure?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import InputsOption, JsonOption, QuietOption, print_record


class Device(StrEnum):
    """Where a benchmark runs."""

    CPU = "cpu"
    CUDA = "cuda"


class Load(StrEnum):
    """LoadGen's scenarios."""

    SINGLE_STREAM = "single_stream"
    MULTI_STREAM = "multi_stream"
    OFFLINE = "offline"
    SERVER = "server"


def bench(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Models or bundles, interleaved in one run.")
    ],
    device: Annotated[Device, typer.Option(help="cpu or cuda.")] = Device.CPU,
    batch: Annotated[list[int], typer.Option(min=1, help="Batch size; repeatable.")] = [1],  # noqa: B006
    threads: Annotated[list[int], typer.Option(min=1, help="Intra-op threads; repeatable.")] = [1],  # noqa: B006
    scenario: Annotated[list[Load], typer.Option(help="A load to put on; repeatable.")] = [],  # noqa: B006
    sessions: Annotated[int, typer.Option(min=1, help="Concurrent sessions of a scenario.")] = 1,
    rate_per_s: Annotated[
        float | None, typer.Option(metavar="PER_S", help="Queries a second offered to a server.")
    ] = None,
    bound_ms: Annotated[
        float | None,
        typer.Option(
            metavar="MS", help="Bound on a server's p99; the highest rate that keeps it is searched."
        ),
    ] = None,
    queries: Annotated[
        int, typer.Option(min=1, help="Queries of a scenario, as its time allows; batches of offline.")
    ] = 1000,
    streams: Annotated[int, typer.Option(min=1, help="Samples of one multi_stream query.")] = 8,
    profile: Annotated[
        bool, typer.Option(help="Per-op profile, placement proof and roofline of each ONNX model.")
    ] = False,
    tune: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Race settings for the first ONNX model, for so long."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Exit 1 when worse than this earlier run, beyond the interval."),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --against: JUnit XML for a CI system.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Keep the record, for --against.")] = None,
    allow_cpu_fallback: Annotated[
        bool, typer.Option("--allow-cpu-fallback", help="Accept nodes on the CPU in a CUDA run.")
    ] = False,
    min_duration_s: Annotated[float, typer.Option(help="Least measured time per model and batch.")] = 2.0,
    min_samples: Annotated[int, typer.Option(min=5, help="Least timed runs per model and batch.")] = 100,
    inputs: InputsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure latency, interleaved in one run, with intervals and a grade of trust."""
    from pipeline.arguments import convert_request, settings_from_options
    from pipeline.commands.gate import against_baseline, require_no_regression
    from pipeline.config import BenchmarkConfig, ScenarioConfig, TuneConfig
    from pipeline.console import show_benchmark, show_gate
    from pipeline.progress import reporter
    from pipeline.stages.benchmark import benchmark_files
    from pipeline.store import write_atomically

    _check_options(tune, against, junit)
    load = {
        "sessions": sessions,
        "rate_per_s": rate_per_s,
        "bound_ms": bound_ms,
        "queries": queries,
        "streams": streams,
    }
    settings = settings_from_options(
        BenchmarkConfig,
        device=device.value,
        batch=tuple(batch),
        threads=tuple(threads),
        min_duration_s=min_duration_s,
        max_duration_s=max(30.0, 4 * min_duration_s),
        min_samples=min_samples,
        scenarios=tuple(settings_from_options(ScenarioConfig, name=one.value, **load) for one in scenario),
        profile=profile or device is Device.CUDA,  # a CUDA run without a proof of placement proves nothing
        roofline=profile,
        tune=None if tune is None else TuneConfig(budget_s=tune),
        allow_cpu_fallback=allow_cpu_fallback,
    )
    requests = [convert_request(model, inputs=inputs) for model in models]
    with reporter(quiet=quiet).step("benchmark") as progress:
        record = benchmark_files(requests, settings, progress)
    if out is not None:
        write_atomically(out, record.model_dump_json(indent=1))
    found = None if against is None else against_baseline(record, against, junit)
    content = record.model_dump(mode="json")
    if found is not None:
        content |= {"status": found.status, "gate": found.model_dump(mode="json")}

    def show() -> None:
        show_benchmark(record)
        if found is not None:
            show_gate(found)

    print_record(content, as_json, show)
    if found is not None and against is not None:
        require_no_regression(found, against)


def _check_options(tune: float | None, against: Path | None, junit: Path | None) -> None:
    """What is wrong with them should not cost a measurement first."""
    from optim.errors import UserError
    from pipeline.bench.baseline import read_benchmark

    if tune is not None and tune <= 0:
        raise UserError(f"--tune {tune} allows nothing", expected="more than 0 seconds")
    if junit is not None and against is None:
        raise UserError("--junit reports a comparison", expected="--against RUN beside it")
    if against is not None:
        read_benchmark(against)
