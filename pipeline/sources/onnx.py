"""ONNX files of any opset: read without trust, brought to the working opset, nothing else changed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from pipeline.sources.contract import Converted, ConvertRequest, Progress, SourceLayer, no_progress
from pipeline.sources.onnx_exporters import repair_exporter_faults
from pipeline.sources.onnx_fold_range import fold_constant_ranges
from pipeline.sources.onnx_group_norm import write_out_group_norms
from pipeline.sources.onnx_load import load_untrusted
from pipeline.sources.onnx_operators import refuse_unknown
from pipeline.sources.onnx_session import OnnxSession
from pipeline.sources.onnx_signature import apply_request, lift_weights
from pipeline.sources.onnx_upgrade import upgrade
from pipeline.sources.onnx_upgrade.shapes import infer_shapes
from targets.contract import Session

# The oldest IR version that may hold an opset, from onnx/helper.py's table of releases.
_IR_VERSION_OF_OPSET = {9: 4, 10: 5, 11: 6, 12: 7, 15: 8, 19: 9, 21: 10, 23: 11, 24: 12, 25: 13}


@dataclass(frozen=True)
class OnnxSource:
    """A model that already is ONNX."""

    def convert(self, request: ConvertRequest, progress: Progress = no_progress) -> Converted:
        """Read ``request.model`` and bring it to ``request.opset``.

        Raises:
            UserError: the file is missing, damaged, or reaches outside its folder.
            UnsupportedModelError: an operator exists in no runtime, or changed beyond repair.
        """
        started = time.perf_counter()
        progress("read", 0.0)
        model = load_untrusted(Path(request.model))
        notes: list[str] = []
        loaded = time.perf_counter()
        progress("upgrade", 0.3)
        if model.functions:
            notes.append(f"{len(model.functions)} model functions inlined")
            InlinePass()(model)
        model.graph.sort()  # some writers do not keep the order that the standard asks for
        notes += lift_weights(model, keep=frozenset(request.inputs))
        notes += repair_exporter_faults(model)
        frozen = apply_request(model, request)
        RemoveUnusedNodesPass()(model)
        layers = source_layers(model)
        refuse_unknown(model)
        done = upgrade(model, request.opset)
        if norms := write_out_group_norms(model):
            notes.append(f"{norms} group normalisations written out: their old form has been withdrawn")
        if any(value.shape is None for value in model.graph.outputs):
            infer_shapes(model, done.opset)
        if ranges := fold_constant_ranges(model):
            notes.append(f"{ranges} constant integer ranges folded")
        if done.opset > request.opset:
            notes.append(
                f"kept at its own opset {done.opset}, which is newer than the {request.opset} asked for"
            )
        elif done.opset_before < done.opset:
            notes.append(
                f"brought from opset {done.opset_before} to {done.opset}; {done.rewritten} nodes rewritten"
            )
        RemoveUnusedNodesPass()(model)
        RemoveUnusedOpsetsPass()(model)
        model.ir_version = max(model.ir_version, _ir_version(done.opset))
        refuse_unknown(model)
        progress("upgrade", 1.0)
        seconds = {"load": loaded - started, "convert": time.perf_counter() - loaded}
        return Converted(
            model=model,
            framework=_framework(),
            frozen=(*frozen, *done.frozen),
            notes=tuple(notes),
            layers=layers,
            seconds=seconds,
        )

    def open(self, request: ConvertRequest) -> Session:
        """The file as it is in ONNX Runtime with optimisation off, cut and frozen as ``request`` says."""
        return OnnxSession(request)


def source_layers(model: ir.Model) -> tuple[SourceLayer, ...]:
    """One layer for each node of the file's graph, in its order."""
    layers: list[SourceLayer] = []
    for node in model.graph:
        weights = [
            (value.name or "", tuple(value.const_value.shape.numpy()))
            for value in node.inputs
            if value is not None and value.is_initializer() and value.const_value is not None
        ]
        inbound = [
            producer.name or producer.outputs[0].name or ""
            for value in node.inputs
            if value is not None and (producer := value.producer()) is not None
        ]
        shape = node.outputs[0].shape if node.outputs else None
        layers.append(
            SourceLayer(
                name=node.name or (node.outputs[0].name if node.outputs else "") or node.op_type,
                op=node.op_type,
                outputs=tuple(output.name for output in node.outputs if output.name),
                output_shape=tuple(d if isinstance(d, int) else None for d in shape or ()),
                parameters=sum(_size(dims) for _, dims in weights),
                weights=tuple(weights),
                inbound=tuple(dict.fromkeys(inbound)),
            )
        )
    return tuple(layers)


def _size(dims: tuple[int, ...]) -> int:
    size = 1
    for dim in dims:
        size *= dim
    return size


def _ir_version(opset: int) -> int:
    fitting = [ir_version for since, ir_version in _IR_VERSION_OF_OPSET.items() if since <= opset]
    return max(fitting, default=3)


def _framework() -> str:
    import onnx

    return f"onnx {onnx.__version__}"
