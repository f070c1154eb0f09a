"""Whether two tensors hold the same value because they are computed in the same way."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.sources.tf.graph import NodeDef, data_inputs, index_of, node_of

_MOST_STEPS = 12
_PLAIN = frozenset(
    {"Const", "Shape", "StridedSlice", "Pack", "Range", "Minimum", "Maximum", "Add", "AddV2", "Sub", "Mul",
     "Cast", "Reshape", "ExpandDims", "Squeeze", "ConcatV2", "Prod", "Transpose", "GatherV2"}
)  # fmt: skip


def same_value(a: str, b: str, nodes: Mapping[str, NodeDef], steps: int = _MOST_STEPS) -> bool:
    """True only where it is certain: the same tensor, or the same plain operators on the same tensors."""
    a, b = _past_identity(a, nodes), _past_identity(b, nodes)
    if a == b:
        return True
    one, other = nodes[node_of(a)], nodes[node_of(b)]
    if steps == 0 or one.op != other.op or one.op not in _PLAIN or index_of(a) != index_of(b):
        return False
    if dict(one.attr) != dict(other.attr):
        return False
    pairs = list(zip(data_inputs(one), data_inputs(other), strict=False))
    same_count = len(data_inputs(one)) == len(data_inputs(other))
    return same_count and all(same_value(x, y, nodes, steps - 1) for x, y in pairs)


def _past_identity(tensor: str, nodes: Mapping[str, NodeDef]) -> str:
    while nodes[node_of(tensor)].op == "Identity":
        tensor = data_inputs(nodes[node_of(tensor)])[0]
    return tensor
