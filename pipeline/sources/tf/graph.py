"""A TensorFlow graph as the sources pass it on, and the questions they ask of a GraphDef.

Tensor names are written ``node:index``; a NodeDef's own inputs leave out ``:0`` and mark control inputs
with ``^``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from optim.contract import Array

GraphDef: TypeAlias = Any  # tensorflow.core.framework.graph_pb2.GraphDef
NodeDef: TypeAlias = Any  # tensorflow.core.framework.node_def_pb2.NodeDef
Dims: TypeAlias = tuple[int | None, ...]

# Types of reference tensors lie 100 above their base type (tensorflow/core/framework/types.proto).
REF_OFFSET = 100


@dataclass(frozen=True)
class Edge:
    """A graph input or output: the tensor in TensorFlow and its name in ONNX."""

    tensor: str  # "node:0"
    name: str


@dataclass(frozen=True)
class TfGraph:
    """A graph ready for conversion: inference only, cut at inputs and outputs.

    ``weights`` holds the large constants, detached: in ``graph_def`` they are placeholders of these names.
    """

    graph_def: GraphDef
    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]
    weights: Mapping[str, Array] = field(default_factory=dict)


def node_of(tensor: str) -> str:
    """Name of the node in a NodeDef input or tensor name."""
    name = tensor.removeprefix("^")
    head, colon, tail = name.rpartition(":")
    return head if colon and tail.isdigit() else name


def index_of(tensor: str) -> int:
    """Output index in a NodeDef input or tensor name."""
    _, colon, tail = tensor.rpartition(":")
    return int(tail) if colon and tail.isdigit() else 0


def tensor_name(text: str) -> str:
    """``text`` with its output index written out."""
    return f"{node_of(text)}:{index_of(text)}"


def input_name(tensor: str) -> str:
    """A tensor name as a NodeDef's input writes it."""
    return node_of(tensor) if index_of(tensor) == 0 else tensor


def is_control(text: str) -> bool:
    """Whether a NodeDef's input is a control edge."""
    return text.startswith("^")


def data_inputs(node: NodeDef) -> list[str]:
    """A node's data inputs as tensor names."""
    return [tensor_name(text) for text in node.input if not is_control(text)]


def by_name(graph_def: GraphDef) -> dict[str, NodeDef]:
    """Nodes by name."""
    return {node.name: node for node in graph_def.node}


def consumers(graph_def: GraphDef) -> dict[str, list[NodeDef]]:
    """Nodes that read each tensor."""
    found: dict[str, list[NodeDef]] = {}
    for node in graph_def.node:
        for tensor in data_inputs(node):
            found.setdefault(tensor, []).append(node)
    return found


def ancestors(
    nodes: Mapping[str, NodeDef], start: Iterable[str], stop: Callable[[NodeDef], bool] | None = None
) -> set[str]:
    """Names of the nodes that the tensors ``start`` need, themselves included; not past where ``stop``."""
    seen: set[str] = set()
    pending = [node_of(tensor) for tensor in start]
    while pending:
        name = pending.pop()
        if name in seen or name not in nodes:
            continue
        seen.add(name)
        if stop is None or not stop(nodes[name]):
            pending += [
                node_of(text)
                for text in nodes[name].input
                if not is_control(text) or is_pivot(nodes.get(node_of(text)), nodes)
            ]
    return seen


def keep_only(graph_def: GraphDef, names: set[str]) -> GraphDef:
    """A copy with only the nodes ``names`` and the function library. Of the control edges only those stay
    that say in which branch or loop a node lives."""
    nodes = by_name(graph_def)
    kept = type(graph_def)()
    kept.versions.CopyFrom(graph_def.versions)
    for node in graph_def.node:
        if node.name in names:
            copy = kept.node.add()
            copy.CopyFrom(node)
            edges = [t for t in node.input if not is_control(t) or is_pivot(nodes.get(node_of(t)), nodes)]
            if len(edges) != len(node.input):
                del copy.input[:]
                copy.input.extend(edges)
    _keep_functions(kept, graph_def)
    return kept


def _keep_functions(kept: GraphDef, graph_def: GraphDef) -> None:
    """Copy the functions that the nodes of ``kept`` call, directly or through others."""
    library = {function.signature.name: function for function in graph_def.library.function}
    pending = [name for node in kept.node for name in called_functions(node, library)]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        pending += [inner for node in library[name].node_def for inner in called_functions(node, library)]
    for name, function in library.items():
        if name in seen:
            kept.library.function.add().CopyFrom(function)


def called_functions(node: NodeDef, library: Mapping[str, Any]) -> list[str]:
    """Names of the library functions that a node refers to."""
    names = [node.op]
    for attribute in node.attr.values():
        if attribute.HasField("func"):
            names.append(attribute.func.name)
        elif attribute.HasField("list"):
            names += [function.name for function in attribute.list.func]
    return [name for name in names if name in library]


def is_pivot(node: NodeDef | None, nodes: Mapping[str, NodeDef]) -> bool:
    """Whether a control edge from ``node`` places its reader in a branch of a Switch or in a loop's body."""
    if node is None:
        return False
    if node.op in _FLOW_OPS:
        return True
    if node.op != "Identity" or not data_inputs(node):
        return False
    source = nodes.get(node_of(node.input[0]))
    return source is not None and source.op in _FLOW_OPS


_FLOW_OPS = frozenset({"Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond"})


def prune(graph_def: GraphDef, outputs: Iterable[str]) -> GraphDef:
    """A copy with only what ``outputs`` need. Control edges that order side effects go, and with them the
    asserts, prints and updates that hang on them: inference has none."""
    return keep_only(graph_def, ancestors(by_name(graph_def), outputs))


def all_nodes(graph_def: GraphDef) -> Iterator[NodeDef]:
    """Nodes of the graph and of its functions."""
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def rename_inputs(graph_def: GraphDef, renamed: Mapping[str, str]) -> None:
    """Make readers of the tensors in ``renamed`` read others instead."""
    for node in graph_def.node:
        for index, text in enumerate(node.input):
            if not is_control(text) and (other := renamed.get(tensor_name(text))) is not None:
                node.input[index] = input_name(other)


def attr_shape(node: NodeDef, key: str = "shape") -> Dims | None:
    """A shape attribute: a dimension is None where free; None as a whole where the rank is unknown."""
    if key not in node.attr or node.attr[key].shape.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else int(dim.size) for dim in node.attr[key].shape.dim)


def set_shape(node: NodeDef, shape: Dims | None, key: str = "shape") -> None:
    """Write a shape attribute."""
    proto = node.attr[key].shape
    proto.Clear()
    if shape is None:
        proto.unknown_rank = True
        return
    for size in shape:
        proto.dim.add().size = -1 if size is None else size


def constant(node: NodeDef) -> Array:
    """The value of a Const node."""
    import tensorflow as tf

    array: Array = tf.make_ndarray(node.attr["value"].tensor)
    return array


def make_constant(node: NodeDef, value: Array, dtype: int | None = None) -> None:
    """Turn a node into a Const of ``value``, keeping its name."""
    import tensorflow as tf

    name = node.name
    kind = tf.as_dtype(value.dtype).as_datatype_enum if dtype is None else dtype
    node.Clear()
    node.name = name
    node.op = "Const"
    node.attr["dtype"].type = kind
    node.attr["value"].tensor.CopyFrom(
        tf.make_tensor_proto(value, dtype=tf.as_dtype(kind), shape=value.shape)
    )


def make_placeholder(node: NodeDef, dtype: int, shape: Dims | None) -> None:
    """Turn a node into a Placeholder, keeping its name."""
    name = node.name
    node.Clear()
    node.name = name
    node.op = "Placeholder"
    node.attr["dtype"].type = dtype
    set_shape(node, shape)


def make_identity(node: NodeDef, tensor: str, dtype: int) -> None:
    """Turn a node into an Identity of ``tensor``, keeping its name."""
    name = node.name
    node.Clear()
    node.name = name
    node.op = "Identity"
    node.input.append(input_name(tensor))
    node.attr["T"].type = dtype
