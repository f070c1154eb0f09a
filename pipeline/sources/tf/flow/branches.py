"""Switch and Merge → StatelessIf, the innermost first.

A Switch sends its value into one of its outputs, by a predicate; what reads it runs only then, and so does
what hangs on it by a control edge. Each node therefore has conditions: which way each predicate must have
fallen for it to run. A Merge joins tensors whose conditions differ in one predicate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from optim.errors import UnsupportedModelError
from pipeline.sources.tf.flow.shapes import Types, loop_merges
from pipeline.sources.tf.flow.subgraph import add_function, call, make_subgraph
from pipeline.sources.tf.graph import (
    GraphDef,
    NodeDef,
    ancestors,
    by_name,
    data_inputs,
    index_of,
    is_control,
    make_identity,
    node_of,
)

_BOOL = 10  # DT_BOOL, tensorflow/core/framework/types.proto
Condition = tuple[str, int]  # predicate's tensor, which of the Switch's outputs lives


@dataclass
class Conditions:
    """What each node's running depends on, and what each Merge joins."""

    of: dict[str, frozenset[Condition]] = field(default_factory=dict)
    merged: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Merge → its predicate, and for each of its operands the way it falls."""
    roots: dict[str, str] = field(default_factory=dict)
    """Switch → its predicate."""


def conditions_of(graph_def: GraphDef, ends: Sequence[str]) -> Conditions:
    """The conditions of every node, as far as ``ends`` are concerned.

    Raises:
        UnsupportedModelError: a Merge joins what no ``tf.cond`` would.
    """
    nodes, loops = by_name(graph_def), loop_merges(graph_def)
    found, serving = Conditions(), _serving(nodes, ends)
    for node in graph_def.node:
        if node.op == "Switch" and not _ends_loop(node, nodes):
            found.roots[node.name] = _root(data_inputs(node)[1], nodes)
    for node in _ordered(nodes, loops):
        operands = [loops[node.name][0]] if node.name in loops else list(node.input)
        sets = [_condition(text, found) for text in operands]
        if node.op == "Merge" and node.name not in loops:
            known = _joined(node, sets, found) if node.name in serving else frozenset.intersection(*sets)
            found.of[node.name] = known
        else:
            found.of[node.name] = frozenset().union(*sets)
    return found


def _serving(
    nodes: Mapping[str, NodeDef],
    ends: Sequence[str],
    conditions: Conditions | None = None,
    places: Mapping[str, str] = MappingProxyType({}),
) -> set[str]:
    """Nodes whose values ``ends`` need: by data, and what decides between branches."""
    seen: set[str] = set()
    pending = [node_of(tensor) for tensor in ends]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        pending += [node_of(tensor) for tensor in data_inputs(nodes[name])]
        if conditions is not None and name in conditions.merged:
            root = conditions.merged[name][0]
            pending.append(node_of(places.get(root, root)))
    return seen


def _ends_loop(switch: NodeDef, nodes: dict[str, NodeDef]) -> bool:
    return bool(nodes[node_of(data_inputs(switch)[1])].op == "LoopCond")


def _root(tensor: str, nodes: dict[str, NodeDef]) -> str:
    while nodes[node_of(tensor)].op == "Identity":
        tensor = data_inputs(nodes[node_of(tensor)])[0]
    return tensor


def _condition(text: str, found: Conditions) -> frozenset[Condition]:
    name = node_of(text)
    own = found.of[name]
    if name in found.roots and not is_control(text):
        return own | {(found.roots[name], index_of(text))}
    return own


def _ordered(nodes: dict[str, NodeDef], loops: dict[str, tuple[str, str]]) -> list[NodeDef]:
    """Each node after what it reads; the edges that close loops are left out."""
    done: dict[str, None] = {}
    for start in nodes:
        stack = [start]
        while stack:
            name = stack[-1]
            if name in done:
                stack.pop()
                continue
            node = nodes[name]
            texts = [loops[name][0]] if name in loops else list(node.input)
            waiting = [node_of(text) for text in texts if node_of(text) not in done]
            if waiting:
                stack += waiting
            else:
                done[name] = None
                stack.pop()
    return [nodes[name] for name in done]


def _joined(node: NodeDef, sets: Sequence[frozenset[Condition]], found: Conditions) -> frozenset[Condition]:
    """The conditions of a Merge: those of its operands without the predicate that decides between them.

    An operand that hangs on nothing is a constant whose control edge was lost: it lives when no other does.
    """
    common = frozenset.intersection(*sets)
    open_ones = {root for one in sets for root, _ in one - common}
    for root in sorted(
        open_ones, key=lambda root: (-max(len(one) for one in sets if root in dict(one)), root)
    ):
        ways = [dict(one).get(root) for one in sets]
        if len(ways) == 2 and set(ways) in ({0, 1}, {0, None}, {1, None}):
            known = next(way for way in ways if way is not None)
            taken = tuple(1 - known if way is None else way for way in ways)
            found.merged[node.name] = (root, taken)
            return frozenset(one for one in frozenset().union(*sets) if one[0] != root)
    raise UnsupportedModelError(
        f"'{node.name}' joins branches of a form that tf.cond does not write",
        op="Merge",
        node=node.name,
        hint="name outputs before it (--outputs), or freeze what decides the branch (--freeze)",
    )


def functionalise_branches(
    graph_def: GraphDef,
    ends: Sequence[str],
    types: Types,
    conditions: Conditions,
    places: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Replace every Merge of branches by results of a StatelessIf, in place; loops have become functions.

    Args:
        graph_def: a whole graph, or the body of a loop.
        ends: its outputs.
        types: of its tensors; those of new nodes are added.
        conditions: of the whole graph.
        places: tensors of the whole graph that other tensors stand for here.

    Raises:
        UnsupportedModelError: the index of a Merge is read, or a branch is left open.
    """
    while True:
        nodes = by_name(graph_def)
        serving = _serving(nodes, ends, conditions, places)
        merges = [
            node for node in graph_def.node if node.op == "Merge" and _is_open(node, serving, conditions)
        ]
        if not merges:
            return
        names = {node.name for node in merges}
        needs = {node.name: ancestors(nodes, [f"{node.name}:0"]) for node in merges}
        first = next(node for node in merges if needs[node.name] & names == {node.name})
        group = [first]
        for node in merges:
            alone = needs[node.name] & names == {node.name}
            if node is not first and alone and _alike(node.name, first.name, conditions):
                group.append(node)
        _collapse(graph_def, group, types, conditions, places)


def _is_open(merge: NodeDef, serving: set[str], conditions: Conditions) -> bool:
    return merge.name in serving and merge.name in conditions.merged


def _alike(one: str, other: str, conditions: Conditions) -> bool:
    """Whether two Merges are decided by the same predicate under the same conditions."""
    same = conditions.merged[one][0] == conditions.merged[other][0]
    return same and conditions.of[one] == conditions.of[other]


def _collapse(
    graph_def: GraphDef,
    group: Sequence[NodeDef],
    types: Types,
    conditions: Conditions,
    places: Mapping[str, str],
) -> None:
    nodes, first = by_name(graph_def), group[0].name
    root = conditions.merged[first][0]
    stem = re.sub(r"\W", "_", first)
    ends = [[_operand(node, way, conditions) for node in group] for way in (0, 1)]
    members = [_members(graph_def, tensors, (root, way), conditions) for way, tensors in enumerate(ends)]
    sources = _sources(nodes, members, ends, root, conditions)
    outside = list(dict.fromkeys(sources.values()))
    stands = [tuple(tensor for tensor, source in sources.items() if source == one) for one in outside]
    for way in (0, 1):
        name = f"{stem}_way{way}"
        add_function(
            graph_def, make_subgraph(name, members[way], stands, ends[way], types, outside, graph_def)
        )
    results = [types[f"{node.name}:0"] for node in group]
    made = call(
        graph_def,
        "StatelessIf",
        f"{first}/if",
        [places.get(root, root), *outside],
        {"then_branch": f"{stem}_way1", "else_branch": f"{stem}_way0"},
        results,
    )
    made.attr["Tcond"].type = _BOOL
    made.attr["Tin"].list.type.extend(types[tensor][0] for tensor in outside)
    conditions.of[made.name] = conditions.of[first]
    for number, node in enumerate(group):
        types[f"{made.name}:{number}"] = results[number]
        make_identity(node, f"{made.name}:{number}", results[number][0])


def _operand(merge: NodeDef, way: int, conditions: Conditions) -> str:
    return data_inputs(merge)[conditions.merged[merge.name][1].index(way)]


def _members(
    graph_def: GraphDef, ends: Sequence[str], condition: Condition, conditions: Conditions
) -> list[NodeDef]:
    """Nodes that run only under ``condition`` and serve ``ends``, and the constants that they read."""
    nodes, found, pending = by_name(graph_def), set(), [node_of(tensor) for tensor in ends]
    while pending:
        name = pending.pop()
        inside = condition in conditions.of.get(name, ()) and conditions.roots.get(name) != condition[0]
        if name in found or not (inside or nodes[name].op == "Const"):
            continue
        found.add(name)
        pending += [node_of(tensor) for tensor in data_inputs(nodes[name])]
    return [node for node in graph_def.node if node.name in found]


def _sources(
    nodes: dict[str, NodeDef],
    members: Sequence[Sequence[NodeDef]],
    ends: Sequence[Sequence[str]],
    root: str,
    conditions: Conditions,
) -> dict[str, str]:
    """Tensors that the branches read from around them → where they come from: behind the Switch."""
    found: dict[str, str] = {}
    for inside, tensors in zip(members, ends, strict=True):
        present = {node.name for node in inside}
        read = [tensor for node in inside for tensor in data_inputs(node)]
        for tensor in [*read, *tensors]:
            if node_of(tensor) not in present:
                switched = conditions.roots.get(node_of(tensor)) == root
                found[tensor] = data_inputs(nodes[node_of(tensor)])[0] if switched else tensor
    return found
