"""Which is faster, by how much, how sure?"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from pipeline.commands.options import InputsOption, JsonOption, QuietOption, print_record


class Device(StrEnum):
    """Where a benchmark runs."""

    CPU = "cpu"
    CUDA = "cuda"


def bench(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Models or artefacts, interleaved.")
    ],
    device: Annotated[Device, typer.Option(help="cpu or cuda.")] = Device.CPU,
    batch: Annotated[list[int], typer.Option(min=1, help="Batch size; repeatable.")] = [1],  # noqa: B006
    threads: Annotated[int, typer.Option(min=1, help="Intra-op threads.")] = 1,
    min_duration_s: Annotated[float, typer.Option(help="Least measured time per model and batch.")] = 2.0,
    min_samples: Annotated[int, typer.Option(min=5, help="Least timed runs per model and batch.")] = 100,
    inputs: InputsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure latency, interleaved in one run, with intervals and a grade of trust."""
    from pipeline.arguments import convert_request
    from pipeline.config import BenchmarkConfig
    from pipeline.console import show_benchmark
    from pipeline.progress import reporter
    from pipeline.stages.benchmark import benchmark_files

    settings = BenchmarkConfig(
        device=device.value,
        batch=tuple(batch),
        threads=threads,
        min_duration_s=min_duration_s,
        max_duration_s=max(30.0, 4 * min_duration_s),
        min_samples=min_samples,
    )
    requests = [convert_request(model, inputs=inputs) for model in models]
    with reporter(quiet=quiet).step("benchmark") as progress:
        record = benchmark_files(requests, settings, progress)
    print_record(record.model_dump(mode="json"), as_json, lambda: show_benchmark(record))
