"""What a model holds."""

from __future__ import annotations

from pipeline.commands.options import CustomCodeOption, InputsOption, JsonOption, ModelArg, print_record


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
    print_record(record.model_dump(mode="json"), as_json, lambda: show_inspection(record))
