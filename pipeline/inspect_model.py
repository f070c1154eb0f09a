"""What a model holds, found by converting it aside."""

from __future__ import annotations

import tempfile
from pathlib import Path

from optim.model import load, op_counts
from pipeline.records import LayerRecord, Record, Tensor
from pipeline.sources.contract import ConvertRequest, no_progress
from pipeline.stages.convert import conversion_record


class InspectRecord(Record):
    """Inputs, outputs, layers, ops and weights of one model."""

    status: str = "ok"
    model: str
    format: str
    framework: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: tuple[LayerRecord, ...]
    ops: dict[str, int]
    parameters: int
    weight_bytes: int
    notes: tuple[str, ...]


def inspect_model(request: ConvertRequest) -> InspectRecord:
    """Describe a model of any format.

    Raises:
        UserError, UnsupportedModelError, MissingRuntimeError: as ``fairlead convert`` would.
    """
    with tempfile.TemporaryDirectory(prefix="fairlead-inspect-") as folder:
        output = Path(folder) / "model.onnx"
        done = conversion_record(request, output, no_progress)
        model = load(output)
        ops = dict(sorted(op_counts(model).items(), key=lambda item: (-item[1], item[0])))
        counted = sum(layer.parameters for layer in done.layers)
        weights = (value.const_value for value in model.graph.initializers.values())
        return InspectRecord(
            model=request.model,
            format=done.source_format,
            framework=done.framework,
            inputs=done.inputs,
            outputs=done.outputs,
            layers=done.layers,
            ops=ops,
            parameters=counted or sum(weight.size for weight in weights if weight is not None),
            weight_bytes=done.weight_bytes,
            notes=done.notes,
        )
