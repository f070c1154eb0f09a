"""Arguments and options that several commands share, and how a command prints its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.standard_output import discard_output

ConfigArg = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML config.")]
ModelArg = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="SavedModel folder, .keras, .h5, TF1 checkpoint prefix or .meta, frozen .pb, .tflite, .onnx, "
        "or python:module:factory.",
    ),
]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="K=V", help="Override a config key; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the record as JSON on standard output.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
InputsOption = Annotated[
    str | None,
    typer.Option("--inputs", metavar="SPEC", help="Input shapes: 'name[1,224,224,3],other[1,10]'."),
]
OutputsOption = Annotated[
    str | None, typer.Option("--outputs", metavar="NAMES", help="Output tensors: 'a:0,b:0'.")
]
FreezeOption = Annotated[
    list[str],
    typer.Option("--freeze", metavar="NAME=VALUE", help="Replace a placeholder by a constant; repeatable."),
]
CustomCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-custom-code", help="Run Python code that the model stores or names. Only if trusted."
    ),
]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="IO.npz", help="Arrays with keys in|NAME, out|NAME.")
]


class Printed:
    """What this process has put on standard output: an error after a record must not print a second one."""

    record = False


def print_record(content: dict[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    """The record as JSON, or as its tables, on standard output."""
    Printed.record = True
    if not as_json:
        show()
        return
    text = json.dumps(content, indent=2, default=str, allow_nan=False)
    try:
        typer.echo(text)
    except BrokenPipeError:  # the reader has left; a missed gate must still be told by the exit code
        discard_output()
