"""Value without a shape → the same value with its shape and type (onnx.shape_inference, data propagation on).

Allowed: always; where inference fails nothing is annotated. Numbers: exact, no node changes.
https://onnx.ai/onnx/repo-docs/ShapeInference.html
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir import serde

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import static_shape
from optim.rewrite import REVISION

logger = logging.getLogger(__name__)

# Elements up to which the content of a tensor may decide about a shape: targets of Reshape, pads; scales of
# Resize.
_INFERRED = "fairlead.inferred"  # in Graph.meta: the revision whose shapes are known
_CONTENT, _FLOAT_CONTENT = 128, 8


@dataclass(frozen=True)
class InferShapes:
    """Annotates values; never touches a node, so it reports no sites."""

    @property
    def info(self) -> PassInfo:
        return PassInfo("infer_shapes", Numerics.EXACT, "shapes and types of inner values")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:  # noqa: ARG002
        meta = model.graph.meta
        if meta.get(_INFERRED) != meta.get(REVISION, 0):
            annotate(model)
            meta[_INFERRED] = meta.get(REVISION, 0)
        return PassOutcome()


def annotate(model: ir.Model) -> None:
    """Set shape and type of every inner value of the main graph that inference can tell."""
    try:
        proto = onnx.shape_inference.infer_shapes(_skeleton(model), data_prop=True)
    except Exception as error:  # the C++ library raises its own kinds
        logger.info("shape inference failed: %s", error)
        return
    found = {info.name: info for info in proto.graph.value_info}
    for node in model.graph:
        for value in node.outputs:
            info = found.get(value.name or "")
            if info is None or value.is_graph_output() or not info.type.HasField("tensor_type"):
                continue
            kind = info.type.tensor_type
            if kind.elem_type:
                value.type = ir.TensorType(ir.DataType(kind.elem_type))
            if kind.HasField("shape"):
                value.shape = ir.Shape([_dim(d) for d in kind.shape.dim])


def _skeleton(model: ir.Model) -> onnx.ModelProto:
    """``model`` with its large weights as inputs: small, and made in linear time."""
    graph = onnx.GraphProto(name=model.graph.name or "graph")
    for node in model.graph:
        serde.serialize_node_into(graph.node.add(), from_=node)
    for value in model.graph.inputs:
        if value.name not in model.graph.initializers:
            serde.serialize_value_into(graph.input.add(), value)
    for value in model.graph.outputs:
        serde.serialize_value_into(graph.output.add(), value)
    for node in model.graph:
        for value in node.outputs:
            if value.name and value.type is not None and not value.is_graph_output():
                serde.serialize_value_into(graph.value_info.add(), value)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        name = value.name or ""
        shape, dtype = static_shape(value), value.dtype
        if shape is None or dtype is None:
            shape, dtype = tuple(int(d) for d in tensor.shape if isinstance(d, int)), tensor.dtype
        limit = _FLOAT_CONTENT if dtype.is_floating_point() else _CONTENT
        if math.prod(shape) <= limit and not value.is_graph_input():
            serde.serialize_tensor_into(graph.initializer.add(), from_=tensor)
            graph.initializer[-1].name = name
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(name, dtype.value, shape))
    proto = onnx.ModelProto(ir_version=max(model.ir_version, 8), graph=graph)
    for domain, version in model.graph.opset_imports.items():
        proto.opset_import.append(onnx.helper.make_opsetid(domain, version))
    for function in model.functions.values():
        proto.functions.append(serde.serialize_function(function))
    return proto


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return dim.dim_param or None
