"""Constants keep the name of the variable they come from.

Folding turns what only passes a constant on into a constant of that node's name: ``conv1/kernel/read``,
``bn1/cond/FusedBatchNormV3/Switch_1``. People look for ``conv1/kernel`` and ``bn1/gamma``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.sources.tf.graph import GraphDef, by_name, data_inputs, node_of, rename_inputs

_PASSING = frozenset({"Identity", "Switch", "Enter", "ReadVariableOp"})


def constant_roots(graph_def: GraphDef) -> dict[str, str]:
    """Node → the constant whose value it passes on unchanged: ``conv1/kernel/read`` → ``conv1/kernel``."""
    nodes = by_name(graph_def)
    roots: dict[str, str] = {}
    for node in graph_def.node:
        source, steps = node, 0
        while source is not None and source.op in _PASSING and data_inputs(source) and steps < len(nodes):
            source, steps = nodes.get(node_of(data_inputs(source)[0])), steps + 1
        if source is not None and source.op == "Const" and source is not node:
            roots[node.name] = source.name
    return roots


def name_constants(graph_def: GraphDef, roots: Mapping[str, str], outputs: Sequence[str]) -> None:
    """Give constants the names of their roots, in place; where two have one root, both readers read one."""
    kept = {node_of(tensor) for tensor in outputs}
    nodes = by_name(graph_def)
    holders = {name for name, node in nodes.items() if node.op == "Const"} & set(roots.values())
    renamed: dict[str, str] = {}
    for name, node in nodes.items():
        root = roots.get(name)
        if node.op != "Const" or root is None or name in kept or (root in nodes and root not in holders):
            continue
        renamed[f"{name}:0"] = f"{root}:0"
        if root not in holders:
            node.name = root
            holders.add(root)
    rename_inputs(graph_def, renamed)
    unread = {node_of(tensor) for tensor in renamed}
    dead = [index for index, node in enumerate(graph_def.node) if node.name in unread]
    for index in reversed(dead):
        del graph_def.node[index]
