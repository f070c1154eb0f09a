"""The command line: thin commands over the API. Nothing heavy is imported until a command needs it.

Results go to standard output, errors and progress to standard error.
Exit codes: 0 done; 1 a gate was not met; 2 wrong input; 3 unsupported model; 4 missing runtime; 70 our bug;
130 interrupted.
"""

from __future__ import annotations

import errno
import json
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
from pipeline.commands.options import Printed
from pipeline.commands.parity import parity, record
from pipeline.commands.run import plan, run
from pipeline.interrupts import remember_interrupts
from pipeline.standard_output import discard_output, open_closed_streams

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
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

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
    open_closed_streams()
    remember_interrupts()
    try:
        app()
    except KeyboardInterrupt:
        _interrupted(as_json)
    except SystemExit as stop:  # typer turns an interrupt into its exit code
        if stop.code == _INTERRUPTED:
            _interrupted(as_json)
        misuse = stop.__context__  # what typer has shown on standard error
        if isinstance(misuse, BrokenPipeError):  # `fairlead --help | head -1`
            sys.exit(0)
        message = getattr(misuse, "format_message", None)
        if as_json and message is not None:
            _print_error({"kind": "usage error", "exit_code": stop.code, "what": message()})
        raise
    except Exception as error:
        sys.exit(_fail(error, as_json))


def _interrupted(as_json: bool) -> None:
    typer.echo("Interrupted; finished steps are kept.", err=True)
    if as_json and not Printed.record:
        _print_error({"kind": "interrupted", "exit_code": _INTERRUPTED, "what": "interrupted"})
    sys.exit(_INTERRUPTED)


def _fail(error: Exception, as_json: bool) -> int:
    """Report an error; the exit code."""
    from optim.errors import FairleadError, UserError

    if isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK_FULL):
        error = UserError(error.strerror or "cannot be read or written", where=str(error.filename or ""))
    if not isinstance(error, FairleadError):
        traceback.print_exc()
        typer.echo("This is a bug in fairlead. Please report it with the lines above.", err=True)
        if as_json:
            _print_error({"kind": "internal error", "exit_code": 70, "what": str(error)})
        return 70
    typer.echo(f"{error.kind}: {error}", err=True)
    if as_json and not Printed.record:  # a missed gate stands in the record that was printed before it
        _print_error(_described(error))
    return error.exit_code


def _described(error: FairleadError) -> dict[str, Any]:
    fields = {
        name: value if isinstance(value, int) else str(value)
        for name, value in vars(error).items()
        if value not in ("", None) and not name.startswith("_")  # typer leaves a mark of its own there
    }
    return {"kind": error.kind, "exit_code": error.exit_code, **fields}


def _print_error(described: dict[str, Any]) -> None:
    try:
        typer.echo(json.dumps({"status": "error", "error": described}, indent=2))
    except OSError:  # nobody reads it, or no room for it: the exit code remains
        discard_output()


if __name__ == "__main__":
    main()
