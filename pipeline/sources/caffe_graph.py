"""The ONNX model of a Caffe net: its layers in order, its unread blobs as outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import onnx_ir as ir

from optim.errors import UserError
from pipeline.sources.caffe_layers import RULES
from pipeline.sources.caffe_values import Graph, Shape, refuse
from targets.caffe.read import ReadNet

_MOST_ELEMENTS: Final = 1 << 31  # of an input


def graph_of(net: ReadNet, shapes: Mapping[str, Shape]) -> tuple[ir.Model, Graph]:
    """The ONNX model of ``net``; ``shapes`` override those of its inputs.

    Raises:
        UnsupportedModelError: a layer is of an unknown type, or has no exact counterpart.
        UserError: weights are missing.
    """
    graph = Graph()
    inputs = []
    for name, shape in net.inputs.items():
        given = tuple(shapes.get(name, shape))
        if any(d < 1 for d in given) or math.prod(given) > _MOST_ELEMENTS:
            raise UserError(
                f"shape {list(given)}", where=f"input {name}", expected="sizes that fit into memory"
            )
        value = ir.Value(
            name=graph.unique(name), shape=ir.Shape(given), type=ir.TensorType(ir.DataType.FLOAT)
        )
        graph.values[name], graph.shapes[name] = value, given
        inputs.append(value)
    for layer in net.layers:
        if layer.type not in RULES:
            raise refuse(layer, "layers of this type are not read")
        try:
            RULES[layer.type](graph, layer)
        except (ArithmeticError, ValueError, IndexError, KeyError) as error:
            raise UserError(
                f"its numbers do not fit together: {error!r}",
                where=f"layer {layer.name}",
                expected=f"a {layer.type} that Caffe accepts",
            ) from error
    outputs = _outputs(net, graph)
    made = ir.Graph(
        inputs,
        outputs,
        nodes=graph.nodes,
        initializers=graph.constants,
        opset_imports={"": 18},
        name=net.name,
    )
    return ir.Model(made, ir_version=8), graph


def _outputs(net: ReadNet, graph: Graph) -> list[ir.Value]:
    """Tops that no layer reads, named after their blobs."""
    read: dict[str, int] = {}
    last: dict[str, int] = {}
    for k, layer in enumerate(net.layers):
        read.update(dict.fromkeys(layer.bottoms, k))
        last.update(dict.fromkeys(layer.tops, k))
    found = []
    for name, k in last.items():
        value = graph.values[name]
        if read.get(name, -1) > k or value.producer() is None:
            continue
        made_by, shape = graph.made_by.pop(value.name or "", None), graph.shape(value)
        value.name = graph.unique(name)
        graph.shapes[value.name] = shape
        if made_by is not None:
            graph.made_by[value.name] = made_by
        found.append(value)
    return found
