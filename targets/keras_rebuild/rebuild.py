"""Walks the canonical graph once and draws each node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir
from onnx_ir.passes.common import RemoveInitializersFromInputsPass, ShapeInferencePass

from optim.contract import Array
from optim.errors import UnsupportedModelError
from optim.facts import opset_of
from targets.keras_rebuild import arrange, elementwise, neural
from targets.keras_rebuild.drawing import Drawing, identity, refuse, shape_of
from targets.layer_names import LayerNames

Draw = Callable[[Drawing, ir.Node], None]

DRAWN: Final[dict[str, Draw]] = {
    "Conv": neural.conv,
    "ConvTranspose": neural.conv_transpose,
    "MaxPool": neural.pool,
    "AveragePool": neural.pool,
    "GlobalAveragePool": neural.global_pool,
    "GlobalMaxPool": neural.global_pool,
    "BatchNormalization": neural.batch_normalization,
    "LRN": neural.lrn,
    "Gemm": neural.gemm,
    "MatMul": neural.matmul,
    **dict.fromkeys(elementwise.ACTIVATIONS, elementwise.activation),
    **dict.fromkeys(elementwise.FUNCTIONS, elementwise.function),
    **dict.fromkeys(elementwise.FUNCTION_PAIRS, elementwise.pairwise),
    **dict.fromkeys(
        ("LeakyRelu", "Elu", "HardSigmoid", "HardSwish", "Gelu", "PRelu"), elementwise.parametric
    ),
    "Clip": elementwise.clip,
    "Transpose": arrange.transpose,
    **dict.fromkeys(("Identity", "Dropout", "Cast"), arrange.same),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), arrange.reshape),
    "Concat": arrange.concat,
    "Pad": arrange.pad,
    "Slice": arrange.take_slice,
    "Split": arrange.split,
    **dict.fromkeys(arrange.REDUCTIONS, arrange.reduce),
    **dict.fromkeys(("Resize", "Upsample"), arrange.resize),
    "DepthToSpace": arrange.depth_to_space,
    "Constant": arrange.constant_node,
}

HEADER: Final = '''"""The architecture of this model as Keras code. build() makes it; the weights are in
model.keras."""

import keras
from keras import layers, ops

from keras_layers import ConstantOperand, LocalResponseNormalization


def build():
'''


@dataclass(frozen=True)
class Architecture:
    """Python source that defines ``build() -> keras.Model``, and the weights by layer name."""

    source: str
    weights: dict[str, list[Array]]
    tensors: dict[str, str]  # layer name → the ONNX tensor that its node computes


def rebuild(model: ir.Model) -> Architecture:
    """The Keras architecture of ``model``; inputs and outputs keep their shapes and order.

    Raises:
        UnsupportedModelError: a node has no exact counterpart; names it.
    """
    drawing = Drawing(LayerNames(model.graph))
    reasons = _draw(model, drawing, first_only=True)
    if reasons:
        raise reasons[0]
    inputs = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    arguments = ", ".join(f"input{k}" for k in range(len(inputs)))
    results = []
    for value in model.graph.outputs:
        node = value.producer() or next(iter(model.graph))
        results.append(drawing.plain(node, value)[1])
    body = [*drawing.lines, f"return keras.Model([{arguments}], [{', '.join(results)}])"]
    return Architecture(HEADER + "".join(f"    {line}\n" for line in body), drawing.weights, drawing.tensors)


def unsupported_nodes(model: ir.Model) -> tuple[str, ...]:
    """Every node that has no counterpart, with the reason."""
    found = _draw(model, Drawing(LayerNames(model.graph)), first_only=False)
    return tuple(f"{error.where}: {error.what}" for error in found)


def _draw(model: ir.Model, drawing: Drawing, *, first_only: bool) -> list[UnsupportedModelError]:
    RemoveInitializersFromInputsPass()(model)  # type: ignore[no-untyped-call, unused-ignore]
    ShapeInferencePass()(model)  # type: ignore[no-untyped-call, unused-ignore]
    opset = opset_of(model)
    inputs = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    for k, value in enumerate(inputs):
        dims = shape_of(value)
        if not dims:
            return [UnsupportedModelError(f"input {value.name} is a scalar", where=value.name or "")]
        batch = None if dims[0] in (None, 1) else dims[0]
        dtype = value.dtype.numpy().name if value.dtype is not None else "float32"
        drawing.lines.append(
            f"input{k} = keras.Input(batch_shape={(batch, *dims[1:])}, dtype={dtype!r}, name='input{k}')"
        )
        drawing.put(value, f"input{k}", identity(len(dims)))
    reasons: list[UnsupportedModelError] = []
    for node in model.graph:
        if id(node) in drawing.done:
            continue
        try:
            _draw_node(drawing, node, opset)
        except UnsupportedModelError as error:
            reasons.append(error)
            if first_only:
                return reasons
            _pretend(drawing, node)
    return reasons


def _draw_node(drawing: Drawing, node: ir.Node, opset: int) -> None:
    if node.domain not in ("", "ai.onnx"):
        raise refuse(node, f"domain {node.domain} is not standard ONNX")
    if node.op_type in ("Softmax", "LogSoftmax"):
        elementwise.softmax(drawing, node, opset)
    elif node.op_type in DRAWN:
        DRAWN[node.op_type](drawing, node)
    else:
        raise refuse(node, "no Keras counterpart is known", "the onnxruntime and openvino targets take it")


def _pretend(drawing: Drawing, node: ir.Node) -> None:
    """Go on behind a refused node, to find the others."""
    for output in node.outputs:
        try:
            drawing.put(output, "unknown", identity(len(shape_of(output))))
        except UnsupportedModelError:
            continue
