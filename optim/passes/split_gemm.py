"""Gemm → MatMul (→ Add): for targets that take dense layers apart. The way back is ``fuse_gemm``.

Allowed: alpha is 1, and beta is 1 where there is a C; a transposed operand is a constant, which is turned.
Numbers: reassociates. In no recipe: a target's list asks for it. https://onnx.ai/onnx/operators/onnx__Gemm.html
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import constant_tensor_of, float_attribute, input_of, int_attribute, is_op, site_of
from optim.rewrite import Rewrite
from optim.weights import read_once


@dataclass(frozen=True)
class SplitGemm:
    """Dense layers as a product of matrices and an addition."""

    @property
    def info(self) -> PassInfo:
        return PassInfo("split_gemm", Numerics.REASSOCIATES, "Gemm → MatMul + Add, for targets that want it")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        for node in tuple(model.graph):
            if not is_op(node, "Gemm") or not rw.allows(site_of(node)):
                continue
            reason = _why_not(node)
            if reason:
                rw.refuse(site_of(node), reason)
            else:
                _split(rw, node)
        return rw.outcome()


def _why_not(node: ir.Node) -> str:
    if float_attribute(node, "alpha", 1.0) != 1.0:
        return "alpha is not 1"
    if input_of(node, 2) is not None and float_attribute(node, "beta", 1.0) != 1.0:
        return "beta is not 1"
    for position, name in ((0, "transA"), (1, "transB")):
        if int_attribute(node, name, 0) and constant_tensor_of(input_of(node, position)) is None:
            return f"{name} turns an operand that is not constant"
    return ""


def _split(rw: Rewrite, node: ir.Node) -> None:
    operands = [
        _turned(rw, value) if int_attribute(node, name, 0) else value
        for value, name in zip(node.inputs[:2], ("transA", "transB"), strict=True)
    ]
    target, bias = node.outputs[0], input_of(node, 2)
    if bias is None:
        value = rw.node("MatMul", operands, before=node, sources=(node,), like=target)
    else:
        product = rw.node("MatMul", operands, before=node, sources=(node,), out=f"{target.name}/product")
        product.type, product.shape = target.type, None if target.shape is None else target.shape.copy()
        value = rw.node("Add", [product, bias], before=node, sources=(node,), like=target)
    rw.replace(target, value)
    rw.drop(node)
    rw.done(value.name or "")


def _turned(rw: Rewrite, value: ir.Value | None) -> ir.Value:
    tensor = constant_tensor_of(value)
    if tensor is None or value is None:
        raise ValueError("checked before")
    rows, columns = (int(d) for d in tensor.shape if isinstance(d, int))
    return rw.lazy(partial(_transposed, tensor), tensor.dtype, (columns, rows), f"{value.name}/transposed")


def _transposed(tensor: ir.TensorProtocol) -> Array:
    return np.ascontiguousarray(read_once(tensor).T)
