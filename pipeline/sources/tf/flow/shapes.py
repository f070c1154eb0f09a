"""Static shapes of a flat graph with loops.

TensorFlow's import knows nothing of a loop's variable before its first round, since the edge that closes the
loop comes last. Here each variable is first taken to have its initial shape; what the body makes of it then
loosens that until nothing changes.
"""

from __future__ import annotations

from pipeline.sources.tf.fold import import_graph
from pipeline.sources.tf.graph import (
    Dims,
    GraphDef,
    NodeDef,
    by_name,
    data_inputs,
    make_identity,
    node_of,
    set_shape,
)

_MOST_ROUNDS = 12
Types = dict[str, tuple[int, Dims | None]]
"""Tensor name → dtype (DataType) and shape; None as a whole where the rank is unknown."""


def loop_merges(graph_def: GraphDef) -> dict[str, tuple[str, str]]:
    """Merge nodes that begin a loop's round → the tensors that enter it, first and from then on."""
    nodes = by_name(graph_def)
    found: dict[str, tuple[str, str]] = {}
    for node in graph_def.node:
        if node.op != "Merge":
            continue
        operands = data_inputs(node)
        kinds = [nodes[node_of(tensor)].op for tensor in operands]
        if "NextIteration" in kinds and len(operands) == 2:
            later = kinds.index("NextIteration")
            found[node.name] = (operands[1 - later], operands[later])
    return found


def flow_types(graph_def: GraphDef) -> Types:
    """Dtype and inferred shape of every tensor, those inside loops included.

    Raises:
        ValueError: TensorFlow rejects the graph.
    """
    merges = loop_merges(graph_def)
    if not merges:
        return _types(graph_def)
    loosened: dict[str, Dims | None] = {}
    for _ in range(_MOST_ROUNDS):
        types = _types(_opened(graph_def, merges, loosened))
        changed = False
        for name, (_, later) in merges.items():
            now, then = types[f"{name}:0"][1], types[later][1]
            common = _common(now, then)
            if common != now:
                loosened[name], changed = common, True
        if not changed:
            return types
    for name in merges:
        loosened[name] = None
    return _types(_opened(graph_def, merges, loosened))


def _opened(
    graph_def: GraphDef, merges: dict[str, tuple[str, str]], loosened: dict[str, Dims | None]
) -> GraphDef:
    """A copy without the edges that close the loops, its variables of the shapes ``loosened``."""
    copy = type(graph_def)()
    copy.CopyFrom(graph_def)
    for node in copy.node:
        if node.name in merges:
            _open(node, merges[node.name][0], loosened)
        elif node.op == "Enter":  # whose shape TensorFlow does not hand on
            make_identity(node, data_inputs(node)[0], node.attr["T"].type)
    return copy


def _open(node: NodeDef, first: str, loosened: dict[str, Dims | None]) -> None:
    kind, name = node.attr["T"].type, node.name
    node.Clear()
    node.name = name
    node.input.append(first)
    if name not in loosened:
        node.op = "Identity"
        node.attr["T"].type = kind
        return
    node.op = "PlaceholderWithDefault"
    node.attr["dtype"].type = kind
    set_shape(node, loosened[name])


def _types(graph_def: GraphDef) -> Types:
    graph = import_graph(graph_def)
    return {
        tensor.name: (
            tensor.dtype.base_dtype.as_datatype_enum,
            None if tensor.shape.rank is None else tuple(tensor.shape.as_list()),
        )
        for op in graph.get_operations()
        for tensor in op.outputs
    }


def _common(a: Dims | None, b: Dims | None) -> Dims | None:
    """The narrowest shape that both have."""
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple(x if x == y else None for x, y in zip(a, b, strict=True))
