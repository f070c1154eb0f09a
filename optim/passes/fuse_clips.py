"""Relu → Min(6), Max → Min, Clip → Clip, Relu → Clip → one Clip; Max(x, 0) → Relu.

Allowed: bounds are one-element constants, floating-point data, the inner value is read by the outer node
alone. max(lo, min(hi, .)) of the inner bounds (a, b) and the outer (c, d) is a Clip to [min(max(a, c), d),
min(max(b, c), d)].
Numbers: exact. https://onnx.ai/onnx/operators/onnx__Clip.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import is_op, opset_of, site_of, sole_consumer
from optim.passes.matching import bounded_by, clip_bounds
from optim.rewrite import Rewrite

_FIRST_OPSET_WITH_BOUND_INPUTS = 11
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class FuseClips:
    """Every run of clamps becomes one node."""

    @property
    def info(self) -> PassInfo:
        return PassInfo(
            "fuse_clips", Numerics.EXACT, "Relu + Min, Max + Min, Clip + Clip → Clip; Max(x, 0) → Relu"
        )

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        if opset_of(model) < _FIRST_OPSET_WITH_BOUND_INPUTS:
            return rw.outcome()
        for node in tuple(model.graph):
            if node.graph is not None and node.outputs and node.outputs[0].dtype in _FLOATS:
                _fuse(rw, node)
        return rw.outcome()


def _data(node: ir.Node) -> ir.Value | None:
    if is_op(node, "Max", "Min"):
        found = bounded_by(node)
        return None if found is None else found[0]
    return node.inputs[0]


def _fuse(rw: Rewrite, outer: ir.Node) -> None:
    """Take the clamp before ``outer`` into it, again and again; a lone Max(x, 0) becomes a Relu."""
    outer_bounds = clip_bounds(outer)
    data = _data(outer) if outer_bounds is not None else None
    if outer_bounds is None or data is None or not rw.allows(site_of(outer)):
        return
    low, high = outer_bounds
    taken = [outer]
    while (inner := data.producer()) is not None:
        inner_bounds = clip_bounds(inner)
        source = _data(inner) if inner_bounds is not None else None
        if inner_bounds is None or source is None or sole_consumer(data) is None:
            break
        low, high = min(max(inner_bounds[0], low), high), min(max(inner_bounds[1], low), high)
        taken.append(inner)
        data = source
    relu = (low, high) == (0.0, math.inf)
    if math.isnan(low) or math.isnan(high) or low > high:
        return
    if len(taken) == 1 and not (relu and outer.op_type in ("Max", "Clip")):
        return
    target = outer.outputs[0]
    sources = tuple(reversed(taken))
    if relu:
        value = rw.node("Relu", [data], before=outer, sources=sources, like=target)
    else:
        dtype = target.dtype.numpy() if target.dtype is not None else np.dtype(np.float32)
        bounds: list[ir.Value | None] = []
        for name, number in (("min", low), ("max", high)):
            infinite = math.isinf(number)
            bounds.append(
                None if infinite else rw.constant(np.asarray(number, dtype), f"{target.name}/{name}")
            )
        while bounds and bounds[-1] is None:
            bounds.pop()
        value = rw.node("Clip", [data, *bounds], before=outer, sources=sources, like=target)
    rw.replace(target, value)
    for node in taken:
        rw.drop(node)
    rw.done(value.name or "")
