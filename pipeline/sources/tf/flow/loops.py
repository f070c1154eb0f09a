"""Frames of Enter, Merge, Switch, NextIteration and Exit → StatelessWhile, the innermost first.

https://www.tensorflow.org/api_docs/python/tf/raw_ops/Enter and the white paper "Implementation of Control
Flow in TensorFlow" define the form. Each variable of a loop is Enter → Merge (with NextIteration) → Switch by
LoopCond → Exit, or its body. What an Enter marked constant brings in is handed through unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from optim.errors import UnsupportedModelError
from pipeline.sources.tf.flow.branches import Conditions, functionalise_branches
from pipeline.sources.tf.flow.shapes import Types, loop_merges
from pipeline.sources.tf.flow.subgraph import add_function, call, make_subgraph
from pipeline.sources.tf.graph import (
    GraphDef,
    NodeDef,
    by_name,
    data_inputs,
    index_of,
    make_identity,
    node_of,
    tensor_name,
)


@dataclass(frozen=True)
class _Variable:
    """One variable of a loop, by its nodes' names."""

    enter: str
    merge: str
    switch: str  # empty: neither the body nor anything after the loop reads it
    later: str  # the tensor that NextIteration hands on
    exit: str  # empty: nothing after the loop reads it


@dataclass(frozen=True)
class _Frame:
    name: str
    condition: str  # the LoopCond
    variables: tuple[_Variable, ...]
    constants: tuple[str, ...]  # Enter nodes


def functionalise_loops(
    graph_def: GraphDef, types: Types, conditions: Conditions, kept_frames: Collection[str] = ()
) -> None:
    """Replace every loop's Exits by results of a StatelessWhile, in place; not of the loops ``kept_frames``.

    Raises:
        UnsupportedModelError: a frame is not of the form that ``tf.while_loop`` writes.
    """
    pending = [frame for frame in _frames(graph_def) if frame.name not in kept_frames]
    while pending:
        ready = [frame for frame in pending if not _holds_another(graph_def, frame, pending, conditions)]
        if not ready:
            raise _odd(pending[0].condition, "loops hold each other")
        for frame in ready:
            _collapse(graph_def, frame, types, conditions)
        pending = [frame for frame in pending if frame not in ready]


def _frames(graph_def: GraphDef) -> list[_Frame]:
    nodes, merges = by_name(graph_def), loop_merges(graph_def)
    readers: dict[str, list[NodeDef]] = {}
    for node in graph_def.node:
        for tensor in data_inputs(node):
            readers.setdefault(node_of(tensor), []).append(node)
    entered: dict[str, list[NodeDef]] = {}
    for node in graph_def.node:
        if node.op == "Enter":
            entered.setdefault(node.attr["frame_name"].s.decode(), []).append(node)
    frames = []
    for name, enters in entered.items():
        variables, constants, conditions = [], [], set()
        for enter in enters:
            merge = next((n for n in readers.get(enter.name, []) if n.name in merges), None)
            if merge is None:
                constants.append(enter.name)
                continue
            switch = next((n for n in readers.get(merge.name, []) if n.op == "Switch"), None)
            later = data_inputs(nodes[node_of(merges[merge.name][1])])[0]
            exit_ = None
            if switch is not None:
                conditions.add(node_of(data_inputs(switch)[1]))
                exit_ = next((n for n in readers.get(switch.name, []) if n.op == "Exit"), None)
            variables.append(
                _Variable(
                    enter.name,
                    merge.name,
                    "" if switch is None else switch.name,
                    later,
                    "" if exit_ is None else exit_.name,
                )
            )
        if len(conditions) != 1 or nodes[next(iter(conditions))].op != "LoopCond":
            raise _odd(enters[0].name, f"the frame '{name}' has {len(conditions)} conditions")
        frames.append(_Frame(name, conditions.pop(), tuple(variables), tuple(constants)))
    return frames


def _odd(node: str, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"a loop of a form that tf.while_loop does not write: {why}",
        op="Enter",
        node=node,
        hint="name outputs before the loop (--outputs)",
    )


def _ends(graph_def: GraphDef, frame: _Frame) -> list[str]:
    condition = data_inputs(by_name(graph_def)[frame.condition])[0]
    return [condition, *(variable.later for variable in frame.variables)]


def _holds_another(
    graph_def: GraphDef, frame: _Frame, pending: Sequence[_Frame], conditions: Conditions
) -> bool:
    exits = {one.exit for other in pending if other is not frame for one in other.variables if one.exit}
    inside = _inside(graph_def, frame, _ends(graph_def, frame), conditions)
    return any(node.name in exits for node in inside)


def _inside(graph_def: GraphDef, frame: _Frame, ends: Sequence[str], conditions: Conditions) -> list[NodeDef]:
    """Nodes of the frame that ``ends`` need, in the graph's order."""
    borders = {one.merge for one in frame.variables} | {one.switch for one in frame.variables}
    borders |= set(frame.constants)
    nodes, seen, pending = by_name(graph_def), set(), [node_of(tensor) for tensor in ends]
    while pending:
        name = pending.pop()
        if name in seen or name in borders or nodes[name].op == "Placeholder":
            continue
        seen.add(name)
        pending += [node_of(tensor) for tensor in data_inputs(nodes[name])]
        if name in conditions.merged:  # what decides between constants is read by none of them
            pending.append(node_of(conditions.merged[name][0]))
    return [node for node in graph_def.node if node.name in seen]


def _collapse(graph_def: GraphDef, frame: _Frame, types: Types, conditions: Conditions) -> None:
    nodes = by_name(graph_def)
    stem = re.sub(r"\W", "_", frame.condition)
    predicate, *later = _ends(graph_def, frame)
    body = _inside(graph_def, frame, later, conditions)
    test = _inside(graph_def, frame, [predicate], conditions)
    outer = _outer(graph_def, [*body, *test])
    # Each argument stands for these tensors inside the loop; its initial value lies outside.
    inputs: list[tuple[str, ...]] = [
        (f"{one.merge}:0", *((f"{one.switch}:0", f"{one.switch}:1") if one.switch else ()))
        for one in frame.variables
    ]
    inputs += [(f"{name}:0",) for name in frame.constants]
    inputs += [(tensor,) for tensor in outer]
    starts = [data_inputs(nodes[one.enter])[0] for one in frame.variables]
    starts += [data_inputs(nodes[name])[0] for name in frame.constants]
    starts += outer
    shapes_of = [f"{one.merge}:0" for one in frame.variables]
    shapes_of += [f"{name}:0" for name in frame.constants] + outer
    for side, members, results in (
        ("test", test, [predicate]),
        ("body", body, [*later, *(names[0] for names in inputs[len(later) :])]),
    ):
        made = make_subgraph(f"{stem}_{side}", members, inputs, results, types, shapes_of, graph_def)
        made.graph_def.library.CopyFrom(graph_def.library)
        functionalise_branches(made.graph_def, made.outputs, types, conditions, made.places)
        del graph_def.library.function[:]
        graph_def.library.function.extend(made.graph_def.library.function)
        add_function(graph_def, made)
    name = f"{frame.condition}/loop"
    call(
        graph_def,
        "StatelessWhile",
        name,
        starts,
        {"cond": f"{stem}_test", "body": f"{stem}_body"},
        [types[tensor] for tensor in shapes_of],
    )
    conditions.of[name] = frozenset().union(*(conditions.of[one.enter] for one in frame.variables))
    for number, variable in enumerate(frame.variables):
        if variable.exit:
            result = tensor_name(f"{name}:{number}")
            make_identity(nodes[variable.exit], result, types[f"{variable.merge}:0"][0])


def _outer(graph_def: GraphDef, members: Sequence[NodeDef]) -> list[str]:
    """Placeholders that the loop reads without an Enter: weights that were taken out of the graph."""
    nodes = by_name(graph_def)
    read = dict.fromkeys(tensor for node in members for tensor in data_inputs(node))
    return [t for t in read if nodes[node_of(t)].op == "Placeholder" and index_of(t) == 0]
