"""Is it the same model?"""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.options import (
    CustomCodeOption,
    DataOption,
    InputsOption,
    JsonOption,
    OutputsOption,
    QuietOption,
    print_record,
)


def parity(
    a: Annotated[str, typer.Argument(metavar="A", help="Reference: any source or artefact.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What is compared with it.")],
    data: DataOption = None,
    layers: Annotated[bool, typer.Option("--layers", help="Also compare layer by layer.")] = False,
    inputs: InputsOption = None,
    outputs: OutputsOption = None,
    max_abs_over_range: Annotated[float, typer.Option(help="Bound on max|Δ| / range.")] = 2e-5,
    snr_db: Annotated[float, typer.Option(help="Least signal-to-noise ratio, dB.")] = 90.0,
    allow_custom_code: CustomCodeOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Is it the same model? Exit 1 if A and B part."""
    from optim.errors import GateNotMetError
    from pipeline.arguments import convert_request, read_io
    from pipeline.config import GateConfig
    from pipeline.console import show_parity
    from pipeline.progress import reporter
    from pipeline.stages.parity import compare_files

    gate = GateConfig(max_abs_over_range=max_abs_over_range, snr_db=snr_db)
    requests = [
        convert_request(model, inputs=inputs, outputs=outputs, allow_custom_code=allow_custom_code)
        for model in (a, b)
    ]
    io = read_io(data) if data is not None else None
    with reporter(quiet=quiet).step("parity") as progress:
        found = compare_files(requests[0], requests[1], io=io, gate=gate, layers=layers, progress=progress)
    record = found.record
    shown = record.model_dump(mode="json")
    if layers:
        shown["layers"] = [one.model_dump(mode="json") for one in found.layers]
    print_record(shown, as_json, lambda: show_parity(record, found.layers))
    if not record.passed:
        failed = next(one for one in record.comparisons if not one.passed)
        what = f"output {failed.output} on {failed.feed}: {'; '.join(failed.reasons)}"
        raise GateNotMetError(what, where=f"{a} and {b}")
