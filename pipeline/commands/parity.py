"""Is it the same model?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import (
    CustomCodeOption,
    DataOption,
    FreezeOption,
    InputsOption,
    JsonOption,
    ModelArg,
    OutputsOption,
    QuietOption,
    print_record,
)


def parity(
    a: Annotated[
        str, typer.Argument(metavar="A", help="Reference: any source, artefact or golden file (.h5, .npz).")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="What is compared with it.")],
    data: DataOption = None,
    layers: Annotated[bool, typer.Option("--layers", help="Also compare layer by layer.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for a page with layers, pictures and verdicts. Where the models part, the smallest "
            "models that show it go to DIR/divergence, or parity-out/divergence without this option.",
        ),
    ] = None,
    inputs: InputsOption = None,
    outputs: OutputsOption = None,
    freeze: FreezeOption = [],  # noqa: B006  (typer reads the default, nobody writes to it)
    max_abs_over_range: Annotated[float, typer.Option(help="Bound on max|Δ| / range.")] = 2e-5,
    snr_db: Annotated[float, typer.Option(help="Least signal-to-noise ratio, dB.")] = 90.0,
    allow_custom_code: CustomCodeOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Is it the same model? Exit 1 if A and B part."""
    from optim.errors import GateNotMetError
    from pipeline.arguments import convert_request, read_io, settings_from_options
    from pipeline.config import GateConfig
    from pipeline.console import show_parity
    from pipeline.progress import reporter
    from pipeline.report.parity_page import render_parity
    from pipeline.stages.compare_files import compare_files

    gate = settings_from_options(GateConfig, max_abs_over_range=max_abs_over_range, snr_db=snr_db)
    requests = [
        convert_request(
            model, inputs=inputs, outputs=outputs, freeze=freeze, allow_custom_code=allow_custom_code
        )
        for model in (a, b)
    ]
    io = read_io(data) if data is not None else None
    with reporter(quiet=quiet).step("parity") as progress:
        found = compare_files(
            *requests,
            io=io,
            gate=gate,
            layers=layers,
            out=out or Path("parity-out"),
            progress=progress,
        )
    record = found.record
    shown = record.model_dump(mode="json")
    if layers:
        shown["source_layers"] = shown["layers"]
        shown["layers"] = [one.model_dump(mode="json") for one in found.layers]
    if out is not None:
        shown["report"] = str(render_parity(record, found.maps, out, f"{a} and {b}"))
    print_record(shown, as_json, lambda: show_parity(record, found.layers))
    if not record.passed:
        failed = next(one for one in record.comparisons if not one.passed)
        what = f"output {failed.output} on {failed.feed}: {'; '.join(failed.reasons)}"
        raise GateNotMetError(what, where=f"{a} and {b}")


def record(
    model: ModelArg,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="REFS.h5", help="Where to write: .h5, .hdf5 or .npz.")
    ],
    inputs: InputsOption = None,
    outputs: OutputsOption = None,
    freeze: FreezeOption = [],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, help="Of the random input.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Examples in each input.")] = 1,
    allow_custom_code: CustomCodeOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Record a model's answers as a golden file, to compare with where its framework is not.

    On a machine without this package, `record_reference.py` does the same with TensorFlow and NumPy alone.
    """
    from pipeline.arguments import convert_request
    from pipeline.console import show_golden
    from pipeline.progress import reporter
    from pipeline.stages.record import record_golden

    request = convert_request(
        model, inputs=inputs, outputs=outputs, freeze=freeze, allow_custom_code=allow_custom_code
    )
    with reporter(quiet=quiet).step("record") as progress:
        found = record_golden(request, output, seed=seed, batch=batch, progress=progress)
    print_record(found.model_dump(mode="json"), as_json, lambda: show_golden(found))
