"""MatMul of matrices + Add → Gemm; Gemm + Add → Gemm; a Transpose before either operand → transA, transB.

Allowed: both operands have rank 2; the bias broadcasts into the product; inner values are read by the
pattern alone.
Numbers: reassociates. https://onnx.ai/onnx/operators/onnx__Gemm.html
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import (
    input_of,
    int_attribute,
    ints_attribute,
    is_op,
    opset_of,
    producer,
    rank,
    site_of,
    sole_consumer,
)
from optim.passes.broadcasting import broadcasts_into
from optim.passes.matching import other_operand
from optim.rewrite import AttributeValue, Rewrite, kept, note_sources

_FIRST_OPSET_THAT_BROADCASTS, _FIRST_OPSET_WITHOUT_C = 7, 11
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class FuseGemm:
    """Dense layers become one node."""

    @property
    def info(self) -> PassInfo:
        return PassInfo("fuse_gemm", Numerics.REASSOCIATES, "MatMul + Add, Transpose + MatMul → Gemm")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        if opset_of(model) < _FIRST_OPSET_THAT_BROADCASTS:
            return rw.outcome()
        for node in tuple(model.graph):
            if node.graph is None or not is_op(node, "MatMul", "Gemm"):
                continue
            if all(rank(v) == 2 for v in node.inputs[:2]) and node.outputs[0].dtype in _FLOATS:
                made = _fuse_bias(rw, node)
                if opset_of(model) >= _FIRST_OPSET_WITHOUT_C or input_of(made, 2) is not None:
                    _turn(rw, _fuse_transposes(rw, made))
        return rw.outcome()


def _fuse_bias(rw: Rewrite, node: ir.Node) -> ir.Node:
    """Take the Add behind ``node`` in; the node that makes the product now."""
    add = sole_consumer(node.outputs[0])
    if add is None or not is_op(add, "Add") or not rw.allows(site_of(add)):
        return node
    bias = other_operand(add, node.outputs[0])
    if bias is None or input_of(node, 2) is not None:
        return node
    if not broadcasts_into(bias, node.outputs[0]) or (rank(bias) or 0) > 2:
        rw.refuse(site_of(add), "the second operand is not known to broadcast into the product")
        return node
    target = add.outputs[0]
    attributes: dict[str, AttributeValue] = {k: a for k, a in kept(node).items() if k != "beta"}
    value = rw.node(
        "Gemm", [*node.inputs[:2], bias], attributes, before=add, sources=(node, add), like=target
    )
    rw.replace(target, value)
    rw.drop(add)
    rw.drop(node)
    rw.done(value.name or "")
    made = value.producer()
    assert made is not None
    return made


def _turn(rw: Rewrite, node: ir.Node) -> None:
    """(A B)^T = B^T A^T: a Transpose behind the product goes into its operands, where it is a flag."""
    turn = sole_consumer(node.outputs[0])
    if turn is None or not is_op(turn, "Transpose") or ints_attribute(turn, "perm") not in (None, (1, 0)):
        return
    if input_of(node, 2) is not None or not rw.allows(site_of(turn)):
        return
    target = turn.outputs[0]
    attributes = {
        **{k: a for k, a in kept(node).items() if k == "alpha"},
        "transA": 1 - int_attribute(node, "transB", 0),
        "transB": 1 - int_attribute(node, "transA", 0),
    }
    operands = [node.inputs[1], node.inputs[0]]
    value = rw.node("Gemm", operands, attributes, before=turn, sources=(node, turn), like=target)
    rw.replace(target, value)
    rw.drop(turn)
    rw.drop(node)
    rw.done(value.name or "")


def _fuse_transposes(rw: Rewrite, node: ir.Node) -> ir.Node:
    for position, name in ((0, "transA"), (1, "transB")):
        turn = producer(node.inputs[position], "Transpose")
        if turn is None or ints_attribute(turn, "perm") not in (None, (1, 0)) or not rw.allows(site_of(node)):
            continue
        if sole_consumer(turn.outputs[0]) is not node:
            continue
        if node.op_type == "MatMul":
            target = node.outputs[0]
            value = rw.node("Gemm", list(node.inputs), before=node, sources=(node,), like=target)
            rw.replace(target, value)
            rw.drop(node)
            made = value.producer()
            assert made is not None
            node = made
        node.attributes[name] = ir.AttrInt64(name, 1 - int_attribute(node, name, 0))
        note_sources(node, (turn, node))
        node.replace_input_with(position, turn.inputs[0])
        rw.drop(turn)
        rw.done(site_of(node))
    return node
