"""x · (1 + erf(x / √2)) / 2, in any order of its factors → Gelu; x · sigmoid(x) → Swish.

Allowed: inner values are read by the pattern alone; Gelu from opset 20, Swish from opset 24: earlier sets
have no operator for them, and both stay spelled out. Numbers: reassociates.
https://onnx.ai/onnx/operators/onnx__Gelu.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import is_op, opset_of, producer, site_of, sole_consumer
from optim.passes.matching import near, other_operand, with_scalar
from optim.rewrite import Rewrite

_FIRST_OPSET_WITH_GELU, _FIRST_OPSET_WITH_SWISH = 20, 24


@dataclass(frozen=True)
class FuseGelu:
    """Spelled-out gelus and swishes become one node."""

    @property
    def info(self) -> PassInfo:
        return PassInfo(
            "fuse_gelu", Numerics.REASSOCIATES, "Div, Erf, Add, Mul, Mul → Gelu; Sigmoid, Mul → Swish"
        )

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        for node in tuple(model.graph):
            if node.graph is None or not rw.allows(site_of(node)):
                continue
            if is_op(node, "Erf"):
                _gelu(rw, node)
            elif is_op(node, "Sigmoid"):
                _swish(rw, node)
        return rw.outcome()


def _number(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """A product with one number, also spelled as a division."""
    found = with_scalar(node, "Mul", "Div")
    if found is None or node is None or (node.op_type == "Div" and found[1] == 0):
        return None
    return found[0], found[1] if node.op_type == "Mul" else 1.0 / found[1]


def _gelu(rw: Rewrite, erf: ir.Node) -> None:
    scaled = producer(erf.inputs[0], "Mul", "Div")
    inner = _number(scaled)
    plus = sole_consumer(erf.outputs[0])
    shifted = with_scalar(plus, "Add")
    if scaled is None or inner is None or plus is None or shifted is None or shifted[1] != 1.0:
        return
    if not near(inner[1], math.sqrt(0.5)) or sole_consumer(scaled.outputs[0]) is not erf:
        return
    found = _halved_product(inner[0], plus)
    if found is None:
        return
    nodes = [scaled, erf, plus, *found]
    last = nodes[-1]
    if opset_of(rw.model) < _FIRST_OPSET_WITH_GELU:
        rw.refuse(site_of(last), f"there is a Gelu from opset {_FIRST_OPSET_WITH_GELU} on")
        return
    if rw.allows(site_of(last)):
        _emit(rw, "Gelu", inner[0], nodes, last)


def _halved_product(x: ir.Value, plus: ir.Node) -> list[ir.Node] | None:
    """The two nodes that make x · s / 2 of s, in one of the three orders; s is what ``plus`` makes."""
    first = sole_consumer(plus.outputs[0])
    if first is None or not is_op(first, "Mul", "Div"):
        return None
    half = _number(first)
    if half is not None and near(half[1], 0.5):  # (s / 2) · x
        second = sole_consumer(first.outputs[0])
        return [first, second] if _multiplies(second, first.outputs[0], x) and second is not None else None
    other = other_operand(first, plus.outputs[0]) if is_op(first, "Mul") else None
    if other is x:  # (s · x) / 2
        second = sole_consumer(first.outputs[0])
        half = _number(second)
        return [first, second] if second is not None and half is not None and near(half[1], 0.5) else None
    before = producer(other, "Mul", "Div")  # s · (x / 2)
    half = _number(before)
    if before is None or half is None or half[0] is not x or not near(half[1], 0.5):
        return None
    return [before, first] if sole_consumer(before.outputs[0]) is first else None


def _multiplies(node: ir.Node | None, value: ir.Value, x: ir.Value) -> bool:
    return node is not None and is_op(node, "Mul") and other_operand(node, value) is x


def _swish(rw: Rewrite, sigmoid: ir.Node) -> None:
    x, product = sigmoid.inputs[0], sole_consumer(sigmoid.outputs[0])
    if x is None or product is None or not _multiplies(product, sigmoid.outputs[0], x):
        return
    if opset_of(rw.model) < _FIRST_OPSET_WITH_SWISH:
        return  # so common that a refusal for each would only be noise
    if rw.allows(site_of(product)):
        _emit(rw, "Swish", x, [sigmoid, product], product)


def _emit(rw: Rewrite, op_type: str, x: ir.Value, nodes: list[ir.Node], last: ir.Node) -> None:
    target = last.outputs[0]
    value = rw.node(op_type, [x], before=last, sources=nodes, like=target)
    rw.replace(target, value)
    for node in reversed(nodes):
        rw.drop(node)
    rw.done(value.name or "")
