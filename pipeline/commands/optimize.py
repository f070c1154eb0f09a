"""Certified rewrites of a graph, and the list of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import DataOption, JsonOption, QuietOption, print_record


def optimize(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="Where to write.")],
    recipe: Annotated[str, typer.Option(help="A recipe from `fairlead passes`.")] = "canonical",
    passes: Annotated[
        str | None, typer.Option(help="Your own ordered list instead: 'fold_constants,...'.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write what each pass did.")
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Rewrite a graph with certified passes."""
    from pipeline.arguments import read_io
    from pipeline.console import show_ledger
    from pipeline.progress import reporter
    from pipeline.stages.optimize import optimize_file
    from pipeline.store import write_atomically

    names = tuple(name.strip() for name in passes.split(",")) if passes else None
    supplied = read_io(data)[0] if data is not None else None
    with reporter(quiet=quiet).step("optimize") as progress:
        record = optimize_file(
            model, output, recipe=recipe, passes=names, supplied=supplied, progress=progress
        )
    shown = record.model_dump(mode="json", by_alias=True)
    if ledger is not None:
        write_atomically(ledger, json.dumps(shown, indent=2))
    print_record(shown, as_json, lambda: show_ledger(record))


def passes(as_json: JsonOption = False) -> None:
    """Graph passes with their declared numerics, and the recipes."""
    from pipeline.console import show_passes
    from pipeline.stages.optimize import list_passes

    found = list_passes()
    print_record({"status": "ok", **found}, as_json, lambda: show_passes(found))
