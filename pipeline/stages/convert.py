"""Stage convert: the source model to ONNX, checked against its own framework."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from optim.contract import TensorSpec
from pipeline.config import Config
from pipeline.records import ConvertRecord, FrozenInput, LayerRecord, SourceParityRecord, Tensor
from pipeline.sources import convert
from pipeline.sources.contract import Conversion, ConvertRequest, Progress
from pipeline.sources.warm_child import WarmChild
from pipeline.stages.contract import CONVERTED, StageContext


def execute(context: StageContext) -> ConvertRecord:
    """Convert the config's model into the step's folder."""
    request, out = request_of(context.config), context.out / CONVERTED
    record = conversion_record(request, out, context.progress, warm=context.warm)
    return record.model_copy(update={"output": CONVERTED})


def conversion_record(
    request: ConvertRequest, output: Path, progress: Progress, *, warm: WarmChild | None = None
) -> ConvertRecord:
    """Convert one model to ``output`` and describe it.

    Raises:
        UserError, UnsupportedModelError, MissingRuntimeError: see ``pipeline.sources.convert``.
    """
    return _record(convert(request, output, progress=progress, warm=warm))


def request_of(config: Config) -> ConvertRequest:
    """The config's model section as a conversion."""
    model = config.model
    path = model.path if model.path.startswith("python:") else str(config.resolve(model.path))
    return ConvertRequest(
        model=path,
        inputs=dict(model.inputs),
        outputs=model.outputs,
        freeze=dict(model.freeze),
        opset=model.opset,
        edge_layout=model.edge_layout,
        allow_custom_code=model.allow_custom_code,
        graph_factory=model.graph_factory,
        memory_limit_mib=model.memory_limit_mib,
        time_limit_s=model.time_limit_s,
    )


def source_request(config: Config, record: ConvertRecord) -> ConvertRequest:
    """The same model as it was converted: what was found by itself is now named."""
    return replace(request_of(config), outputs=tuple(tensor.name for tensor in record.outputs))


def _record(done: Conversion) -> ConvertRecord:
    return ConvertRecord(
        output=str(done.output),
        source_format=done.source_format.value,
        framework=done.framework,
        inputs=_tensors(done.inputs),
        outputs=_tensors(done.outputs),
        frozen=tuple(FrozenInput(name=one.name, value=one.value, why=one.why) for one in done.frozen),
        notes=done.notes,
        layers=tuple(
            LayerRecord(
                name=layer.name,
                op=layer.op,
                outputs=layer.outputs,
                output_shape=layer.output_shape,
                parameters=layer.parameters,
                weights=layer.weights,
                padding=layer.padding,
                inbound=layer.inbound,
            )
            for layer in done.layers
        ),
        parity=tuple(
            SourceParityRecord(
                feed=one.feed,
                output=one.output,
                max_abs_over_range=one.max_abs_over_range,
                snr_db=one.snr_db,
                passed=one.passed,
            )
            for one in done.parity
        ),
        opset=done.opset,
        nodes=done.nodes,
        weight_bytes=done.weight_bytes,
        sha256=done.sha256,
        stage_seconds=dict(done.seconds),
        seconds=done.seconds.get("total", sum(done.seconds.values())),
        peak_rss_mib=done.peak_rss_mib,
    )


def _tensors(specs: tuple[TensorSpec, ...]) -> tuple[Tensor, ...]:
    return tuple(Tensor(name=spec.name, dtype=spec.dtype, shape=spec.shape) for spec in specs)
