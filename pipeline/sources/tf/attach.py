"""Detached weights back into the ONNX graph, as initializers that refer to the framework's own memory.

What the converter put between a weight and its consumer (Transpose, Reshape, ...) is folded into a tensor
that is computed when it is written, so that never more than one weight is held twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import constant_of

_Lazy: TypeAlias = Callable[[], Array]


def attach_weights(model: ir.Model, weights: Mapping[str, Array]) -> None:
    """Turn the graph inputs ``name:0`` of ``weights`` into initializers, in place."""
    graph = model.graph
    pending: list[ir.Value] = []
    for value in list(graph.inputs):
        name = (value.name or "").removesuffix(":0")
        if name not in weights:
            continue
        graph.inputs.remove(value)
        value.name = name
        array = weights[name]
        value.const_value = ir.Tensor(array, name=name)
        value.shape = ir.Shape(array.shape)
        value.dtype = ir.DataType.from_numpy(array.dtype)
        graph.initializers.add(value)
        pending.append(value)
    while pending:
        value = pending.pop()
        for node, _ in list(value.uses()):
            folded = _fold(node, value, graph)
            if folded is not None:
                pending.append(folded)
        if not value.uses() and not value.is_graph_output() and value.name in graph.initializers:
            del graph.initializers[str(value.name)]


def _fold(node: ir.Node, value: ir.Value, graph: ir.Graph) -> ir.Value | None:
    """The initializer that replaces ``node``'s output, or None where its op is not only a rearrangement."""
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    if rule is None or node.inputs[0] is not value or len(node.outputs) != 1 or node.graph is not graph:
        return None
    others = [constant_of(operand) for operand in node.inputs[1:] if operand is not None]
    if any(other is None for other in others):
        return None
    function = rule(node, [other for other in others if other is not None])
    tensor = value.const_value
    output = node.outputs[0]
    if function is None or tensor is None or output.is_graph_output():
        return None
    # Shape and dtype from an array that holds one element however large it looks.
    look = function(np.broadcast_to(np.zeros((), tensor.dtype.numpy()), tuple(tensor.shape.numpy())))
    name = output.name
    lazy = ir.LazyTensor(
        lambda: ir.Tensor(np.asarray(function(tensor.numpy()), order="C")),
        dtype=ir.DataType.from_numpy(look.dtype),
        shape=ir.Shape(look.shape),
        name=name,
    )
    graph.remove(node, safe=False)
    fresh = ir.Value(name=name, type=ir.TensorType(lazy.dtype), shape=ir.Shape(look.shape), const_value=lazy)
    output.replace_all_uses_with(fresh)
    for index, operand in enumerate(node.inputs):
        if operand is not None:
            node.replace_input_with(index, None)
    graph.initializers.add(fresh)
    return fresh


def _transpose(node: ir.Node, _: list[Array]) -> Callable[[Array], Array] | None:
    perm = node.attributes.get("perm")
    axes = None if perm is None else tuple(perm.as_ints())
    return lambda array: array.transpose(axes)


def _reshape(_node: ir.Node, others: list[Array]) -> Callable[[Array], Array] | None:
    if len(others) != 1 or 0 in others[0]:
        return None
    shape = tuple(int(dim) for dim in others[0])
    return lambda array: array.reshape(shape)


def _unsqueeze(node: ir.Node, others: list[Array]) -> Callable[[Array], Array] | None:
    axes = _axes(node, others)
    return None if axes is None else lambda array: np.expand_dims(array, axes)


def _squeeze(node: ir.Node, others: list[Array]) -> Callable[[Array], Array] | None:
    axes = _axes(node, others)
    return None if axes is None else lambda array: np.squeeze(array, axes)


def _cast(node: ir.Node, _: list[Array]) -> Callable[[Array], Array] | None:
    kind = ir.DataType(node.attributes["to"].as_int())
    if kind not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):  # widening is exact
        return None
    return lambda array: array.astype(kind.numpy())


def _identity(_node: ir.Node, _: list[Array]) -> Callable[[Array], Array] | None:
    return lambda array: array


def _axes(node: ir.Node, others: list[Array]) -> tuple[int, ...] | None:
    attribute = node.attributes.get("axes")
    if attribute is not None:
        return tuple(attribute.as_ints())
    return tuple(int(axis) for axis in others[0]) if len(others) == 1 else None


_RULES: dict[str, Callable[[ir.Node, list[Array]], Callable[[Array], Array] | None]] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Cast": _cast,
    "Identity": _identity,
}
