"""Linear ops → Concat, Resize or pool → scale and shift becomes linear ops → scale and shift → the same.

Where ``fold_batchnorm`` finds them, it takes them into the weights. A scale and shift by channel passes
through a Concat of channels piece by piece; through Resize and AveragePool, whose weights sum up to one; and
through MaxPool where no scale is negative or zero.
Allowed: every piece ends in a linear op with constant weights, and each value on the way is read by the next
node alone, so that nothing is left behind. Numbers: reassociates.
https://onnx.ai/onnx/operators/onnx__Resize.html
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import (
    dims,
    int_attribute,
    ints_attribute,
    is_op,
    opset_of,
    producer,
    rank,
    site_of,
    sole_consumer,
    string_attribute,
)
from optim.passes.affine import Affine, affine_of
from optim.passes.linear import Linear, linear_of
from optim.rewrite import Rewrite, note_sources

_AFFINE = ("BatchNormalization", "Mul", "Div", "Add", "Sub")
_LINEAR = ("Conv", "ConvTranspose")
_WAY = ("Concat", "Resize", "AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool")
_FIRST_OPSET = 7  # before, elementwise ops broadcast by attribute


@dataclass(frozen=True)
class HoistScales:
    """Moves a scale and shift to the linear ops that can take it in."""

    @property
    def info(self) -> PassInfo:
        summary = "scale and shift behind Concat, Resize, pools → before, where a linear op takes them in"
        return PassInfo("hoist_scales", Numerics.REASSOCIATES, summary)

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        if opset_of(model) >= _FIRST_OPSET:
            for node in tuple(model.graph):
                if node.graph is not None and is_op(node, *_WAY):
                    _hoist(rw, node)
        return rw.outcome()


@dataclass
class _Plan:
    """Where the pieces go: (linear op, first channel, end), and the nodes passed on the way, last first."""

    leaves: list[tuple[ir.Node, int, int]] = field(default_factory=list)
    way: list[ir.Node] = field(default_factory=list)


def _hoist(rw: Rewrite, top: ir.Node) -> None:
    shape = dims(top.outputs[0])
    if shape is None or len(shape) < 3 or not isinstance(shape[1], int):
        return
    chain, affine = _affine_behind(top, shape[1])
    if not chain or affine is None:
        return
    site = site_of(chain[-1])
    if not rw.allows(site):
        return
    plan = _Plan()
    reason = _follow(top, 0, shape[1], affine, plan, opset_of(rw.model))
    if reason is not None:
        rw.refuse(site, reason)
        return
    if not (np.isfinite(affine.scale).all() and np.isfinite(affine.shift).all()):
        rw.refuse(site, "scale or shift is not finite")
        return
    _write(rw, top, chain, affine, plan)
    rw.done(site)


def _affine_behind(top: ir.Node, channels: int) -> tuple[list[ir.Node], Affine | None]:
    """The scales and shifts that follow, one after the other, and what they do together."""
    chain: list[ir.Node] = []
    total: Affine | None = None
    value = top.outputs[0]
    while (node := sole_consumer(value)) is not None and is_op(node, *_AFFINE):
        found = affine_of(node, value, 1, channels)
        if not isinstance(found, Affine):
            break
        total = (
            found
            if total is None
            else Affine(total.scale * found.scale, total.shift * found.scale + found.shift)
        )
        chain.append(node)
        value = node.outputs[0]
    return chain, total


def _follow(top: ir.Node, first: int, end: int, affine: Affine, plan: _Plan, opset: int) -> str | None:
    """Find the linear ops behind ``top``; why the affine map of these channels cannot go there, or None."""
    pending = [(top, first, end)]
    while pending:
        node, first, end = pending.pop()
        if is_op(node, *_LINEAR):
            linear = linear_of(node, opset)
            if not isinstance(linear, Linear) or linear.channels != end - first:
                return f"{site_of(node)}: {linear if isinstance(linear, str) else 'other channels'}"
            plan.leaves.append((node, first, end))
            continue
        reason = _why_not_through(node, affine.scale[first:end])
        if reason is not None:
            return reason
        plan.way.append(node)
        for value in node.inputs if is_op(node, "Concat") else node.inputs[:1]:
            shape = dims(value)
            before = producer(value, *_WAY, *_LINEAR)
            if before is None or shape is None or not isinstance(shape[1], int):
                return "a piece of it comes from no linear op"
            if sole_consumer(value) is None:
                return "the unscaled value is read elsewhere too"
            pending.append((before, first, first + shape[1]))
            first += shape[1]
        if first != end:
            return "the pieces do not make up the channels"
    return None


def _why_not_through(node: ir.Node, scale: Array) -> str | None:
    match node.op_type:
        case "Concat":
            wide = rank(node.outputs[0])
            joined = wide is not None and int_attribute(node, "axis", 1) % wide == 1
            return None if joined else "the Concat does not join channels"
        case "Resize":
            before, after = dims(node.inputs[0]), dims(node.outputs[0])
            if before is None or after is None or before[1] != after[1] or before[1] is None:
                return "the Resize changes the channels"
            beyond = string_attribute(node, "coordinate_transformation_mode", "half_pixel")
            return "the Resize fills in values" if beyond == "tf_crop_and_resize" else None
        case "AveragePool":
            padded = any(ints_attribute(node, "pads") or ()) or "auto_pad" in node.attributes
            if int_attribute(node, "count_include_pad", 0) and (
                padded or int_attribute(node, "ceil_mode", 0)
            ):
                return "the pool counts its border, which the shift would have to reach"
            return None
        case "MaxPool" | "GlobalMaxPool":
            if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
                return None
            return None if bool((scale > 0).all()) else "a scale is not above zero: it would turn the maximum"
    return None


def _write(rw: Rewrite, top: ir.Node, chain: list[ir.Node], affine: Affine, plan: _Plan) -> None:
    last = chain[-1]
    for linear, first, end in plan.leaves:
        old = linear.outputs[0]
        dtype = np.dtype(np.float32) if old.dtype is None else old.dtype.numpy()
        name = f"{old.name}/hoisted"
        parts = {
            "scale": affine.scale[first:end],
            "shift": affine.shift[first:end],
            "mean": np.zeros(end - first),
            "variance": np.ones(end - first),
        }
        constants = [rw.constant(part.astype(dtype), f"{name}/{what}") for what, part in parts.items()]
        follower = sole_consumer(old)
        if follower is None:
            raise ValueError("checked before")
        scaled = rw.node(
            "BatchNormalization",
            [old, *constants],
            {"epsilon": 0.0},
            before=follower,
            sources=chain,
            out=f"{name}/out",
        )
        scaled.type, scaled.shape = old.type, None if old.shape is None else old.shape.copy()
        for position, value in enumerate(follower.inputs):
            if value is old:
                follower.replace_input_with(position, scaled)
    for node in plan.way:
        if node is not top:  # what was between holds scaled values now, and needs other names
            node.outputs[0].name = rw.fresh(f"{node.outputs[0].name}/scaled")
    target, value = last.outputs[0], top.outputs[0]
    note_sources(top, (top, *chain))
    wanted = target.name
    rw.replace(target, value)
    for node in reversed(chain):
        rw.drop(node)
    target.name = None
    value.name = wanted
