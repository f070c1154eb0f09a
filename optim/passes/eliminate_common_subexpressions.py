"""Two equal deterministic nodes on the same inputs → one.

Allowed: standard ops that hold no subgraph and draw no random numbers, with the same attributes. A node
that makes a graph output keeps its own. Numbers: exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import site_of
from optim.rewrite import Rewrite, note_sources

RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
# Constants are shared by deduplicate_initializers; a live Dropout draws random numbers too.
_SKIPPED = RANDOM_OPS | {"Dropout", "Constant"}


@dataclass(frozen=True)
class EliminateCommonSubexpressions:
    """The first of equal nodes stays, the readers of the others are sent to it."""

    @property
    def info(self) -> PassInfo:
        return PassInfo(
            "eliminate_common_subexpressions", Numerics.EXACT, "equal nodes on equal inputs → one"
        )

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        first: dict[tuple[object, ...], ir.Node] = {}
        for node in tuple(model.graph):
            key = _key(node)
            if key is None:
                continue
            kept = first.setdefault(key, node)
            if kept is node or not rw.allows(site_of(node)):
                continue
            if any(v.is_graph_output() for v in node.outputs):
                rw.refuse(site_of(node), "it makes a graph output, which must keep its own name")
                continue
            for old, new in zip(node.outputs, kept.outputs, strict=True):
                rw.replace(old, new)
            note_sources(kept, (kept, node))
            rw.drop(node)
            rw.done(site_of(node))
        return rw.outcome()


def _key(node: ir.Node) -> tuple[object, ...] | None:
    if node.domain != "" or node.op_type in _SKIPPED:
        return None
    attributes = []
    for name in sorted(node.attributes):
        content = _content(node.attributes[name])
        if content is None:
            return None
        attributes.append((name, content))
    inputs = tuple(None if v is None else id(v) for v in node.inputs)
    present = tuple(bool(v.name) for v in node.outputs)
    return node.op_type, node.overload, inputs, tuple(attributes), present


def _content(attribute: ir.Attr) -> object:
    if attribute.is_ref():
        return None
    kinds = ir.AttributeType
    if attribute.type in (kinds.INT, kinds.FLOAT, kinds.STRING):
        return attribute.type, attribute.value
    if attribute.type in (kinds.INTS, kinds.FLOATS, kinds.STRINGS):
        return attribute.type, tuple(attribute.value)
    if attribute.type == kinds.TENSOR:
        tensor = attribute.as_tensor()
        if tensor.dtype == ir.DataType.STRING or tensor.nbytes > 1 << 16:
            return None
        return tensor.dtype, tuple(tensor.shape), np.ascontiguousarray(tensor.numpy()).tobytes()
    return None
