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
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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


class Device(StrEnum):
    """Where a benchmark runs."""

    CPU = "cpu"
    CUDA = "cuda"


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


@app.command()
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
    _print(record.model_dump(mode="json"), as_json, lambda: show_run(record))
    require_ok(record)


@app.command()
def plan(config: ConfigArg, overrides: SetOption = [], as_json: JsonOption = False) -> None:  # noqa: B006
    """What would run, what the store already has, and why a step must run again."""
    from pipeline.console import show_plan
    from pipeline.load_config import load_config
    from pipeline.plan import explain, make_plan
    from pipeline.store import Store

    loaded = load_config(config, overrides)
    states = explain(make_plan(loaded), Store(Path(loaded.store).absolute()), loaded.name)
    steps = [{"name": s.step.name, "key": s.step.key, "cached": s.cached, "reason": s.reason} for s in states]
    _print({"status": "ok", "name": loaded.name, "steps": steps}, as_json, lambda: show_plan(states))


@app.command()
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
        int | None, typer.Option(help="Memory limit of the converting process.")
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
    _print(record.model_dump(mode="json"), as_json, lambda: show_conversion(record))


@app.command()
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
    _print(shown, as_json, lambda: show_ledger(record))


@app.command()
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
    _print(shown, as_json, lambda: show_parity(record, found.layers))
    if not record.passed:
        failed = next(one for one in record.comparisons if not one.passed)
        what = f"output {failed.output} on {failed.feed}: {'; '.join(failed.reasons)}"
        raise GateNotMetError(what, where=f"{a} and {b}")


@app.command()
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
    _print(record.model_dump(mode="json"), as_json, lambda: show_benchmark(record))


@app.command()
def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX model.")],
    target: Annotated[str, typer.Option(help="A name from `fairlead targets`.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the bundle.")],
    options: Annotated[
        list[str], typer.Option("--option", metavar="K=V", help="A target's option; repeatable.")
    ] = [],  # noqa: B006
    labels: Annotated[Path | None, typer.Option(help="Text file, one class name a line.")] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a deployable bundle for a target and check it there."""
    from pipeline.arguments import key_values, read_io
    from pipeline.console import show_bundle
    from pipeline.progress import reporter
    from pipeline.stages.export import export_file

    io = read_io(data) if data is not None else None
    with reporter(quiet=quiet).step(f"export {target}") as progress:
        record = export_file(
            model, target, output, options=key_values(options), labels=labels, io=io, progress=progress
        )
    _print(record.model_dump(mode="json"), as_json, lambda: show_bundle(record))
    _require_bundle(record.status, record.reasons, str(output))


@app.command()
def verify(bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")], as_json: JsonOption = False) -> None:
    """Replay a bundle's references on this machine; exit 1 if a byte, a file or an output is off."""
    from pipeline.console import show_bundle
    from pipeline.stages.export import verify_folder

    record = verify_folder(bundle)
    _print(record.model_dump(mode="json"), as_json, lambda: show_bundle(record))
    _require_bundle(record.status, record.reasons, str(bundle))


@app.command()
def inspect(
    model: ModelArg,
    inputs: InputsOption = None,
    allow_custom_code: CustomCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """What a model holds: inputs, outputs, layers, ops, weights."""
    from pipeline.arguments import convert_request
    from pipeline.console import show_inspection
    from pipeline.inspect_model import inspect_model

    record = inspect_model(convert_request(model, inputs=inputs, allow_custom_code=allow_custom_code))
    _print(record.model_dump(mode="json"), as_json, lambda: show_inspection(record))


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """What works on this machine, what is missing, and which extra brings it."""
    from pipeline.console import show_doctor
    from pipeline.doctor import diagnose

    record = diagnose()
    _print(record.model_dump(mode="json"), as_json, lambda: show_doctor(record))


@app.command()
def schema() -> None:
    """The JSON schema of a config, for editors."""
    from pipeline.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def targets(as_json: JsonOption = False) -> None:
    """Targets, their state on this machine, and what would make them verifiable."""
    from pipeline.console import show_targets
    from pipeline.stages.export import list_targets

    found = list_targets()
    _print({"status": "ok", "targets": found}, as_json, lambda: show_targets(found))


@app.command()
def passes(as_json: JsonOption = False) -> None:
    """Graph passes with their declared numerics, and the recipes."""
    from pipeline.console import show_passes
    from pipeline.stages.optimize import list_passes

    found = list_passes()
    _print({"status": "ok", **found}, as_json, lambda: show_passes(found))


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


def _print(content: dict[str, Any], as_json: bool, show: Any) -> None:
    if as_json:
        typer.echo(json.dumps(content, indent=2, default=str, allow_nan=False))
    else:
        show()


def _require_bundle(status: str, reasons: tuple[str, ...], where: str) -> None:
    from optim.errors import GateNotMetError, UnsupportedModelError

    if status == "unsupported":
        raise UnsupportedModelError(
            "; ".join(reasons), where=where, hint="`fairlead targets` lists what else there is"
        )
    if status != "ok":
        raise GateNotMetError(
            "; ".join(reasons), where=where, hint="the bundle must not be deployed as it is"
        )


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
