"""x · (1 / y) → x / y. Normalisations come spelled out so.

Allowed: the reciprocal is read by the product alone; floating point. Numbers: reassociates, with one rounding
less.
https://onnx.ai/onnx/operators/onnx__Div.html
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import is_op, producer, scalar_of, site_of, sole_consumer
from optim.passes.broadcasting import broadcasts_into
from optim.rewrite import Rewrite

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class FuseQuotients:
    """Products with a reciprocal become quotients."""

    @property
    def info(self) -> PassInfo:
        return PassInfo("fuse_quotients", Numerics.REASSOCIATES, "x · (1 / y) → x / y")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        for node in tuple(model.graph):
            if not is_op(node, "Mul") or node.attributes or node.outputs[0].dtype not in _FLOATS:
                continue  # attributes: broadcasting of opset 6 and older
            if node.graph is not None and rw.allows(site_of(node)):
                _fuse(rw, node)
        return rw.outcome()


def _fuse(rw: Rewrite, node: ir.Node) -> None:
    for side in (0, 1):
        x, inverse = node.inputs[side], node.inputs[1 - side]
        divide = producer(inverse, "Div", "Reciprocal")
        if divide is None or x is None or sole_consumer(inverse) is not node:
            continue
        y = divide.inputs[-1]
        one = divide.inputs[0]
        if divide.op_type == "Div" and (scalar_of(one) != 1.0 or not broadcasts_into(one, y)):
            continue
        target = node.outputs[0]
        value = rw.node("Div", [x, y], before=node, sources=(divide, node), like=target)
        rw.replace(target, value)
        rw.drop(node)
        rw.drop(divide)
        rw.done(value.name or "")
        return
