"""Compute what does not depend on an input, in TensorFlow itself, in one session.

Also folds ``Shape``, ``Size`` and ``Rank`` of tensors whose shape is fully known. Not folded: what has
side effects or state, what is random, and what would grow beyond its operands.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from optim.contract import Array
from pipeline.sources.tf.graph import (
    GraphDef,
    by_name,
    consumers,
    make_constant,
    node_of,
)

_NEVER = frozenset(
    {
        "Const", "Placeholder", "PlaceholderWithDefault", "Switch", "Merge", "Enter", "Exit", "NextIteration",
        "LoopCond", "While", "StatelessWhile", "If", "StatelessIf", "Case", "PartitionedCall",
        "StatefulPartitionedCall", "NoOp", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxArgs",
        "FakeQuantWithMinMaxVarsPerChannel", "QuantizeAndDequantizeV2", "QuantizeAndDequantizeV3",
        "QuantizeAndDequantizeV4", "BatchToSpaceND", "SpaceToBatchND",
    }
)  # fmt: skip
_SHAPE_OPS = frozenset({"Shape", "ShapeN", "Size", "Rank"})
_SMALL_ELEMENTS = 1 << 12


def import_graph(graph_def: GraphDef) -> Any:
    """``graph_def`` as a ``tf.Graph``, shapes inferred.

    Raises:
        ValueError: TensorFlow rejects it.
    """
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    return graph


def fold_constants(graph_def: GraphDef, outputs: list[str]) -> int:
    """Replace constant nodes by their values, in place; how many there were."""
    graph = import_graph(graph_def)
    values = _shape_values(graph)
    constant_nodes = _constant_nodes(graph, set(values))
    wanted = _frontier(graph_def, constant_nodes, outputs)
    wanted = [name for name in wanted if name not in values]
    values.update(_evaluate(graph, wanted))
    nodes = by_name(graph_def)
    folded = 0
    keep = {node_of(tensor) for tensor in outputs}
    for name, value in values.items():
        node = nodes[node_of(name)]
        if node.name in keep and node.op in ("Identity",):
            continue
        make_constant(node, value)
        folded += 1
    return folded


def _shape_values(graph: Any) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for op in graph.get_operations():
        if op.type not in _SHAPE_OPS or len(op.outputs) != 1:
            continue
        shape = op.inputs[0].shape
        dtype = op.outputs[0].dtype.as_numpy_dtype
        if op.type == "Rank" and shape.rank is not None:
            found[op.outputs[0].name] = np.asarray(shape.rank, dtype)
        elif shape.is_fully_defined():
            dims = np.asarray(shape.as_list(), dtype)
            found[op.outputs[0].name] = dims if op.type == "Shape" else np.asarray(dims.prod(), dtype)
    return found


def _constant_nodes(graph: Any, known: set[str]) -> set[str]:
    constant: set[str] = {node_of(tensor) for tensor in known}
    for op in graph.get_operations():  # creation order is topological except for loops, which never fold
        if op.control_inputs:  # it lives in a branch or a loop
            continue
        if op.type == "Const":
            constant.add(op.name)
            continue
        if op.type in _NEVER or op.op_def is None or op.op_def.is_stateful or "Random" in op.type:
            continue
        if not op.inputs or not op.outputs or op.name in constant:
            continue
        if any(tensor.dtype.name in ("resource", "variant") for tensor in (*op.inputs, *op.outputs)):
            continue
        if all(tensor.op.name in constant for tensor in op.inputs) and not _grows(op):
            constant.add(op.name)
    return constant


def _grows(op: Any) -> bool:
    sizes = [tensor.shape.num_elements() for tensor in op.outputs]
    if any(size is None for size in sizes):
        return False  # only known once run; shapes computed from constants are small in practice
    given = sum(tensor.shape.num_elements() or 0 for tensor in op.inputs)
    return bool(sum(sizes) > max(_SMALL_ELEMENTS, 2 * given))


def _frontier(graph_def: GraphDef, constant: set[str], outputs: list[str]) -> list[str]:
    """Constant tensors that something variable reads, or that are outputs."""
    kinds = {node.name: node.op for node in graph_def.node}
    wanted: dict[str, None] = {}
    for tensor, readers in consumers(graph_def).items():
        name = node_of(tensor)
        if name in constant and kinds[name] != "Const" and any(r.name not in constant for r in readers):
            wanted[tensor] = None
    for tensor in outputs:
        if node_of(tensor) in constant and kinds[node_of(tensor)] != "Const":
            wanted[tensor] = None
    # A node of several outputs cannot become one Const.
    single = {node.name for node in graph_def.node if not _has_many_outputs(node)}
    return [tensor for tensor in wanted if tensor.endswith(":0") and node_of(tensor) in single]


def _has_many_outputs(node: Any) -> bool:
    from tensorflow.python.framework import op_def_registry

    op_def = op_def_registry.get(node.op)
    return (
        op_def is None
        or len(op_def.output_arg) != 1
        or bool(op_def.output_arg[0].number_attr or op_def.output_arg[0].type_list_attr)
    )


def _evaluate(graph: Any, names: list[str]) -> dict[str, Array]:
    import tensorflow as tf

    if not names:
        return {}
    with tf.compat.v1.Session(graph=graph) as session:
        try:
            return dict(zip(names, map(np.asarray, session.run(names)), strict=True))
        except (tf.errors.OpError, ValueError, TypeError):
            pass
        values: dict[str, Array] = {}
        for name in names:  # one that fails does not keep the others
            try:
                values[name] = np.asarray(session.run(name))
            except (tf.errors.OpError, ValueError, TypeError):
                continue
        return values


def static_shapes(graph_def: GraphDef) -> dict[str, tuple[int | None, ...]]:
    """Inferred shape of every tensor of known rank, by tensor name."""
    graph = import_graph(graph_def)
    return {
        output.name: tuple(output.shape.as_list())
        for op in graph.get_operations()
        for output in op.outputs
        if output.shape.rank is not None
    }
