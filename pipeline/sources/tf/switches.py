"""Training switches frozen to inference, found by what they do to the graph.

A switch is a scalar placeholder that only decides branches (predicates of Switch, If, Select). Both values
are tried; the one that leaves less of training in the graph (random ops, batch statistics, updates) is
inference. Keep probabilities of dropout are handled in ``dropout.py``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from optim.errors import UnsupportedModelError
from pipeline.sources.contract import Frozen
from pipeline.sources.tf.control_flow import settle
from pipeline.sources.tf.graph import (
    GraphDef,
    NodeDef,
    attr_shape,
    by_name,
    constant,
    consumers,
    data_inputs,
    make_constant,
    node_of,
)
from pipeline.sources.tf.random_ops import is_random

_PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})
_LOGIC = frozenset(
    {"Identity", "LogicalNot", "LogicalAnd", "LogicalOr", "Cast", "Reshape", "Squeeze", "ExpandDims", "Equal",
     "NotEqual", "Greater", "Less", "GreaterEqual", "LessEqual", "ToBool"}
)  # fmt: skip
_TRAINING_NAME = re.compile(r"train|learning_phase|dropout|phase", re.IGNORECASE)
_TESTING_NAME = re.compile(r"test|infer|eval|predict|deterministic", re.IGNORECASE)
# What is left of training in a graph, and how surely it means training.
_WEIGHT_RANDOM, _WEIGHT_UPDATE, _WEIGHT_BATCH_NORM, _WEIGHT_STATISTIC = 1000, 300, 100, 1
# A mean alone is no sign of training: pooling takes means too.
_STATISTICS = frozenset({"SquaredDifference", "Moments", "SufficientStatistics"})
_UPDATES = re.compile(r"^(Resource)?(Assign|Apply|Scatter)")


def freeze_switches(
    graph_def: GraphDef, outputs: list[str], named: Collection[str] = ()
) -> dict[str, Frozen]:
    """Replace training switches by their inference values, in place; what was frozen, by node name.

    What the user has ``named`` as inputs stays one, unless it turns random numbers on.
    """
    frozen: dict[str, Frozen] = {}
    for name in _switches(graph_def):
        if name in named and not _draws(graph_def, outputs, name):
            continue
        chosen = _inference_value(graph_def, outputs, name)
        if chosen is None:
            continue
        value, why = chosen
        set_placeholder(by_name(graph_def)[name], value)
        frozen[name] = Frozen(f"{name}:0", str(value), why)
    return frozen


def freeze_modes(graph_def: GraphDef, outputs: list[str], names: Sequence[str]) -> dict[str, Frozen]:
    """Boolean *variables* (constants here) that only decide branches, set to inference, in place.

    Some libraries keep the mode in a variable, and a checkpoint holds the value it was saved with.
    """
    nodes, readers = by_name(graph_def), consumers(graph_def)
    frozen: dict[str, Frozen] = {}
    for name in names:
        if name not in nodes or not _only_decides(name, nodes, readers):
            continue
        stored = bool(constant(nodes[name]))
        chosen = _inference_value(graph_def, outputs, name)
        if chosen is None or chosen[0] == stored:
            frozen[name] = Frozen(f"{name}:0", str(stored), "variable that decides branches: as it is stored")
            continue
        value, why = chosen
        set_placeholder(nodes[name], value)
        frozen[name] = Frozen(f"{name}:0", str(value), f"variable, stored as {stored}. {why}")
    return frozen


def use_defaults(graph_def: GraphDef, named: set[str]) -> dict[str, Frozen]:
    """Scalar ``PlaceholderWithDefault`` nodes take their default, in place, unless named as inputs.

    Others become plain inputs' placeholders elsewhere.
    """
    nodes = by_name(graph_def)
    frozen: dict[str, Frozen] = {}
    for node in graph_def.node:
        if node.op != "PlaceholderWithDefault" or node.name in named:
            continue
        default = nodes.get(node_of(node.input[0]))
        if default is None or default.op != "Const":
            continue
        value = constant(default)
        if value.ndim == 0:
            make_constant(node, value)
            frozen[node.name] = Frozen(
                f"{node.name}:0", str(value), "scalar with a default: the default is used"
            )
    return frozen


def set_placeholder(node: NodeDef, value: float | int | bool) -> None:
    """Turn a placeholder into a constant of its own dtype.

    Raises:
        UnsupportedModelError: the placeholder has a shape that a single number does not fill.
    """
    import tensorflow as tf

    kind = node.attr["dtype"].type
    shape = attr_shape(node) or ()
    if any(dim is None for dim in shape):
        raise UnsupportedModelError(
            f"placeholder '{node.name}' has free dimensions {shape} and cannot be frozen to one number",
            node=node.name,
            hint="give it as an input instead",
        )
    array = np.full(tuple(dim or 0 for dim in shape), value, tf.as_dtype(kind).as_numpy_dtype)
    make_constant(node, array, kind)


def _switches(graph_def: GraphDef) -> list[str]:
    import tensorflow as tf

    nodes, readers = by_name(graph_def), consumers(graph_def)
    found = []
    for node in graph_def.node:
        if node.op not in _PLACEHOLDERS or (attr_shape(node) or ()) not in ((), (1,)):
            continue
        kind = tf.as_dtype(node.attr["dtype"].type)
        if (kind.is_bool or kind.is_integer or kind.is_floating) and _only_decides(node.name, nodes, readers):
            found.append(node.name)
    return found


def _only_decides(name: str, nodes: Mapping[str, NodeDef], readers: Mapping[str, list[NodeDef]]) -> bool:
    """Whether every path from a placeholder ends, through logic, in a predicate."""
    pending, seen, decides = [f"{name}:0"], set(), False
    while pending:
        tensor = pending.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        for reader in readers.get(tensor, []):
            operands = data_inputs(reader)
            if reader.op == "Switch":
                decides = True
                if operands[0] == tensor:  # the predicate itself, handed into its own branches
                    pending += [f"{reader.name}:0", f"{reader.name}:1"]
            elif reader.op in ("If", "StatelessIf", "Select", "SelectV2", "Case", "StatelessCase"):
                if operands[0] != tensor:
                    continue
                decides = True
            elif reader.op in _LOGIC or reader.op == "Merge":
                pending.append(f"{reader.name}:0")
            else:
                return False
    del nodes
    return decides


def _inference_value(graph_def: GraphDef, outputs: list[str], name: str) -> tuple[bool, str] | None:
    scores = _scores(graph_def, outputs, name)
    if len(scores) == 2 and scores[False] != scores[True]:
        value = min(scores, key=lambda v: scores[v])
        return value, "training switch: this value leaves no batch statistics, updates or random ops behind"
    if _TESTING_NAME.search(name) and not _TRAINING_NAME.search(name):
        return True, "switch named like inference"
    if _TRAINING_NAME.search(name):
        return False, "switch named like training; both values give the same kind of graph"
    return None


def _draws(graph_def: GraphDef, outputs: list[str], name: str) -> bool:
    """Whether one of the switch's values, and not the other, draws random numbers."""
    scores = _scores(graph_def, outputs, name).values()
    return len(scores) == 2 and max(scores) - min(scores) >= _WEIGHT_RANDOM


def _scores(graph_def: GraphDef, outputs: list[str], name: str) -> dict[bool, int]:
    """How much of training each value of the switch leaves in the graph."""
    scores: dict[bool, int] = {}
    for value in (False, True):
        trial = type(graph_def)()
        trial.CopyFrom(graph_def)
        set_placeholder(by_name(trial)[name], value)
        try:
            scores[value] = _trainingness(settle(trial, outputs))
        except (ValueError, UnsupportedModelError):
            continue
    return scores


def _trainingness(graph_def: GraphDef) -> int:
    score = 0
    for node in graph_def.node:
        if is_random(node):
            score += _WEIGHT_RANDOM
        elif _UPDATES.match(node.op):
            score += _WEIGHT_UPDATE
        elif node.op.startswith("FusedBatchNorm") and node.attr["is_training"].b:
            score += _WEIGHT_BATCH_NORM
        elif node.op in _STATISTICS:
            score += _WEIGHT_STATISTIC
    return score
