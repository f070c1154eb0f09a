"""The whole way, and what it would do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import ConfigArg, JsonOption, QuietOption, SetOption, print_record


def run(
    config: ConfigArg,
    overrides: SetOption = [],  # noqa: B006  (typer reads the default, nobody writes to it)
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for results.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """The whole way: convert, optimize, parity, benchmark, export, report."""
    from pipeline.console import show_run
    from pipeline.execute import require_ok
    from pipeline.execute import run as execute
    from pipeline.progress import reporter

    record = execute(config, overrides=overrides, out=out, reporter=reporter(quiet=quiet))
    print_record(record.model_dump(mode="json"), as_json, lambda: show_run(record))
    require_ok(record)


def plan(config: ConfigArg, overrides: SetOption = [], as_json: JsonOption = False) -> None:  # noqa: B006
    """What would run, what the store already has, and why a step must run again."""
    from pipeline.console import show_plan
    from pipeline.load_config import load_config
    from pipeline.plan import explain, make_plan
    from pipeline.store import Store

    loaded = load_config(config, overrides)
    states = explain(make_plan(loaded), Store(Path(loaded.store).absolute()), loaded.name)
    steps = [{"name": s.step.name, "key": s.step.key, "cached": s.cached, "reason": s.reason} for s in states]
    print_record({"status": "ok", "name": loaded.name, "steps": steps}, as_json, lambda: show_plan(states))
