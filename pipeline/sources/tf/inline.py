"""Function calls that freezing left over, and branches that became constant, written out into the graph."""

from __future__ import annotations

import itertools
from typing import Any

from pipeline.sources.tf.graph import (
    GraphDef,
    NodeDef,
    by_name,
    constant,
    data_inputs,
    input_name,
    is_control,
    node_of,
    rename_inputs,
    tensor_name,
)

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_BRANCHES = frozenset({"If", "StatelessIf"})
_MOST_ROUNDS = 64


def inline_calls(graph_def: GraphDef) -> int:
    """Replace every call node by its function's body, in place, until none is left; how many there were."""
    return _inline(graph_def, lambda node, _: _called(node, graph_def))


def resolve_branches(graph_def: GraphDef) -> int:
    """Replace ``If`` nodes whose condition is constant by the branch taken, in place; how many there were."""
    return _inline(graph_def, _taken)


def _called(node: NodeDef, graph_def: GraphDef) -> tuple[str, list[str]] | None:
    library = {function.signature.name for function in graph_def.library.function}
    if node.op in _CALLS:
        return node.attr["f"].func.name, data_inputs(node)
    return (node.op, data_inputs(node)) if node.op in library else None


def _taken(node: NodeDef, nodes: dict[str, NodeDef]) -> tuple[str, list[str]] | None:
    if node.op not in _BRANCHES:
        return None
    condition, *operands = data_inputs(node)
    source = nodes.get(node_of(condition))
    while source is not None and source.op == "Identity":
        source = nodes.get(node_of(source.input[0]))
    if source is None or source.op != "Const":
        return None
    value = constant(source)
    truth = bool(value) if value.ndim == 0 else value.size > 0
    return node.attr["then_branch" if truth else "else_branch"].func.name, operands


def _inline(graph_def: GraphDef, choose: Any) -> int:
    done = 0
    for _ in range(_MOST_ROUNDS):
        nodes = by_name(graph_def)
        found = [(node, call) for node in graph_def.node if (call := choose(node, nodes)) is not None]
        if not found:
            break
        for node, (function, operands) in found:
            _write_out(graph_def, node.name, function, operands)
            done += 1
    return done


def _write_out(graph_def: GraphDef, call: str, function: str, operands: list[str]) -> None:
    """Put the body of ``function`` in place of node ``call``; the call's outputs become Identity nodes."""
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

    definition = next(one for one in graph_def.library.function if one.signature.name == function)
    body, flat = function_def_to_graph_def(definition)
    arguments = {arg.name: operands[i] for i, arg in enumerate(definition.signature.input_arg)}
    prefix = _free_prefix(graph_def, call, [node.name for node in body.node])

    def outer(text: str) -> str:
        if is_control(text):
            return f"^{prefix}/{text[1:]}"
        name = node_of(text)
        return input_name(arguments[name]) if name in arguments else f"{prefix}/{text}"

    for node in body.node:
        if node.name in arguments:
            continue
        copy = graph_def.node.add()
        copy.CopyFrom(node)
        copy.name = f"{prefix}/{node.name}"
        copy.input[:] = [outer(text) for text in node.input if not is_control(text)]
    results = [tensor_name(outer(flat[definition.ret[arg.name]])) for arg in definition.signature.output_arg]
    nodes = list(graph_def.node)
    position = next(i for i, node in enumerate(nodes) if node.name == call)
    types = [arg.type for arg in definition.signature.output_arg]
    old = nodes[position]
    if len(results) == 1:
        # The call's own name lives on, so that tensors named after it survive.
        _identity(old, call, results[0], types[0])
        return
    del graph_def.node[position]
    rename_inputs(graph_def, {f"{call}:{i}": result for i, result in enumerate(results)})
    first = graph_def.node.add()
    _identity(first, call, results[0], types[0])


def _free_prefix(graph_def: GraphDef, call: str, inner: list[str]) -> str:
    """``call``, or ``call/body`` … where the graph has nodes of such names: TensorFlow itself puts
    ``cond/Identity`` behind a branch ``cond`` that may hold an ``Identity``."""
    taken = set(by_name(graph_def))
    candidates = (call if number == 0 else f"{call}/body{number}" for number in itertools.count())
    return next(one for one in candidates if taken.isdisjoint(f"{one}/{name}" for name in inner))


def _identity(node: NodeDef, name: str, tensor: str, dtype: int) -> None:
    node.Clear()
    node.name, node.op = name, "Identity"
    node.input.append(input_name(tensor))
    node.attr["T"].type = dtype
