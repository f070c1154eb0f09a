"""The command line: thin commands over the API. Nothing heavy is imported until a command needs it.

Results go to standard output, errors and progress to standard error.
Exit codes: 0 done; 1 a gate was not met; 2 wrong input; 3 unsupported model; 4 missing runtime; 70 our bug;
130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands.bench import bench
from pipeline.commands.convert import convert
from pipeline.commands.doctor import doctor, schema
from pipeline.commands.export import export, targets, verify
from pipeline.commands.gate import gate
from pipeline.commands.inspect import inspect
from pipeline.commands.optimize import optimize, passes
from pipeline.commands.parity import parity, record
from pipeline.commands.run import plan, run

if TYPE_CHECKING:
    from optim.errors import FairleadError

app = typer.Typer(
    name="fairlead",
    help="Lead a trained model from its framework to every place it must run, and prove it is the same.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

for _command in (
    run,
    plan,
    convert,
    optimize,
    parity,
    record,
    bench,
    gate,
    export,
    verify,
    inspect,
    doctor,
    schema,
    targets,
    passes,
):
    app.command()(_command)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"fairlead {installed('fairlead')}")
        raise typer.Exit


def main() -> None:
    """Entry point: run a command, turn errors into messages and exit codes."""
    as_json = "--json" in sys.argv
    try:
        app()
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as stop:  # typer turns an interrupt into its exit code
        if stop.code == _INTERRUPTED:
            _interrupted()
        raise
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        sys.exit(_fail(error, as_json))


def _interrupted() -> None:
    typer.echo("Interrupted; finished steps are kept.", err=True)
    sys.exit(_INTERRUPTED)


def _fail(error: Exception, as_json: bool) -> int:
    """Report an error; the exit code."""
    from optim.errors import FairleadError, UserError

    if isinstance(error, OSError) and error.filename is not None:
        error = UserError(error.strerror or "cannot be read or written", where=str(error.filename))
    if not isinstance(error, FairleadError):
        traceback.print_exc()
        typer.echo("This is a bug in fairlead. Please report it with the lines above.", err=True)
        if as_json:
            typer.echo(
                json.dumps({"status": "error", "error": {"kind": "internal error", "what": str(error)}})
            )
        return 70
    typer.echo(f"{error.kind}: {error}", err=True)
    if as_json and error.exit_code != 1:  # a missed gate has printed its record already
        typer.echo(json.dumps({"status": "error", "error": _described(error)}, indent=2))
    return error.exit_code


def _described(error: FairleadError) -> dict[str, Any]:
    fields = {name: value for name, value in vars(error).items() if value not in ("", None)}
    return {"kind": error.kind, "exit_code": error.exit_code, **{k: str(v) for k, v in fields.items()}}


if __name__ == "__main__":
    main()
