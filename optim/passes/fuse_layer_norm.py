"""(x - mean) / sqrt(var + eps) * gamma + beta, spelled out → LayerNormalization.

Allowed: mean and variance are ReduceMean with kept axes over the same trailing axes; inner values are read
by the pattern alone; gamma and beta are constant over exactly those axes (gamma may be absent where the
axes are known); opset 17.
Numbers: reassociates. https://onnx.ai/onnx/operators/onnx__LayerNormalization.html
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import (
    axes_of,
    constant_of,
    dims,
    int_attribute,
    is_op,
    opset_of,
    producer,
    rank,
    scalar_of,
    site_of,
    sole_consumer,
)
from optim.passes.matching import other_operand, with_scalar
from optim.rewrite import Rewrite

_FIRST_OPSET = 17


@dataclass(frozen=True)
class FuseLayerNorm:
    """A spelled-out layer normalisation becomes one node."""

    @property
    def info(self) -> PassInfo:
        return PassInfo(
            "fuse_layer_norm", Numerics.REASSOCIATES, "mean, variance, Div, Mul, Add → LayerNormalization"
        )

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        if opset_of(model) >= _FIRST_OPSET:
            for node in tuple(model.graph):
                if node.graph is not None and is_op(node, "Div"):
                    _fuse(rw, node)
        return rw.outcome()


@dataclass(frozen=True)
class _Core:
    """The part up to the division."""

    x: ir.Value
    axes: tuple[int, ...]  # counted from the front
    epsilon: float
    nodes: tuple[ir.Node, ...]  # in graph order, the Div last


def _fuse(rw: Rewrite, divide: ir.Node) -> None:
    core = _match(divide)
    if core is None:
        return
    nodes, last = list(core.nodes), divide
    gamma, last = _factor(last, "Mul", core)
    if last is not divide:
        nodes.append(last)
    beta, end = _factor(last, "Add", core)
    if end is not last:
        nodes.append(end)
    if not rw.allows(site_of(end)):
        return
    shape = [d for d in (dims(core.x) or ())[core.axes[0] :] if isinstance(d, int)]
    if gamma is None:
        if len(shape) != len(core.axes):
            rw.refuse(site_of(divide), "there is no scale, and the size of the normalised axes is unknown")
            return
        dtype = np.dtype(np.float32) if core.x.dtype is None else core.x.dtype.numpy()
        gamma = rw.constant(np.ones(shape, dtype), f"{site_of(divide)}/scale")
    inputs = [core.x, gamma] if beta is None else [core.x, gamma, beta]
    target = end.outputs[0]
    attributes = {"axis": core.axes[0] - (rank(core.x) or 0), "epsilon": core.epsilon}
    value = rw.node("LayerNormalization", inputs, attributes, before=end, sources=nodes, like=target)
    rw.replace(target, value)
    for node in reversed(nodes):
        rw.drop(node)
    rw.done(value.name or "")


def _match(divide: ir.Node) -> _Core | None:
    centred, root = divide.inputs[0], producer(divide.inputs[1], "Sqrt")
    subtract = producer(centred, "Sub")
    shifted = producer(root.inputs[0], "Add") if root is not None else None
    found = with_scalar(shifted, "Add")
    variance = producer(found[0], "ReduceMean") if found is not None else None
    square = producer(variance.inputs[0], "Mul", "Pow") if variance is not None else None
    if (
        root is None
        or shifted is None
        or found is None
        or variance is None
        or square is None
        or subtract is None
    ):
        return None
    if square.inputs[0] is not centred or centred is None:
        return None
    if square.op_type == "Mul" and square.inputs[1] is not centred:
        return None
    if square.op_type == "Pow" and scalar_of(square.inputs[1]) != 2.0:
        return None
    x, mean = subtract.inputs[0], producer(subtract.inputs[1], "ReduceMean")
    if x is None or mean is None or mean.inputs[0] is not x:
        return None
    axes, wide = _trailing_axes(mean, x), rank(x)
    if axes is None or wide is None or axes != _trailing_axes(variance, x):
        return None
    inner = (mean, square, variance, shifted, root)
    if any(sole_consumer(n.outputs[0]) is None for n in inner) or centred.is_graph_output():
        return None
    if {use.node for use in centred.uses()} != {square, divide}:
        return None
    return _Core(x, axes, found[1], (mean, subtract, square, variance, shifted, root, divide))


def _trailing_axes(node: ir.Node, x: ir.Value) -> tuple[int, ...] | None:
    axes, wide = axes_of(node), rank(x)
    if axes is None or wide is None or not axes or not int_attribute(node, "keepdims", 1):
        return None
    normal = tuple(sorted(a % wide for a in axes))
    return normal if normal == tuple(range(wide - len(normal), wide)) else None


def _factor(node: ir.Node, op_type: str, core: _Core) -> tuple[ir.Value | None, ir.Node]:
    """The constant of the Mul or Add that alone reads ``node``, when it covers exactly the normalised
    axes.
    """
    follower = sole_consumer(node.outputs[0])
    if follower is None or not is_op(follower, op_type):
        return None, node
    constant = other_operand(follower, node.outputs[0])
    array = constant_of(constant)
    expected = (dims(core.x) or ())[core.axes[0] :]
    if array is None or array.shape != tuple(expected):
        return None, node
    return constant, follower
