"""Ops that the converter lacks or gets wrong, written out in ops that it has, by TensorFlow itself.

Each rule in ``lowerings.py`` is a function of TensorFlow tensors. It is traced on placeholders of the node's
own inputs, and the traced nodes take the node's place.
"""

from __future__ import annotations

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
            _splice(graph_def, node, *traced)
            done += 1
    return done


def _traced(
    node: NodeDef, rule: Lowering, graph: Any, nodes: dict[str, NodeDef]
) -> tuple[GraphDef, dict[str, str], list[tuple[str, int]]] | None:
    """The rule's graph, its placeholders' tensors in the outer graph, and its outputs with their dtypes."""
    import tensorflow as tf

    inner = tf.Graph()
    outer: dict[str, str] = {}
    with inner.as_default():
        arguments = []
        for number, tensor in enumerate(data_inputs(node)):
            source = nodes[node_of(tensor)]
            if source.op == "Const":
                arguments.append(tf.constant(constant(source)))
                continue
            known = graph.get_tensor_by_name(tensor)
            made = tf.compat.v1.placeholder(known.dtype, known.shape, name=f"argument{number}")
            outer[made.op.name] = tensor
            arguments.append(made)
        results = rule(node, *arguments)
    if results is None:
        return None
    outputs = [(tensor.name, tensor.dtype.as_datatype_enum) for tensor in results]
    return inner.as_graph_def(), outer, outputs


def _splice(
    graph_def: GraphDef, node: NodeDef, inner: GraphDef, outer: dict[str, str], outputs: list[tuple[str, int]]
) -> None:
    scope = node.name

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
    if len(outputs) > 1:
        rename_inputs(
            graph_def,
            {f"{scope}:{i}": tensor_name(renamed(name)) for i, (name, _) in enumerate(outputs) if i},
        )
    first, kind = outputs[0]
    make_identity(node, tensor_name(renamed(first)), kind)
