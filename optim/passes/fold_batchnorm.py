"""Conv / ConvTranspose / Gemm / MatMul → scale and shift → ... becomes the linear op with other weights.

    y = (W x + B) * a + b  =  (W a) x + (B a + b),   a, b one number a channel

The scale and shift come as BatchNormalization, or as a chain of Mul, Div, Add, Sub, Neg with constants,
also behind a Transpose. Maths in float64: a = gamma / sqrt(var + eps), b = beta - mean a.
Allowed: the linear op's result is read by this chain alone; weights and statistics are constant;
BatchNormalization is in inference mode. A scale and shift *before* a convolution folds too where the border
does not see it: no padding, or no shift. Numbers: reassociates.
https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import (
    constant_of,
    input_of,
    int_attribute,
    ints_attribute,
    is_op,
    opset_of,
    rank,
    site_of,
    sole_consumer,
    static_shape,
)
from optim.passes.affine import Affine, affine_of
from optim.passes.linear import Linear, linear_of
from optim.rewrite import Rewrite, kept, note_sources

_LAZY_BYTES = 1 << 20  # larger weights are computed when they are read, one at a time


@dataclass(frozen=True)
class FoldBatchnorm:
    """Folds what scales and shifts the channels of a linear op into its weights."""

    @property
    def info(self) -> PassInfo:
        return PassInfo(
            "fold_batchnorm",
            Numerics.REASSOCIATES,
            "BatchNormalization, Mul, Add after (or before) a linear op → weights",
        )

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        for node in tuple(model.graph):
            if node.graph is not None and is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
                _fold_after(rw, node)
        for node in tuple(model.graph):
            while node.graph is not None and is_op(node, "Conv") and _fold_before(rw, node):
                pass
        return rw.outcome()


@dataclass
class _Chain:
    """What follows a linear op: affine nodes to take in, transposes to keep between."""

    scale: Array  # [M] float64
    shift: Array  # [M] float64
    taken: list[ir.Node] = field(default_factory=list)
    transposes: list[ir.Node] = field(default_factory=list)
    last: ir.Node | None = None
    refused: tuple[str, str] | None = None  # site, reason


def _fold_after(rw: Rewrite, node: ir.Node) -> None:
    follower = _affine_follower(node.outputs[0])
    if follower is None:
        return
    linear = linear_of(node, opset_of(rw.model))
    if isinstance(linear, str):
        rw.refuse(site_of(follower), linear)
        return
    chain = _walk(rw, node, linear)
    if chain.refused is not None:
        rw.refuse(*chain.refused)
    if chain.last is None or (linear.adds_node and not _saves(linear, chain)):
        return
    if not (np.isfinite(chain.scale).all() and np.isfinite(chain.shift).all()):
        rw.refuse(site_of(chain.last), "scale or shift is not finite")
        return
    _write(rw, node, linear, chain)


def _affine_follower(value: ir.Value) -> ir.Node | None:
    """A node that reads ``value`` and might be scale or shift, so that a refusal is worth a word."""
    for use in value.uses():
        if is_op(use.node, "BatchNormalization", "Mul", "Add", "Sub", "Div", "Neg"):
            return use.node
        if is_op(use.node, "Transpose"):
            later = sole_consumer(use.node.outputs[0])
            if later is not None and is_op(later, "BatchNormalization", "Mul", "Add", "Sub", "Div", "Neg"):
                return later
    return None


def _walk(rw: Rewrite, node: ir.Node, linear: Linear) -> _Chain:
    channels = linear.channels
    chain = _Chain(scale=np.ones(channels), shift=np.zeros(channels))
    value, axis = node.outputs[0], linear.axis
    transposes: list[ir.Node] = []
    while True:
        follower = sole_consumer(value)
        if follower is None:
            shared = _affine_follower(value)
            if shared is not None and affine_of(shared, value, axis, channels) is not None:
                others = len(value.uses()) - 1 + value.is_graph_output()
                chain.refused = (site_of(shared), f"the unscaled value is read {others} more time(s)")
            return chain
        if is_op(follower, "Transpose"):
            perm, wide = ints_attribute(follower, "perm"), rank(value)
            if perm is None or wide is None:
                return chain
            axis = perm.index(axis % wide)
            transposes.append(follower)
            value = follower.outputs[0]
            continue
        found = affine_of(follower, value, axis, channels)
        if found is None:
            return chain
        if isinstance(found, str):
            chain.refused = (site_of(follower), found)
            return chain
        if not rw.allows(site_of(follower)):
            return chain
        chain.scale = chain.scale * found.scale
        chain.shift = chain.shift * found.scale + found.shift
        chain.taken.append(follower)
        chain.transposes = list(transposes)
        chain.last = follower
        value = follower.outputs[0]


def _saves(linear: Linear, chain: _Chain) -> bool:
    """A MatMul has no bias: its shift stays an Add, so a chain is worth folding only when it gets shorter."""
    left = 1 if np.any(chain.shift) or linear.bias is not None else 0
    # An Add in place of a BatchNormalization is no shorter, but simpler, and fits into a Gemm.
    return len(chain.taken) > left or any(is_op(n, "BatchNormalization") for n in chain.taken)


def _write(rw: Rewrite, node: ir.Node, linear: Linear, chain: _Chain) -> None:
    last = chain.last
    assert last is not None
    base = node.outputs[0].name or "linear"
    target = last.outputs[0]
    sources = (node, *chain.transposes, *chain.taken)
    final_add = linear.adds_node and bool(np.any(chain.shift))
    scaled = linear.scaled(chain.scale)
    inputs: list[ir.Value | None] = [node.inputs[0], _weight(rw, scaled, base)]
    if not linear.adds_node:
        bias = linear.bias_after(chain.scale, chain.shift)
        if bias is not None:
            inputs.append(rw.constant(bias.astype(scaled.dtype.numpy()), f"{base}/bias"))
    whole = not chain.transposes and not final_add
    value = rw.node(
        node.op_type,
        inputs,
        linear.attributes(node),
        before=last,
        sources=sources,
        name=node.name,
        like=target if whole else None,
        out="" if whole else f"{base}/scaled",
    )
    if not whole:
        value.type, value.shape = node.outputs[0].type, node.outputs[0].shape
    for number, transpose in enumerate(chain.transposes):
        end = number == len(chain.transposes) - 1 and not final_add
        moved = rw.node(
            "Transpose",
            [value],
            kept(transpose),
            before=last,
            sources=(transpose,),
            name=transpose.name,
            like=target if end else None,
            out="" if end else f"{transpose.outputs[0].name}/scaled",
        )
        if not end:
            moved.type, moved.shape = transpose.outputs[0].type, transpose.outputs[0].shape
        value = moved
    if final_add:
        add = next(n for n in reversed(chain.taken))
        shift = chain.shift.astype(scaled.dtype.numpy())
        constant = rw.constant(shift, f"{base}/shift")
        value = rw.node("Add", [value, constant], before=last, sources=(add,), name=add.name, like=target)
    rw.replace(target, value)
    taken = set(chain.taken)
    for old in reversed([node, *_in_order(node, last)]):
        if old in taken or old is node or old in chain.transposes:
            rw.drop(old)
    for old in chain.taken:
        rw.done(site_of(old))


def _in_order(first: ir.Node, last: ir.Node) -> list[ir.Node]:
    """The nodes of a chain of sole consumers after ``first``, up to ``last``."""
    found: list[ir.Node] = []
    node = first
    while node is not last:
        follower = sole_consumer(node.outputs[0])
        if follower is None:
            break
        found.append(follower)
        node = follower
    if last not in found:
        found.append(last)
    return found


def _weight(rw: Rewrite, tensor: ir.TensorProtocol, base: str) -> ir.Value:
    ready = ir.Tensor(tensor.numpy()) if tensor.nbytes <= _LAZY_BYTES else tensor
    return rw.tensor(ready, f"{base}/weight")


# --- before ----------------------------------------------------------------------------------------


def _fold_before(rw: Rewrite, conv: ir.Node) -> bool:
    """Affine → Conv: W' = W a, B' = B + sum over W b, where the border does not see the shift; whether it
    was done.
    """
    data, axis = conv.inputs[0], 1
    affine_node = None if data is None else data.producer()
    transposes: list[ir.Node] = []
    while is_op(affine_node, "Transpose") and affine_node is not None and affine_node.inputs[0] is not None:
        perm = ints_attribute(affine_node, "perm")
        if perm is None or sole_consumer(affine_node.outputs[0]) is None:
            return False
        axis = perm[axis]
        transposes.append(affine_node)
        affine_node = affine_node.inputs[0].producer()
    shape = static_shape(input_of(conv, 1))
    if data is None or affine_node is None or shape is None:
        return False
    if not is_op(affine_node, "BatchNormalization", "Mul", "Add", "Sub", "Div"):
        return False
    site = site_of(affine_node)
    groups = int_attribute(conv, "group", 1)
    channels = shape[1] * groups
    source = next((v for v in affine_node.inputs if v is not None and constant_of(v) is None), None)
    found = None if source is None else affine_of(affine_node, source, axis, channels)
    if source is None or found is None or rank(source) != len(shape):
        return False
    if isinstance(found, str):
        rw.refuse(site, found)
        return False
    reader = transposes[-1] if transposes else conv
    reason = _why_not_before(conv, found, affine_node, reader)
    if reason is not None:
        rw.refuse(site, reason)
        return False
    weight = constant_of(input_of(conv, 1))
    bias = constant_of(input_of(conv, 2))
    if weight is None or (input_of(conv, 2) is not None and bias is None):
        rw.refuse(site, "the weights are not constant")
        return False
    if not rw.allows(site):
        return False
    per_group = weight.astype(np.float64).reshape(groups, shape[0] // groups, *shape[1:])
    ones = (1,) * (len(shape) - 2)
    scaled = per_group * found.scale.reshape(groups, 1, shape[1], *ones)
    moved = (per_group * found.shift.reshape(groups, 1, shape[1], *ones)).sum(
        axis=tuple(range(2, per_group.ndim))
    )
    new_bias = moved.reshape(shape[0]) + (0.0 if bias is None else bias.astype(np.float64))
    base = conv.outputs[0].name or "conv"
    conv.replace_input_with(1, rw.constant(scaled.reshape(shape).astype(weight.dtype), f"{base}/weight"))
    if bias is not None or np.any(new_bias):
        conv.resize_inputs(3)
        conv.replace_input_with(2, rw.constant(new_bias.astype(weight.dtype), f"{base}/bias"))
    note_sources(conv, (affine_node, *reversed(transposes), conv))
    for transpose in transposes:  # their values are no longer scaled: they need other names
        transpose.outputs[0].name = rw.fresh(f"{transpose.outputs[0].name}/unscaled")
    reader.replace_input_with(0, source)
    rw.drop(affine_node)
    rw.done(site)
    return True


def _why_not_before(conv: ir.Node, affine: Affine, affine_node: ir.Node, reader: ir.Node) -> str | None:
    pads = ints_attribute(conv, "pads") or ()
    auto = conv.attributes.get("auto_pad")
    padded = any(pads) or (auto is not None and auto.as_string().startswith("SAME"))
    if sole_consumer(affine_node.outputs[0]) is not reader:
        return "the scaled value is read elsewhere too"
    if padded and np.any(affine.shift):
        return "the convolution pads with zeros, which the shift would have to reach: the border would change"
    return None
