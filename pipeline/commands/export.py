"""Bundles: written, checked again, and the targets there are."""

from __future__ import annotations

from enum import StrEnum
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


class Device(StrEnum):
    """Where a bundle is verified."""

    CPU = "cpu"
    CUDA = "cuda"


def export(
    model: ModelArg,
    target: Annotated[str, typer.Option(help="A name from `fairlead targets`.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the bundle.")],
    options: Annotated[
        list[str], typer.Option("--option", metavar="K=V", help="A target's option; repeatable.")
    ] = [],  # noqa: B006
    labels: Annotated[Path | None, typer.Option(help="Text file, one class name a line.")] = None,
    data: DataOption = None,
    inputs: InputsOption = None,
    outputs: OutputsOption = None,
    freeze: FreezeOption = [],  # noqa: B006
    recipe: Annotated[str, typer.Option(help="A recipe from `fairlead passes`.")] = "canonical",
    licence: Annotated[str | None, typer.Option(help="The model's licence, an SPDX expression.")] = None,
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY.pem", help="Private elliptic-curve key to sign with.")
    ] = None,
    allow_custom_code: CustomCodeOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a deployable bundle for a target and check it there."""
    from pipeline.arguments import convert_request, key_values, read_io
    from pipeline.console import show_bundle
    from pipeline.progress import reporter
    from pipeline.stages.export import export_model

    request = convert_request(
        model, inputs=inputs, outputs=outputs, freeze=freeze, allow_custom_code=allow_custom_code
    )
    io = read_io(data) if data is not None else None
    with reporter(quiet=quiet).step(f"export {target}") as progress:
        record = export_model(
            request,
            target,
            output,
            recipe=recipe,
            options=key_values(options),
            labels=labels,
            io=io,
            progress=progress,
            licence=licence,
            signing_key=sign,
        )
    print_record(record.model_dump(mode="json"), as_json, lambda: show_bundle(record))
    hint = "options of more precision, or another target; nothing was written"
    _require_bundle(record.status, record.reasons, str(output), hint)


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    public_key: Annotated[
        Path | None, typer.Option(metavar="KEY.pem", help="The bundle must be signed with its private key.")
    ] = None,
    device: Annotated[
        Device | None,
        typer.Option(help="Judge on it alone: cpu, where a bundle for a GPU has none."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay a bundle's references on this machine.

    Exit 1 if a byte, a file or an output is off; 4 if a runtime or GPU is missing that the bundle is for, so
    that not everything was proved.
    """
    from pipeline.console import show_bundle
    from pipeline.stages.export import verify_folder

    record = verify_folder(bundle, public_key, device=None if device is None else device.value)
    print_record(record.model_dump(mode="json"), as_json, lambda: show_bundle(record))
    if record.status == "not_executed":
        from optim.errors import MissingRuntimeError

        part = "the model was not executed"
        if record.max_abs_over_range is not None:
            part = "not all that it is made for was executed"
        raise MissingRuntimeError(
            f"the files are intact, but {part}: {'; '.join(record.not_executed)}",
            where=str(bundle),
            hint=record.hint or "`fairlead targets` says what brings the runtime",
        )
    hint = "do not deploy it as it is: copy it once more, or export it again"
    _require_bundle(record.status, record.reasons, str(bundle), hint)


def targets(as_json: JsonOption = False) -> None:
    """Targets, their state on this machine, and what would make them verifiable."""
    from pipeline.console import show_targets
    from pipeline.progress import reporter
    from pipeline.stages.export import list_targets

    with reporter().step("targets") as progress:
        found = list_targets(progress)
    print_record({"status": "ok", "targets": found}, as_json, lambda: show_targets(found))


def _require_bundle(status: str, reasons: tuple[str, ...], where: str, hint: str) -> None:
    from optim.errors import GateNotMetError, UnsupportedModelError

    if status == "unsupported":
        raise UnsupportedModelError(
            "; ".join(reasons), where=where, hint="`fairlead targets` lists what else there is"
        )
    if status != "ok":
        raise GateNotMetError("; ".join(reasons), where=where, hint=hint)
