"""Nodes of a flat graph as a function of TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.sources.tf.flow.shapes import Types
from pipeline.sources.tf.graph import (
    GraphDef,
    NodeDef,
    input_name,
    is_control,
    make_placeholder,
    node_of,
    tensor_name,
)

OWN_SHAPES = "_own_shapes"
"""Attribute of functions whose arguments' shapes hold for every call."""


@dataclass(frozen=True)
class Subgraph:
    """Nodes that compute ``outputs`` from ``inputs``, tensors of the graph around them.

    In ``graph_def`` the inputs are placeholders named ``arguments``.
    """

    name: str
    graph_def: GraphDef
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    places: Mapping[str, str]  # tensor of the graph around → the argument that stands for it


def make_subgraph(
    name: str,
    nodes: Sequence[NodeDef],
    inputs: Sequence[tuple[str, ...]],
    outputs: Sequence[str],
    types: Types,
    shapes_of: Sequence[str],
    like: GraphDef,
) -> Subgraph:
    """A subgraph of copies of ``nodes``.

    Args:
        name: of the function to be.
        nodes: of the graph around, in its order.
        inputs: for each argument the tensors of the graph around that it stands for; may be none.
        outputs: tensors of the graph around, each of a node in ``nodes`` or standing for an argument.
        types: of the tensors of the graph around; those of the arguments are added.
        shapes_of: for each argument the tensor whose type it has.
        like: a graph of the same version.
    """
    graph_def = type(like)()
    graph_def.versions.CopyFrom(like.versions)
    places: dict[str, str] = {}
    arguments = []
    for number, (tensors, source) in enumerate(zip(inputs, shapes_of, strict=True)):
        argument = graph_def.node.add()
        argument.name = f"{name}/argument{number}"
        kind, shape = types[source]
        make_placeholder(argument, kind, shape)
        arguments.append(argument.name)
        types[f"{argument.name}:0"] = types[source]
        places |= dict.fromkeys(tensors, f"{argument.name}:0")
    present = {node.name for node in nodes}
    for node in nodes:
        copy = graph_def.node.add()
        copy.CopyFrom(node)
        del copy.input[:]
        for text in node.input:
            if not is_control(text):
                tensor = tensor_name(text)
                copy.input.append(input_name(places.get(tensor, tensor)))
            elif node_of(text) in present:
                copy.input.append(text)
    results = tuple(places.get(tensor, tensor) for tensor in outputs)
    return Subgraph(name, graph_def, tuple(arguments), results, places)


def add_function(graph_def: GraphDef, subgraph: Subgraph) -> None:
    """Put ``subgraph`` into the function library of ``graph_def``.

    Raises:
        ValueError: TensorFlow rejects it.
    """
    import tensorflow as tf
    from tensorflow.python.framework.graph_to_function_def import graph_to_function_def

    graph = tf.Graph()
    flat = type(graph_def)()
    flat.CopyFrom(subgraph.graph_def)
    flat.library.CopyFrom(graph_def.library)
    for node in flat.node:
        node.input[:] = [text for text in node.input if not is_control(text)]
    with graph.as_default():
        tf.import_graph_def(flat, name="")
        inputs = [graph.get_tensor_by_name(f"{name}:0") for name in subgraph.arguments]
        outputs = [
            tf.identity(graph.get_tensor_by_name(tensor), name=f"{subgraph.name}/result{number}")
            for number, tensor in enumerate(subgraph.outputs)
        ]
    inner = [op for op in graph.get_operations() if op.name not in set(subgraph.arguments)]
    function = graph_to_function_def(graph, inner, inputs, outputs)
    function.signature.name = subgraph.name
    for tensor in inputs:  # what a call hands in may be narrower than what the function is called with later
        function.attr["_input_shapes"].list.shape.add().CopyFrom(tensor.shape.as_proto())
    function.attr[OWN_SHAPES].b = True
    graph_def.library.function.add().CopyFrom(function)


def call(
    graph_def: GraphDef,
    op: str,
    name: str,
    operands: Sequence[str],
    functions: dict[str, str],
    results: Sequence[tuple[int, tuple[int | None, ...] | None]],
) -> NodeDef:
    """A node of ``graph_def`` that calls functions: StatelessIf (its first operand the condition) or
    StatelessWhile."""
    node = graph_def.node.add()
    node.name, node.op = name, op
    node.input.extend(input_name(tensor) for tensor in operands)
    for key, function in functions.items():
        node.attr[key].func.name = function
    for kind, shape in results:
        set_shape_in_list(node, shape)
        node.attr["T" if op == "StatelessWhile" else "Tout"].list.type.append(kind)
    return node


def set_shape_in_list(node: NodeDef, shape: tuple[int | None, ...] | None) -> None:
    """One more shape in the attribute ``output_shapes``."""
    proto = node.attr["output_shapes"].list.shape.add()
    if shape is None:
        proto.unknown_rank = True
        return
    for size in shape:
        proto.dim.add().size = -1 if size is None else size
