"""Reshape → Transpose → Reshape that only reorders channels → other rows or columns in the weights around it.

    [N, g·n, ...] → [N, g, n, ...] → [N, n, g, ...] → [N, n·g, ...]

Downwards through what treats channels alike or one by one (activations, depthwise convolutions, pools, scale
and shift), whose constants are reordered too, into convolutions over all channels, whose input channels are
reordered. Or upwards in the same way into one convolution over all channels, whose filters are.
Allowed: every reader (or the one producer) takes it in; weights are constant; shapes are known.
Numbers: reassociates (the sum over channels runs in another order).
Zhang et al., ShuffleNet (2018), for the shuffle itself. https://onnx.ai/onnx/operators/onnx__Conv.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import (
    constant_tensor_of,
    dims,
    input_of,
    int_attribute,
    ints_attribute,
    is_op,
    producer,
    site_of,
    sole_consumer,
)
from optim.reordered import note_reordered, shuffle_order
from optim.rewrite import Rewrite, note_sources
from optim.weights import read_once

_CHANNEL_BLIND = frozenset(
    {
        "Relu", "LeakyRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus",
        "Softsign", "Abs", "Neg", "Exp", "Sqrt", "Erf", "Identity", "Cast", "Clip", "MaxPool", "AveragePool",
        "GlobalAveragePool", "GlobalMaxPool",
    }
)  # fmt: skip
_BY_CHANNEL = frozenset({"PRelu", "Mul", "Add", "Sub", "Div", "BatchNormalization"})
_MOST_NODES = 64


@dataclass(frozen=True)
class SinkChannelShuffles:
    """Takes reorderings of channels into the weights."""

    @property
    def info(self) -> PassInfo:
        summary = "channel shuffles → reordered weights of the convolutions around them"
        return PassInfo("sink_channel_shuffles", Numerics.REASSOCIATES, summary)

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        for node in tuple(model.graph):
            if node.graph is None or not is_op(node, "Transpose"):
                continue
            found = _shuffle(node)
            if found is None or not rw.allows(site_of(found.nodes[-1])):
                continue
            site = site_of(found.nodes[-1])
            plan = _downwards(found)
            if isinstance(plan, str):
                upwards = _upwards(found)
                if isinstance(upwards, str):
                    rw.refuse(site, f"{plan}; and {upwards}")
                    continue
                plan = upwards
            _write(rw, found, plan)
            rw.done(site)
        return rw.outcome()


@dataclass(frozen=True)
class _Shuffle:
    """Three nodes that put channel ``order[j]`` of ``data`` in place j, seen as [groups, size] and turned."""

    nodes: tuple[ir.Node, ir.Node, ir.Node]
    data: ir.Value
    groups: int
    size: int

    @property
    def order(self) -> Array:
        return shuffle_order(self.groups, self.size)

    @property
    def result(self) -> ir.Value:
        return self.nodes[2].outputs[0]


@dataclass
class _Plan:
    """What to do to nodes on the way, the values whose content changes, and whether it goes up or down."""

    steps: list[Callable[[Rewrite], None]] = field(default_factory=list)
    renamed: list[ir.Value] = field(default_factory=list)
    nodes: list[ir.Node] = field(default_factory=list)


def _shuffle(transpose: ir.Node) -> _Shuffle | None:
    perm = ints_attribute(transpose, "perm")
    first = producer(transpose.inputs[0], "Reshape")
    second = sole_consumer(transpose.outputs[0])
    if perm is None or first is None or second is None or not is_op(second, "Reshape"):
        return None
    if sole_consumer(first.outputs[0]) is not transpose or perm[:3] != (0, 2, 1):
        return None
    if perm[3:] != tuple(range(3, len(perm))) or first.inputs[0] is None:
        return None
    outer, inner, after = dims(first.inputs[0]), dims(first.outputs[0]), dims(second.outputs[0])
    if outer is None or inner is None or after is None or len(inner) != len(outer) + 1 or len(outer) < 3:
        return None
    groups, size, channels = inner[1], inner[2], outer[1]
    known = all(isinstance(d, int) for d in (*outer[1:], *inner[1:], *after[1:]))
    if not known or not isinstance(groups, int) or not isinstance(size, int) or groups * size != channels:
        return None
    if inner[3:] != outer[2:] or after[1:] != outer[1:] or len(after) != len(outer):
        return None
    return _Shuffle((first, transpose, second), first.inputs[0], groups, size)


# --- downwards -------------------------------------------------------------------------------------


def _downwards(found: _Shuffle) -> _Plan | str:
    """Everything that reads the shuffled value reads the plain one, with its constants put back in order."""
    back = np.argsort(found.order)  # the place that plain channel i had
    plan, pending, seen = _Plan(), [found.result], {found.result}
    while pending:
        value = pending.pop()
        if value.is_graph_output() or not value.uses():
            return "the shuffled value is an output"
        for use in value.uses():
            node = use.node
            if node.graph is not value.graph or len(plan.nodes) > _MOST_NODES:
                return "it is read in a subgraph or by too many"
            ends = _absorbs(plan, node, use.idx, back)
            if isinstance(ends, str):
                return ends
            plan.nodes.append(node)
            if not ends and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                plan.renamed.append(node.outputs[0])
                pending.append(node.outputs[0])
    return plan


def _absorbs(plan: _Plan, node: ir.Node, position: int, back: Array) -> bool | str:
    """Plan the change of one reader; True where the shuffle ends there, a reason where it cannot pass."""
    if node in plan.nodes:
        return f"{node.op_type} reads it more than once"
    if is_op(node, "Conv") and position == 0 and int_attribute(node, "group", 1) == 1:
        if constant_tensor_of(input_of(node, 1)) is None:
            return "the weights of a convolution after it are not constant"
        plan.steps.append(partial(_reorder, node=node, position=1, axis=1, order=back))
        return True
    reason = _reorder_constants(plan, node, position, back)
    return reason if reason is not None else False


def _reorder_constants(plan: _Plan, node: ir.Node, position: int, order: Array) -> str | None:
    """Plan the reordering of what a node holds for each channel; a reason where the shuffle cannot pass."""
    channels = len(order)
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return f"{node.op_type} has a second output"
    if node.domain == "" and node.op_type in _CHANNEL_BLIND and position == 0:
        return None
    if is_op(node, "Conv") and position == 0 and _is_depthwise(node, channels):
        plan.steps.append(partial(_reorder, node=node, position=1, axis=0, order=order))
        if input_of(node, 2) is not None:
            plan.steps.append(partial(_reorder, node=node, position=2, axis=0, order=order))
        return None
    if node.domain != "" or node.op_type not in _BY_CHANNEL:
        return f"{node.op_type} mixes channels"
    wide = len(dims(node.outputs[0]) or dims(node.inputs[position]) or ())
    for i, value in enumerate(node.inputs):
        if i == position:
            continue
        tensor = constant_tensor_of(value)
        if tensor is None:
            return f"{node.op_type} has a second operand that is not constant"
        shape = tuple(int(d) for d in tensor.shape if isinstance(d, int))
        axis = 0 if is_op(node, "BatchNormalization") else len(shape) - (wide - 1)
        if len(shape) > wide or (axis >= 0 and shape[axis] not in (1, channels)):
            return f"{node.op_type} has a constant of another shape"
        if axis >= 0 and shape[axis] == channels:
            plan.steps.append(partial(_reorder, node=node, position=i, axis=axis, order=order))
    return None


def _is_depthwise(node: ir.Node, channels: int) -> bool:
    shape = dims(input_of(node, 1))
    constant = constant_tensor_of(input_of(node, 1)) is not None
    bias = input_of(node, 2)
    return (
        constant
        and (bias is None or constant_tensor_of(bias) is not None)
        and shape is not None
        and int_attribute(node, "group", 1) == channels == shape[0]
    )


# --- upwards ---------------------------------------------------------------------------------------


def _upwards(found: _Shuffle) -> _Plan | str:
    """The convolution before it makes its filters in the shuffled order."""
    plan, value = _Plan(), found.data
    reader: ir.Node = found.nodes[0]
    while True:
        node = value.producer()
        if node is None or sole_consumer(value) is not reader or len(plan.nodes) > _MOST_NODES:
            return "the value before it is read elsewhere or comes from no node"
        plan.renamed.append(value)
        plan.nodes.append(node)
        if is_op(node, "Conv") and int_attribute(node, "group", 1) == 1:
            held = [v for v in node.inputs[1:] if v is not None]
            if any(constant_tensor_of(v) is None for v in held):
                return "the weights of the convolution before it are not constant"
            for position in range(1, len(held) + 1):
                plan.steps.append(partial(_reorder, node=node, position=position, axis=0, order=found.order))
            return plan
        carried = [i for i, v in enumerate(node.inputs) if v is not None and constant_tensor_of(v) is None]
        if len(carried) != 1:
            return f"{node.op_type} before it reads {len(carried)} values"
        reason = _reorder_constants(plan, node, carried[0], found.order)
        if reason is not None:
            return f"before it, {reason}"
        source = node.inputs[carried[0]]
        if source is None:
            return "the value before it comes from no node"
        reader, value = node, source


# --- writing ---------------------------------------------------------------------------------------


def _write(rw: Rewrite, found: _Shuffle, plan: _Plan) -> None:
    for step in plan.steps:
        step(rw)
    for node in plan.nodes:
        note_sources(node, (*found.nodes, node))
    upwards = found.data in plan.renamed
    # Downwards a value loses the shuffle, which leads back to what it was; upwards it gains it.
    back = (found.size, found.groups) if upwards else (found.groups, found.size)
    for value in plan.renamed:  # its channels stand in another order now
        old = value.name or ""
        value.name = rw.fresh(f"{old}/reordered")
        note_reordered(rw.model, value.name, old, *back)
    name = found.result.name
    rw.replace(found.result, found.data)
    for node in reversed(found.nodes):
        rw.drop(node)
    if upwards and not found.data.is_graph_output():
        found.result.name = None
        found.data.name = name


def _reorder(rw: Rewrite, node: ir.Node, position: int, axis: int, order: Array) -> None:
    value = node.inputs[position]
    tensor = constant_tensor_of(value)
    if value is None or tensor is None:
        raise ValueError("checked before")
    shape = tuple(int(d) for d in tensor.shape if isinstance(d, int))
    make = partial(_taken, tensor, axis, tuple(int(i) for i in order))
    node.replace_input_with(position, rw.lazy(make, tensor.dtype, shape, f"{value.name}/reordered"))


def _taken(tensor: ir.TensorProtocol, axis: int, order: Sequence[int]) -> Array:
    return np.take(read_once(tensor), order, axis=axis)
