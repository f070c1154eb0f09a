"""exp(x - max(x)) / Σ exp(x - max(x)), spelled out, with or without the maximum → Softmax.

And its Log → LogSoftmax. Allowed: maximum and sum run over the same single axis and keep it; inner values are
read by the pattern alone; opset 13, from which Softmax works on one axis. Numbers: reassociates (without the
maximum, exp overflows where Softmax does not: then the certificate tells).
https://onnx.ai/onnx/operators/onnx__Softmax.html
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import axes_of, int_attribute, is_op, opset_of, producer, rank, site_of, sole_consumer
from optim.rewrite import Rewrite

_FIRST_OPSET = 13


@dataclass(frozen=True)
class FuseSoftmax:
    """A spelled-out softmax becomes one node."""

    @property
    def info(self) -> PassInfo:
        return PassInfo(
            "fuse_softmax", Numerics.REASSOCIATES, "Exp, ReduceSum, Div → Softmax (Log → LogSoftmax)"
        )

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        if opset_of(model) < _FIRST_OPSET:
            return rw.outcome()
        for node in tuple(model.graph):
            if node.graph is not None and is_op(node, "Div") and rw.allows(site_of(node)):
                _fuse(rw, node)
        for node in tuple(model.graph):
            if node.graph is not None and is_op(node, "Log") and rw.allows(site_of(node)):
                _fuse_log(rw, node)
        return rw.outcome()


def _fuse(rw: Rewrite, divide: ir.Node) -> None:
    power, total = producer(divide.inputs[0], "Exp"), producer(divide.inputs[1], "ReduceSum")
    if power is None or total is None or total.inputs[0] is not power.outputs[0]:
        return
    if {use.node for use in power.outputs[0].uses()} != {divide, total} or power.outputs[0].is_graph_output():
        return
    if sole_consumer(total.outputs[0]) is not divide:
        return
    axis = _single_axis(total)
    if axis is None:
        rw.refuse(site_of(divide), "the sum does not run over one axis that it keeps")
        return
    nodes, x = [power, total, divide], power.inputs[0]
    shift = producer(x, "Sub")
    most = None if shift is None else producer(shift.inputs[1], "ReduceMax")
    if shift is not None and most is not None and _is_shift_by_most(power, shift, most, axis):
        nodes, x = [most, shift, *nodes], shift.inputs[0]
    target = divide.outputs[0]
    value = rw.node("Softmax", [x], {"axis": axis}, before=divide, sources=nodes, like=target)
    rw.replace(target, value)
    for node in reversed(nodes):
        rw.drop(node)
    rw.done(value.name or "")


def _is_shift_by_most(power: ir.Node, shift: ir.Node, most: ir.Node, axis: int) -> bool:
    return (
        sole_consumer(shift.outputs[0]) is power
        and most.inputs[0] is shift.inputs[0]
        and _single_axis(most) == axis
        and sole_consumer(most.outputs[0]) is shift
    )


def _single_axis(node: ir.Node) -> int | None:
    """The one axis that a reduction runs over and keeps, counted from the front."""
    axes, wide = axes_of(node), rank(node.inputs[0])
    if axes is None or wide is None or len(axes) != 1 or not int_attribute(node, "keepdims", 1):
        return None
    return axes[0] % wide


def _fuse_log(rw: Rewrite, log: ir.Node) -> None:
    softmax = producer(log.inputs[0], "Softmax")
    if softmax is None or sole_consumer(softmax.outputs[0]) is not log:
        return
    target = log.outputs[0]
    axis = {"axis": int_attribute(softmax, "axis", -1)}
    value = rw.node("LogSoftmax", [softmax.inputs[0]], axis, before=log, sources=(softmax, log), like=target)
    rw.replace(target, value)
    rw.drop(log)
    rw.drop(softmax)
    rw.done(value.name or "")
