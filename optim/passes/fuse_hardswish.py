"""Clip(x + b, 0, c) * k → HardSigmoid; x * HardSigmoid(x; 1/6, 1/2) → HardSwish.

    hard_sigmoid(x) = relu6(x + 3) / 6 = max(0, min(1, x / 6 + 1 / 2))

Allowed: k * c = 1; every inner value is read by the pattern alone; HardSwish from opset 14. Also in the order
(x * relu6(x + 3)) / 6. Numbers: reassociates. https://onnx.ai/onnx/operators/onnx__HardSwish.html
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import float_attribute, is_op, opset_of, producer, rank, site_of, sole_consumer
from optim.passes.matching import clip_bounds, near, other_operand, with_scalar
from optim.rewrite import Rewrite

_FIRST_OPSET_WITH_HARDSWISH = 14
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class FuseHardswish:
    """Hard sigmoids and hard swishes become the operators that runtimes have kernels for."""

    @property
    def info(self) -> PassInfo:
        return PassInfo(
            "fuse_hardswish", Numerics.REASSOCIATES, "Add, Clip, Mul, Mul → HardSigmoid, HardSwish"
        )

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        for node in tuple(model.graph):
            if node.graph is not None and is_op(node, "Clip") and node.outputs[0].dtype in _FLOATS:
                _fuse_sigmoid(rw, node)
        if opset_of(model) >= _FIRST_OPSET_WITH_HARDSWISH:
            for node in tuple(model.graph):
                if node.graph is not None and is_op(node, "HardSigmoid"):
                    _fuse_swish(rw, node)
        return rw.outcome()


def _number(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """A multiplication by a number, also spelled as a division."""
    found = with_scalar(node, "Mul", "Div")
    if found is None or node is None or (node.op_type == "Div" and found[1] == 0):
        return None
    return found[0], found[1] if node.op_type == "Mul" else 1.0 / found[1]


def _fuse_sigmoid(rw: Rewrite, clip: ir.Node) -> None:
    bounds, inner = clip_bounds(clip), clip.inputs[0]
    added = with_scalar(producer(inner, "Add", "Sub"), "Add", "Sub")
    if bounds is None or bounds[0] != 0.0 or not 0 < bounds[1] < float("inf"):
        return
    if inner is None or added is None or sole_consumer(inner) is None:
        return
    add = inner.producer()
    assert add is not None
    x, shift = added[0], added[1] if add.op_type == "Add" else -added[1]
    scale = 1.0 / bounds[1]
    follower = sole_consumer(clip.outputs[0])
    scaled = _number(follower)
    if follower is not None and scaled is not None and near(scaled[1], scale):
        _emit(rw, [add, clip, follower], x, scale, shift)
    elif follower is not None and is_op(follower, "Mul") and other_operand(follower, clip.outputs[0]) is x:
        last = sole_consumer(follower.outputs[0])
        scaled = _number(last)
        if last is None or scaled is None or not near(scaled[1], scale) or not rw.allows(site_of(last)):
            return
        if not (near(scale, 1 / 6) and near(shift, 3.0)) or opset_of(rw.model) < _FIRST_OPSET_WITH_HARDSWISH:
            return
        target = last.outputs[0]
        value = rw.node("HardSwish", [x], before=last, sources=(add, clip, follower, last), like=target)
        rw.replace(target, value)
        for node in (last, follower, clip, add):
            rw.drop(node)
        rw.done(value.name or "")
    elif near(bounds[1], 1.0):
        _emit(rw, [add, clip], x, 1.0, shift)


def _emit(rw: Rewrite, nodes: list[ir.Node], x: ir.Value, scale: float, shift: float) -> None:
    last = nodes[-1]
    if not rw.allows(site_of(last)):
        return
    target = last.outputs[0]
    attributes = {"alpha": float(scale), "beta": float(shift * scale)}
    # x * k before the shift: fold the factor into alpha.
    before = producer(x, "Mul", "Div")
    factor = _number(before) if before is not None and sole_consumer(x) is nodes[0] else None
    if before is not None and factor is not None:
        x, nodes = factor[0], [before, *nodes]
        attributes["alpha"] *= factor[1]
    value = rw.node("HardSigmoid", [x], attributes, before=last, sources=nodes, like=target)
    rw.replace(target, value)
    for node in reversed(nodes):
        rw.drop(node)
    rw.done(value.name or "")


def _fuse_swish(rw: Rewrite, sigmoid: ir.Node) -> None:
    alpha, beta = float_attribute(sigmoid, "alpha", 0.2), float_attribute(sigmoid, "beta", 0.5)
    product = sole_consumer(sigmoid.outputs[0])
    if product is None or not is_op(product, "Mul") or not rw.allows(site_of(product)):
        return
    x = sigmoid.inputs[0]
    if x is None or other_operand(product, sigmoid.outputs[0]) is not x or rank(x) is None:
        return
    if not (near(alpha, 1 / 6) and near(beta, 0.5)):
        rw.refuse(site_of(product), f"HardSwish has alpha 1/6 and beta 1/2, this {alpha:g} and {beta:g}")
        return
    target = product.outputs[0]
    value = rw.node("HardSwish", [x], before=product, sources=(sigmoid, product), like=target)
    rw.replace(target, value)
    rw.drop(product)
    rw.drop(sigmoid)
    rw.done(value.name or "")
