"""Types and shapes as ONNX infers them, with values left alone that the inference would get wrong."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass


def infer_shapes(model: ir.Model, version: int) -> None:
    """Shapes as far as ONNX can tell at ``version``; where it fails they stay unknown."""
    model.opset_imports[""] = version
    untouched = _maybe_not_tensors(model)
    before = [(value, value.type, value.shape) for value in untouched]
    quiet = logging.getLogger("onnx_ir.passes.common.shape_inference")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)
    try:
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    finally:
        quiet.setLevel(level)
    for value, kind, shape in before:
        value.type, value.shape = kind, shape


def _maybe_not_tensors(model: ir.Model) -> list[ir.Value]:
    """Values that may be a sequence or an optional; the inference pass would give them a tensor's type."""
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    if not any("Sequence" in node.op_type or "Optional" in node.op_type for node in nodes):
        return []
    carriers = ("If", "Loop", "Scan", "Identity")
    return [
        value
        for node in nodes
        if "Sequence" in node.op_type or "Optional" in node.op_type or node.op_type in carriers
        for value in node.outputs
    ]
