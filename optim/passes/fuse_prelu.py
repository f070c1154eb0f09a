"""Relu(x) + c * Relu(-x) → PRelu(x, -c), or LeakyRelu where c is one number; Max(x, a x) → LeakyRelu(a).

Allowed: c is constant and broadcasts into x; inner values are read by the pattern alone; 0 <= a <= 1 for Max.
Numbers: reassociates. https://onnx.ai/onnx/operators/onnx__PRelu.html
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import constant_of, is_op, opset_of, producer, scalar_of, site_of, sole_consumer, uniform_of
from optim.passes.broadcasting import broadcasts_into
from optim.passes.matching import other_operand, with_scalar
from optim.rewrite import Rewrite

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class FusePrelu:
    """Decomposed leaky activations become one node."""

    @property
    def info(self) -> PassInfo:
        return PassInfo(
            "fuse_prelu", Numerics.REASSOCIATES, "Relu(x) + c * Relu(-x) → PRelu; Max(x, a x) → LeakyRelu"
        )

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        if opset_of(model) < 9:
            return rw.outcome()
        for node in tuple(model.graph):
            if node.graph is None or not node.outputs or not rw.allows(site_of(node)):
                continue
            if is_op(node, "Add", "Sub") and len(node.inputs) == 2:
                _fuse_prelu(rw, node)
            elif is_op(node, "Max") and len(node.inputs) == 2:
                _fuse_leaky(rw, node)
        return rw.outcome()


def _fuse_prelu(rw: Rewrite, total: ir.Node) -> None:
    for side in (0, 1) if total.op_type == "Add" else (0,):
        positive = producer(total.inputs[side], "Relu")
        scaled = producer(total.inputs[1 - side], "Mul")
        if positive is None or scaled is None or sole_consumer(scaled.outputs[0]) is not total:
            continue
        for position in (0, 1):
            negative = producer(scaled.inputs[position], "Relu")
            factor = scaled.inputs[1 - position]
            inverted = producer(negative.inputs[0], "Neg", "Mul") if negative is not None else None
            if negative is None or inverted is None or constant_of(factor) is None:
                continue
            x = positive.inputs[0]
            if x is None or not _negates(inverted, x) or not broadcasts_into(factor, x):
                continue
            if (
                sole_consumer(positive.outputs[0]) is not total
                or sole_consumer(negative.outputs[0]) is not scaled
            ):
                continue
            sign = -1.0 if total.op_type == "Add" else 1.0
            chain = [inverted, negative, scaled, positive, total]
            if sole_consumer(inverted.outputs[0]) is not negative:
                chain.remove(inverted)
            _write(rw, total, x, factor, sign, chain)
            return


def _negates(node: ir.Node, x: ir.Value) -> bool:
    if is_op(node, "Neg"):
        return node.inputs[0] is x
    found = with_scalar(node, "Mul")
    return found is not None and found[0] is x and found[1] == -1.0


def _write(
    rw: Rewrite, total: ir.Node, x: ir.Value, factor: ir.Value | None, sign: float, chain: list[ir.Node]
) -> None:
    target = total.outputs[0]
    number, array = uniform_of(factor), constant_of(factor)
    assert array is not None
    if number is not None:
        attributes = {"alpha": sign * number}
        value = rw.node("LeakyRelu", [x], attributes, before=total, sources=chain, like=target)
    else:
        slope = rw.constant((array * sign).astype(array.dtype), f"{target.name}/slope")
        value = rw.node("PRelu", [x, slope], before=total, sources=chain, like=target)
    rw.replace(target, value)
    for node in reversed(chain):
        rw.drop(node)
    rw.done(value.name or "")


def _fuse_leaky(rw: Rewrite, largest: ir.Node) -> None:
    for side in (0, 1):
        x, scaled = largest.inputs[side], producer(largest.inputs[1 - side], "Mul")
        found = with_scalar(scaled, "Mul")
        if x is None or scaled is None or found is None or found[0] is not x or x.dtype not in _FLOATS:
            continue
        if not 0.0 <= found[1] <= 1.0:
            rw.refuse(site_of(largest), f"Max(x, a x) with a = {found[1]:g} is no LeakyRelu")
            return
        if sole_consumer(scaled.outputs[0]) is not largest or scalar_of(other_operand(scaled, x)) is None:
            continue
        target = largest.outputs[0]
        attributes = {"alpha": float(found[1])}
        value = rw.node("LeakyRelu", [x], attributes, before=largest, sources=(scaled, largest), like=target)
        rw.replace(target, value)
        rw.drop(largest)
        rw.drop(scaled)
        rw.done(value.name or "")
        return
