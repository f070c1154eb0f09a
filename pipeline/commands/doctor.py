"""What works on this machine, and the schema of a config."""

from __future__ import annotations

import json

import typer

from pipeline.commands.options import JsonOption, print_record


def doctor(as_json: JsonOption = False) -> None:
    """What works on this machine, what is missing, and which extra brings it."""
    from pipeline.console import show_doctor
    from pipeline.doctor import diagnose
    from pipeline.progress import reporter

    with reporter().step("doctor") as progress:
        record = diagnose(progress)
    print_record(record.model_dump(mode="json"), as_json, lambda: show_doctor(record))


def schema() -> None:
    """The JSON schema of a config, for editors."""
    from pipeline.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
