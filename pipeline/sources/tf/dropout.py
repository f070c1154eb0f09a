"""Dropout out of a training graph, found by what it computes, whatever it is called.

    mask = floor(keep + U)  |  U >= rate  |  U < keep          U uniform on [0, 1)
    y = (x / keep) * mask   |  (x * scale) * mask  |  Select(mask, x * scale, 0)

becomes y = x. With keep = 1 the mask is all ones and the scale is one, so for a placeholder this is its
inference value; for a constant it is what dropout means at inference. The scale must be the inverse of the
keep probability, or the node is left alone (and later refused as random).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.sources.tf.fold import import_graph
from pipeline.sources.tf.graph import (
    GraphDef,
    NodeDef,
    ancestors,
    by_name,
    consumers,
    data_inputs,
    make_identity,
    node_of,
    prune,
)
from pipeline.sources.tf.random_ops import is_random

_AFFINE = frozenset({"Mul", "Add", "AddV2", "Sub", "Identity", "Reshape", "Cast", "Switch", "Merge"})
_COMPARE = frozenset({"GreaterEqual", "Greater", "Less", "LessEqual"})
_THROUGH = frozenset({"Identity", "Cast", "Reshape"})
_SCALAR_INPUTS = frozenset({"Const", "Placeholder", "PlaceholderWithDefault"})
_SCALAR_OPS = _SCALAR_INPUTS | {
    "Identity", "Sub", "RealDiv", "Div", "Reciprocal", "Inv", "Cast", "Mul", "Reshape", "ExpandDims",
    "Maximum", "Minimum", "Add", "AddV2",
}  # fmt: skip
_PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderWithDefault"})


@dataclass(frozen=True)
class Dropout:
    """One dropout: its output node, the tensor it drops from, its probability and who sets that."""

    output: str
    x: str
    probability: str  # tensor of the threshold: keep probability or rate
    is_rate: bool
    placeholders: tuple[str, ...]  # nodes that set the probability; none: a constant


def find_dropouts(graph_def: GraphDef) -> list[Dropout]:
    """Dropouts of a graph, in its order."""
    nodes, readers = by_name(graph_def), consumers(graph_def)
    found: dict[str, Dropout] = {}
    for node in graph_def.node:
        if is_random(node):
            for one in _dropouts_of(node, nodes, readers):
                found.setdefault(one.output, one)
    return list(found.values())


def remove(graph_def: GraphDef, dropouts: list[Dropout]) -> None:
    """Let what each dropout would have dropped from pass, in place."""
    nodes = by_name(graph_def)
    for one in dropouts:
        node = nodes[one.output]
        make_identity(node, one.x, node.attr["T"].type)


def drops_nothing(graph_def: GraphDef, one: Dropout) -> bool:
    """Whether the probability of a dropout, as ``graph_def`` computes it, lets everything pass."""
    reached = _evaluate(graph_def, one.probability, None, 0.0)
    return reached is not None and reached == (0.0 if one.is_rate else 1.0)


def inference_values(graph_def: GraphDef, dropouts: list[Dropout]) -> dict[str, float]:
    """The value of each placeholder at which its dropout drops nothing, by node name."""
    values: dict[str, float] = {}
    for one in dropouts:
        if len(one.placeholders) != 1 or one.placeholders[0] in values:
            continue
        for candidate in (1.0, 0.0):
            reached = _evaluate(graph_def, one.probability, one.placeholders[0], candidate)
            if reached is not None and reached == (0.0 if one.is_rate else 1.0):
                values[one.placeholders[0]] = candidate
                break
    return values


def _dropouts_of(
    source: NodeDef, nodes: Mapping[str, NodeDef], readers: Mapping[str, list[NodeDef]]
) -> list[Dropout]:
    found: list[Dropout] = []
    pending, seen = [f"{source.name}:0"], set()
    while pending:
        tensor = pending.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        for reader in readers.get(tensor, []):
            if reader.op in _COMPARE:
                threshold = next(t for t in [*data_inputs(reader), ""] if t != tensor)
                on_left = data_inputs(reader)[0] == tensor
                keeps_above = (reader.op in ("GreaterEqual", "Greater")) == on_left
                found += _from_mask(reader, threshold, keeps_above, nodes, readers)
            elif reader.op == "Floor":
                keep = _keep_of_floor(tensor, nodes)
                if keep is not None:
                    found += _from_mask(reader, keep, False, nodes, readers)
            elif reader.op in _AFFINE:
                pending.append(f"{reader.name}:0")
    return found


def _keep_of_floor(tensor: str, nodes: Mapping[str, NodeDef]) -> str | None:
    """The keep probability in floor(keep + uniform)."""
    node = nodes[node_of(tensor)]
    while node.op == "Identity":
        node = nodes[node_of(node.input[0])]
    if node.op not in ("Add", "AddV2"):
        return None
    for operand in data_inputs(node):
        if not any(is_random(nodes[name]) for name in ancestors(nodes, [operand])):
            return operand
    return None


def _from_mask(
    mask: NodeDef,
    threshold: str,
    is_rate: bool,
    nodes: Mapping[str, NodeDef],
    readers: Mapping[str, list[NodeDef]],
) -> list[Dropout]:
    found: list[Dropout] = []
    pending = [f"{mask.name}:0"]
    while pending:
        tensor = pending.pop()
        for reader in readers.get(tensor, []):
            operands = data_inputs(reader)
            if reader.op in _THROUGH:
                pending.append(f"{reader.name}:0")
            elif reader.op == "Mul":
                scaled = operands[1] if operands[0] == tensor else operands[0]
                found += _unscaled(reader, scaled, threshold, is_rate, nodes)
            elif reader.op in ("Select", "SelectV2") and operands[0] == tensor:
                found += _unscaled(reader, operands[1], threshold, is_rate, nodes)
    return found


def _unscaled(
    output: NodeDef, scaled: str, threshold: str, is_rate: bool, nodes: Mapping[str, NodeDef]
) -> list[Dropout]:
    node = nodes[node_of(scaled)]
    while node.op == "Identity":
        node = nodes[node_of(node.input[0])]
    if node.op not in ("Mul", "RealDiv", "Div"):
        return []
    a, b = data_inputs(node)
    if node.op == "Mul" and _is_scalar_side(a, nodes):
        a, b = b, a
    if not _is_scalar_side(b, nodes):
        return []
    scale_set = _placeholders(b, nodes)
    if scale_set != _placeholders(threshold, nodes):
        return []
    if not scale_set and not _inverse(b, node.op != "Mul", threshold, is_rate, nodes):
        return []
    return [Dropout(output.name, a, threshold, is_rate, tuple(sorted(scale_set)))]


def _is_scalar_side(tensor: str, nodes: Mapping[str, NodeDef]) -> bool:
    """Whether a tensor is computed from constants and placeholders alone, by arithmetic."""
    names = ancestors(nodes, [tensor])
    if any(nodes[name].op not in _SCALAR_OPS for name in names):
        return False
    sizes = [nodes[name].attr["shape"].shape for name in names if nodes[name].op in _PLACEHOLDERS]
    return all(not shape.dim for shape in sizes)


def _placeholders(tensor: str, nodes: Mapping[str, NodeDef]) -> set[str]:
    return {name for name in ancestors(nodes, [tensor]) if nodes[name].op in _PLACEHOLDERS}


def _inverse(scale: str, divides: bool, threshold: str, is_rate: bool, nodes: Mapping[str, NodeDef]) -> bool:
    from tensorflow.core.framework import graph_pb2

    graph_def = graph_pb2.GraphDef()
    graph_def.node.extend(nodes.values())
    values = [_evaluate(graph_def, tensor, None, 0.0) for tensor in (scale, threshold)]
    if values[0] is None or values[1] is None:
        return False
    keep = 1.0 - values[1] if is_rate else values[1]
    factor = 1.0 / values[0] if divides else values[0]
    return bool(np.isclose(factor * keep, 1.0, rtol=1e-3))


def _evaluate(graph_def: GraphDef, tensor: str, placeholder: str | None, value: float) -> float | None:
    """A scalar computed from constants and one placeholder."""
    import tensorflow as tf

    try:
        graph = import_graph(prune(graph_def, [tensor]))
        feeds = {} if placeholder is None else {f"{placeholder}:0": value}
        with tf.compat.v1.Session(graph=graph) as session:
            return float(np.asarray(session.run(tensor, feeds)).reshape(()))
    except (ValueError, TypeError, tf.errors.OpError):
        return None
