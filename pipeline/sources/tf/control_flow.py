"""Branches whose condition has become constant: Switch and Merge (TF 1), If (TF 2), Select.

The rule is the executor's own: a Switch with a known predicate makes one of its outputs dead, a node with a
dead input is dead, a Merge takes the input that lives
(https://www.tensorflow.org/api_docs/python/tf/raw_ops/Switch).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optim.errors import UnsupportedModelError
from pipeline.sources.tf.fold import fold_constants, static_shapes
from pipeline.sources.tf.graph import (
    GraphDef,
    NodeDef,
    by_name,
    constant,
    data_inputs,
    is_control,
    make_constant,
    make_identity,
    node_of,
    prune,
    rename_inputs,
    tensor_name,
)
from pipeline.sources.tf.inline import inline_calls, resolve_branches

_MOST_ROUNDS = 32


def settle(graph_def: GraphDef, outputs: list[str]) -> GraphDef:
    """Fold constants and resolve branches until neither finds anything more; a pruned copy."""
    current = prune(graph_def, outputs)
    for _ in range(_MOST_ROUNDS):
        fold_constants(current, outputs)
        changed = inline_calls(current) + resolve_branches(current) + resolve_switches(current, outputs)
        changed += resolve_selects(current)
        current = prune(current, outputs)
        if not changed:
            break
    return current


def resolve_selects(graph_def: GraphDef) -> int:
    """A Select with one constant truth passes one of its operands on, in place; how many there were.

    Only where both have the shape of the result: SelectV2 spreads the smaller one.
    """
    nodes = by_name(graph_def)
    found = {
        node.name: bool(constant(source).reshape(()))
        for node in graph_def.node
        if node.op in ("Select", "SelectV2")
        and (source := nodes.get(node_of(data_inputs(node)[0]))) is not None
        and source.op == "Const"
        and constant(source).ndim == 0
    }
    if not found:
        return 0
    shapes = static_shapes(graph_def)
    done = 0
    for name, truth in found.items():
        node = nodes[name]
        _, yes, no = data_inputs(node)
        if shapes.get(yes) is not None and shapes.get(yes) == shapes.get(no):
            make_identity(node, yes if truth else no, node.attr["T"].type)
            done += 1
    return done


def resolve_switches(graph_def: GraphDef, outputs: Sequence[str] = ()) -> int:
    """Take the living branch of every Switch with a constant predicate, in place; how many there were."""
    nodes = by_name(graph_def)
    taken = {
        node.name: truth
        for node in graph_def.node
        if node.op == "Switch" and (truth := _predicate(node, nodes)) is not None
    }
    if not taken:
        return 0
    dead = _dead_tensors(graph_def, taken)
    _refuse_dead(outputs, dead)
    _resolve_merges(graph_def, dead)
    renamed: dict[str, str] = {}
    for name, truth in taken.items():
        renamed[f"{name}:{int(truth)}"] = f"{name}:0"
    for node in graph_def.node:
        if node.name in taken:
            make_identity(node, data_inputs(node)[0], node.attr["T"].type)
    rename_inputs(graph_def, renamed)
    return len(taken)


def _refuse_dead(outputs: Sequence[str], dead: set[str]) -> None:
    for tensor in outputs:
        if tensor in dead:
            raise UnsupportedModelError(
                f"output '{tensor}' lies in a branch that inference never takes",
                node=node_of(tensor),
                hint="name an output after the branches have met again (--outputs)",
            )


def _predicate(switch: NodeDef, nodes: dict[str, NodeDef]) -> bool | None:
    source = nodes.get(node_of(data_inputs(switch)[1]))
    for _ in range(_MOST_ROUNDS):
        if source is None:
            return None
        if source.op == "Const":
            return bool(constant(source).reshape(()))
        if source.op != "Identity":
            return None
        source = nodes.get(node_of(source.input[0]))
    return None


def _dead_tensors(graph_def: GraphDef, taken: dict[str, bool]) -> set[str]:
    """Tensors that never carry a value; a dead node's control output is written ``^node``."""
    dead = {f"{name}:{int(not truth)}" for name, truth in taken.items()}
    dead_nodes: set[str] = set()
    changed = True
    while changed:
        changed = False
        for node in graph_def.node:
            if node.name in dead_nodes:
                continue
            states = [_is_dead(text, dead, dead_nodes) for text in node.input]
            gone = bool(states) and (all(states) if node.op == "Merge" else any(states))
            if gone:
                dead_nodes.add(node.name)
                dead |= {f"{node.name}:{index}" for index in range(_output_count(node))}
                changed = True
    return dead


def _is_dead(text: str, dead: set[str], dead_nodes: set[str]) -> bool:
    return node_of(text) in dead_nodes if is_control(text) else tensor_name(text) in dead


def _output_count(node: NodeDef) -> int:
    return 2 if node.op in ("Switch", "Merge") else max(8, len(node.attr["Tout"].list.type))


def _resolve_merges(graph_def: GraphDef, dead: set[str]) -> None:
    renamed: dict[str, str] = {}
    added: list[tuple[str, int]] = []
    for node in graph_def.node:
        if node.op != "Merge":
            continue
        operands = data_inputs(node)
        alive = [index for index, tensor in enumerate(operands) if tensor not in dead]
        if len(alive) != 1 or len(alive) == len(operands):
            continue
        index_name = f"{node.name}/value_index"
        renamed[f"{node.name}:1"] = f"{index_name}:0"
        added.append((index_name, alive[0]))
        make_identity(node, operands[alive[0]], node.attr["T"].type)
    rename_inputs(graph_def, renamed)
    for name, value in added:
        node = graph_def.node.add()
        node.name = name
        make_constant(node, np.asarray(value, np.int32))
