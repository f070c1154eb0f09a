"""x · gate with a gate [N, C, 1, 1] that is computed → x · Resize(gate); its ReduceMean → GlobalAveragePool.

Allowed: float32 [N, C, H, W] with known C, H and W, opset 13 and later; the mean is over both spatial axes,
which it keeps. Numbers: reassociates (the mean may be summed in another order; the rest is exact).

Squeeze-excite blocks end so. A runtime that keeps channels in blocks for convolutions has no product of
unlike shapes and no ReduceMean in that layout, and leaves it twice a block; a nearest-neighbour Resize by
whole numbers, a product of like shapes and a pool stay in it.
https://onnx.ai/onnx/operators/onnx__Resize.html
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, Refusal, SiteFilter, every_site
from optim.facts import axes_of, dims, int_attribute, is_constant, is_op, opset_of, site_of
from optim.passes.faster_sites import Candidate, candidates_of, rewrite_candidates
from optim.passes.matching import other_operand
from optim.rewrite import Rewrite

_FIRST_OPSET_WITHOUT_ROI = 13
_MOST_NODES = 12  # between the pool and the product; a squeeze-excite block has about eight


@dataclass(frozen=True)
class ExpandGates:
    """A gate by channel takes the shape of what it gates."""

    @property
    def info(self) -> PassInfo:
        summary = "squeeze-excite product without change of layout, where that is faster"
        return PassInfo("expand_gates", Numerics.REASSOCIATES, summary)

    def candidates(self, model: ir.Model) -> tuple[tuple[Candidate, ...], tuple[Refusal, ...]]:
        """Products with a computed gate, together with the nodes that compute it from the same data."""

        def look(node: ir.Node) -> Candidate | str | None:
            found = _gated(node)
            if found is None:
                return None
            if opset_of(model) < _FIRST_OPSET_WITHOUT_ROI:
                return f"opset {opset_of(model)} is older than {_FIRST_OPSET_WITHOUT_ROI}"
            reason = _why_not(found[0])
            return reason or Candidate(node, (*_between(found[1], found[0], order), node))

        order = {node: number for number, node in enumerate(model.graph)}
        return candidates_of(model, look)

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        return rewrite_candidates(self, model, allowed, _write)


def _gated(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Data and gate of a product of [N, C, H, W] with a computed [N, C, 1, 1]; else None."""
    if not is_op(node, "Mul") or len(node.inputs) != 2:
        return None
    for data in node.inputs:
        gate = None if data is None else other_operand(node, data)
        wide, narrow = dims(data), dims(gate)
        if data is None or gate is None or wide is None or narrow is None or is_constant(gate):
            continue
        if len(wide) == len(narrow) == 4 and narrow[1] == wide[1] and narrow[2:] == (1, 1) != wide[2:]:
            return data, gate
    return None


def _why_not(data: ir.Value) -> str:
    shape = dims(data) or ()
    if data.dtype != ir.DataType.FLOAT:
        return "the data is not FLOAT"
    if not all(isinstance(d, int) for d in shape[1:]):
        return "the channels or the spatial size are not known"
    return ""


def _between(gate: ir.Value, data: ir.Value, order: dict[ir.Node, int]) -> tuple[ir.Node, ...]:
    """All nodes that compute ``gate`` from ``data`` alone, in graph order; none where there are others."""
    found: set[ir.Node] = set()
    pending = [gate]
    while pending:
        value = pending.pop()
        node = value.producer()
        if value is data or is_constant(value) or node in found:
            continue
        if node is None or node not in order or len(found) == _MOST_NODES:
            return ()
        found.add(node)
        pending += [v for v in node.inputs if v is not None]
    return tuple(sorted(found, key=order.__getitem__))


def _write(rw: Rewrite, candidate: Candidate) -> None:
    product = candidate.last
    found = _gated(product)
    if found is None:
        raise ValueError("checked before")
    data, gate = found
    for node in candidate.nodes[:-1]:
        if _is_spatial_mean(node):
            old = node.outputs[0]
            rw.replace(
                old, rw.node("GlobalAveragePool", [node.inputs[0]], before=node, sources=(node,), like=old)
            )
            rw.drop(node)
    gate = other_operand(product, data) or gate
    height, width = (d for d in (dims(data) or ())[2:] if isinstance(d, int))
    name = f"{site_of(product)}/gate"
    scales = rw.constant(np.asarray([1, 1, height, width], np.float32), f"{name}/scales")
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    wide = rw.node("Resize", [gate, None, scales], attributes, before=product, name=name, out=name)
    wide.type, wide.shape = data.type, None if data.shape is None else data.shape.copy()
    old = product.outputs[0]
    rw.replace(old, rw.node("Mul", [data, wide], before=product, sources=(product,), like=old))
    rw.drop(product)


def _is_spatial_mean(node: ir.Node) -> bool:
    shape, axes = dims(node.inputs[0]), axes_of(node) if is_op(node, "ReduceMean") else None
    if shape is None or axes is None or len(shape) != 4 or not int_attribute(node, "keepdims", 1):
        return False
    return {a % 4 for a in axes} == {2, 3}
