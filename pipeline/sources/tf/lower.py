"""Ops that the converter lacks or gets wrong, written out in ops that it has, by TensorFlow itself.

Each rule in ``lowerings.py`` is a function of TensorFlow tensors. It is traced on placeholders of the node's
own inputs, and the traced nodes take the node's place.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.sources.tf.fold import import_graph
from pipeline.sources.tf.graph import (
    GraphDef,
    NodeDef,
    by_name,
    constant,
    data_inputs,
    index_of,
    input_name,
    is_control,
    make_identity,
    node_of,
    rename_inputs,
    tensor_name,
)
from pipeline.sources.tf.lowerings import FIRST_OPSET, LOWERINGS, Lowering


@dataclass(frozen=True)
class Traced:
    """A rule's graph."""

    graph_def: GraphDef
    operands: Mapping[str, str]  # its placeholders → tensors of the graph around
    outputs: tuple[tuple[str, int], ...]  # tensor, dtype (DataType)


def lower(graph_def: GraphDef, opset: int) -> int:
    """Write out the ops that have a rule at ONNX ``opset``, in place; how many there were."""
    rules = {op: rule for op, rule in LOWERINGS.items() if opset >= FIRST_OPSET.get(op, 1)}
    found = [node for node in graph_def.node if node.op in rules]
    if not found:
        return 0
    graph, nodes = import_graph(graph_def), by_name(graph_def)
    done = 0
    for node in found:
        traced = _traced(node, rules[node.op], graph, nodes)
        if traced is not None:
            splice(graph_def, node, traced)
            done += 1
    return done


def _traced(node: NodeDef, rule: Lowering, graph: Any, nodes: dict[str, NodeDef]) -> Traced | None:
    operands = []
    for tensor in data_inputs(node):
        known = graph.get_tensor_by_name(tensor)
        operands.append((tensor, known.dtype, known.shape))
    return trace(lambda *arguments: rule(node, *arguments), operands, nodes)


def trace(
    rule: Callable[..., Sequence[Any] | None],
    operands: Sequence[tuple[str, Any, Any]],
    nodes: Mapping[str, NodeDef],
) -> Traced | None:
    """``rule`` run on placeholders of ``operands`` (tensor, dtype, shape), constants as they are; None where
    it leaves its node alone."""
    import tensorflow as tf

    inner = tf.Graph()
    outer: dict[str, str] = {}
    with inner.as_default():
        arguments = []
        for number, (tensor, dtype, shape) in enumerate(operands):
            source = nodes[node_of(tensor)]
            if source.op == "Const":
                arguments.append(tf.constant(constant(source)))
                continue
            made = tf.compat.v1.placeholder(dtype, shape, name=f"argument{number}")
            outer[made.op.name] = tensor
            arguments.append(made)
        results = rule(*arguments)
    if results is None:
        return None
    outputs = tuple((tensor.name, tensor.dtype.as_datatype_enum) for tensor in results)
    return Traced(inner.as_graph_def(), outer, outputs)


def splice(graph_def: GraphDef, node: NodeDef, traced: Traced) -> None:
    """Put what was traced in the place of ``node``, whose name its first output keeps."""
    results = write_beside(graph_def, node.name, traced)
    if len(results) > 1:
        rename_inputs(graph_def, {f"{node.name}:{i}": one for i, one in enumerate(results) if i})
    make_identity(node, results[0], traced.outputs[0][1])


def write_beside(graph_def: GraphDef, name: str, traced: Traced) -> list[str]:
    """Add what was traced to the graph, named after ``name``; the tensors of its outputs."""
    inner, outer = traced.graph_def, traced.operands
    scope = _free_scope(graph_def, name, [made.name for made in inner.node])

    def renamed(text: str) -> str:
        if is_control(text):
            return f"^{scope}/{text[1:]}"
        tensor = tensor_name(text)
        if node_of(tensor) in outer:
            return input_name(outer[node_of(tensor)])
        return input_name(f"{scope}/{node_of(tensor)}:{index_of(tensor)}")

    for made in inner.node:
        if made.name in outer:
            continue
        copy = graph_def.node.add()
        copy.CopyFrom(made)
        copy.name = f"{scope}/{made.name}"
        del copy.input[:]
        copy.input.extend(renamed(text) for text in made.input)
    return [tensor_name(renamed(tensor)) for tensor, _ in traced.outputs]


def _free_scope(graph_def: GraphDef, name: str, inner: Sequence[str]) -> str:
    """``name``, or ``name/lowered`` … where the graph has nodes of such names."""
    taken = {node.name for node in graph_def.node}
    candidates = (name if number == 0 else f"{name}/lowered{number}" for number in itertools.count())
    return next(one for one in candidates if taken.isdisjoint(f"{one}/{made}" for made in inner))
