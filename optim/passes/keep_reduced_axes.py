"""Reduce(keepdims = 0) → Reshape or Unsqueeze back to ones → Reduce(keepdims = 1). Squeeze-excite blocks
arrive so.

Allowed: the reshaped result has the rank of the reduction's input, ones on the reduced axes and the other
dimensions unchanged; the reduction is read by that node alone. Numbers: exact.
https://onnx.ai/onnx/operators/onnx__ReduceMean.html
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import (
    axes_of,
    dims,
    input_of,
    int_attribute,
    ints_of,
    is_op,
    site_of,
    sole_consumer,
)
from optim.rewrite import Rewrite, kept

_REDUCES = ("ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2")


@dataclass(frozen=True)
class KeepReducedAxes:
    """A reduction keeps its axes instead of having them put back."""

    @property
    def info(self) -> PassInfo:
        return PassInfo("keep_reduced_axes", Numerics.EXACT, "Reduce + Reshape back → Reduce with keepdims")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        for node in tuple(model.graph):
            if is_op(node, *_REDUCES) and int_attribute(node, "keepdims", 1) == 0:
                back = sole_consumer(node.outputs[0])
                if back is None or not is_op(back, "Reshape", "Unsqueeze") or not rw.allows(site_of(back)):
                    continue
                if back.inputs[0] is node.outputs[0] and _restores(node, back):
                    _write(rw, node, back)
        return rw.outcome()


def _restores(node: ir.Node, back: ir.Node) -> bool:
    before, after, axes = dims(node.inputs[0]), dims(node.outputs[0]), axes_of(node)
    if before is None or axes is None or after is None:
        return False
    reduced = {a % len(before) for a in axes}
    if is_op(back, "Unsqueeze"):
        restored = axes_of(back)
        return restored is not None and {a % len(before) for a in restored} == reduced
    target = ints_of(input_of(back, 1))
    if target is None or len(target) != len(before) or int_attribute(back, "allowzero", 0):
        return False
    free = 0
    for axis, wanted in enumerate(target):
        if axis in reduced:
            if wanted != 1:
                return False
        elif wanted == -1:
            free += 1  # one dimension is whatever is left, which is what it was
        elif wanted == 0:
            if axis != sum(a not in reduced for a in range(axis)):
                return False  # copies the dimension of another axis
        elif wanted != before[axis]:
            return False
    return free <= 1


def _write(rw: Rewrite, node: ir.Node, back: ir.Node) -> None:
    target = back.outputs[0]
    attributes = {**kept(node), "keepdims": 1}
    value = rw.node(
        node.op_type, list(node.inputs), attributes, before=node, sources=(node, back), like=target
    )
    rw.replace(target, value)
    rw.drop(back)
    rw.drop(node)
    rw.done(value.name or "")
