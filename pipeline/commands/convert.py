"""A trained model to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import (
    CustomCodeOption,
    FreezeOption,
    InputsOption,
    JsonOption,
    ModelArg,
    OutputsOption,
    QuietOption,
    print_record,
)


def convert(
    model: ModelArg,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="Where to write.")],
    inputs: InputsOption = None,
    outputs: OutputsOption = None,
    freeze: FreezeOption = [],  # noqa: B006
    opset: Annotated[int, typer.Option(min=13, max=23, help="ONNX opset.")] = 18,
    edge_layout: Annotated[str, typer.Option(help="source, nhwc or nchw.")] = "source",
    graph_factory: Annotated[
        str | None,
        typer.Option(help="module:function that builds a checkpoint's TF1 graph where there is no .meta."),
    ] = None,
    allow_custom_code: CustomCodeOption = False,
    memory_limit_mib: Annotated[
        int | None, typer.Option(min=1, help="Memory limit of the converting process.")
    ] = None,
    time_limit_s: Annotated[float | None, typer.Option(help="Time limit of the converting process.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Convert a trained model to ONNX, checked against its own framework."""
    from pipeline.arguments import convert_request
    from pipeline.console import show_conversion
    from pipeline.progress import reporter
    from pipeline.stages.convert import conversion_record

    request = convert_request(
        model,
        inputs=inputs,
        outputs=outputs,
        freeze=freeze,
        opset=opset,
        edge_layout=edge_layout,
        graph_factory=graph_factory,
        allow_custom_code=allow_custom_code,
        memory_limit_mib=memory_limit_mib,
        time_limit_s=time_limit_s,
    )
    with reporter(quiet=quiet).step("convert") as progress:
        record = conversion_record(request, output, progress)
    print_record(record.model_dump(mode="json"), as_json, lambda: show_conversion(record))
