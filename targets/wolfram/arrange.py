"""Layers that only move values: reshape, transpose, catenate, part, pad, resize."""

from __future__ import annotations

import math

import onnx_ir as ir

from optim.facts import (
    float_attribute,
    input_of,
    int_attribute,
    ints_attribute,
    ints_of,
    scalar_of,
    string_attribute,
)
from targets.axis_order import held_shape_of, identity, refuse
from targets.operands import refuse_unless_repeats
from targets.wolfram.draft import Draft
from targets.wolfram.text import listing, number


def same(draft: Draft, node: ir.Node) -> None:
    """Identity, Dropout at inference, and casts that change nothing: no layer."""
    value = node.inputs[0]
    if node.op_type == "Cast" and value is not None and value.dtype != node.outputs[0].dtype:
        raise refuse(node, f"from {value.dtype} to {node.outputs[0].dtype}")
    held = draft.get(node)
    draft.put(node.outputs[0], held.name, held.perm, held.shape)


def transpose(draft: Draft, node: ir.Node) -> None:
    """No layer yet: the value is held in another order until a layer needs ONNX's."""
    held = draft.get(node)
    order = ints_attribute(node, "perm") or tuple(reversed(range(held.rank)))
    if order[0] != 0:
        raise refuse(node, "moves the batch axis")
    perm = tuple(order.index(axis) for axis in held.perm)
    draft.put(node.outputs[0], held.name, perm, held_shape_of(node, node.outputs[0]))


def reshape(draft: Draft, node: ir.Node) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: everything that keeps the batch axis."""
    held = draft.get(node)
    output = held_shape_of(node, node.outputs[0])
    if not output or _elements(held.shape) != _elements(output):
        raise refuse(node, f"{held.shape} → {output} moves the batch axis")
    wide = [axis for axis in held.perm if held.shape[axis] != 1]
    in_sequence = wide == sorted(wide)
    if in_sequence and output[1:] == held.held_shape[1:]:
        draft.put(node.outputs[0], held.name, identity(len(output)), output)  # only axes of 1 moved
        return
    x = held.name if in_sequence else draft.turned(node, held, identity(held.rank))
    if len(output) == 2:
        made = draft.add(node, "FlattenLayer", [x])
    else:
        made = draft.add(node, "ReshapeLayer", [x], listing(int(d or 1) for d in output[1:]))
    if x in draft.positive:
        draft.positive.add(made)
    draft.put(node.outputs[0], made, identity(len(output)), output)


def _elements(shape: tuple[int | None, ...]) -> int:
    return math.prod(int(d) for d in shape[1:] if d is not None)


def concat(draft: Draft, node: ir.Node) -> None:
    """Concat along a level, in the order in which the first input is held."""
    parts = [draft.get(node, k) for k in range(len(node.inputs))]
    perm = parts[0].perm
    level = parts[0].position(int_attribute(node, "axis", 0))
    if level == 0:
        raise refuse(node, "along the batch")
    sources = [draft.turned(node, part, perm) for part in parts]
    made = draft.add(node, "CatenateLayer", sources, str(level))
    if draft.positive.issuperset(sources):
        draft.positive.add(made)
    draft.result(node, made, perm)


def split(draft: Draft, node: ir.Node) -> None:
    """Split into parts of known size."""
    held = draft.get(node)
    axis = int_attribute(node, "axis", 0) % held.rank
    start = 0
    for k, output in enumerate(node.outputs):
        shape = held_shape_of(node, output)
        size = int(shape[axis] or 0)
        spans = {held.position(axis): (start, start + size)}
        draft.put(output, _part(draft, node, held.name, held.rank, spans, f"part{k + 1}"), held.perm, shape)
        start += size


def take_slice(draft: Draft, node: ir.Node) -> None:
    """Slice with constant bounds and steps of 1."""
    held = draft.get(node)
    starts = ints_attribute(node, "starts") or ints_of(input_of(node, 1))
    ends = ints_attribute(node, "ends") or ints_of(input_of(node, 2))
    if starts is None or ends is None:
        raise refuse(node, "its bounds are computed at run time")
    axes = ints_attribute(node, "axes") or ints_of(input_of(node, 3)) or tuple(range(len(starts)))
    if any(step != 1 for step in ints_of(input_of(node, 4)) or ()):
        raise refuse(node, "its step is not 1")
    spans = {}
    for start, end, axis in zip(starts, ends, axes, strict=True):
        size = held.shape[axis % held.rank]
        if held.position(axis) == 0 or size is None:
            raise refuse(node, "along the batch")
        begin, stop, _ = slice(start, end).indices(size)
        spans[held.position(axis)] = (begin, stop)
    draft.result(node, _part(draft, node, held.name, held.rank, spans, ""), held.perm)


def _part(
    draft: Draft, node: ir.Node, x: str, rank: int, spans: dict[int, tuple[int, int]], part: str
) -> str:
    texts = [f"{spans[k][0] + 1} ;; {spans[k][1]}" if k in spans else "All" for k in range(1, rank)]
    made = draft.add(node, "PartLayer", [x], listing(texts), part=part)
    if x in draft.positive:
        draft.positive.add(made)
    return made


def pad(draft: Draft, node: ir.Node) -> None:
    """Pad with a constant, or with the edge repeated."""
    held = draft.get(node)
    pads = ints_attribute(node, "pads") or ints_of(input_of(node, 1))
    mode = string_attribute(node, "mode", "constant")
    value = (
        scalar_of(input_of(node, 2)) if input_of(node, 2) is not None else float_attribute(node, "value", 0.0)
    )
    if pads is None or value is None or mode not in ("constant", "edge") or min(pads) < 0:
        raise refuse(node, "its pads are computed, negative, or of another mode than constant and edge")
    axes = ints_of(input_of(node, 3)) or tuple(range(len(pads) // 2))
    half = len(pads) // 2
    widths = {held.position(axis): (pads[k], pads[k + half]) for k, axis in enumerate(axes)}
    if widths.get(0, (0, 0)) != (0, 0):
        raise refuse(node, "along the batch")
    border = listing(widths.get(k, (0, 0)) for k in range(1, held.rank))
    padding = number(value) if mode == "constant" else '"Fixed"'
    made = draft.add(node, "PaddingLayer", [held.name], border, options={"Padding": padding})
    if held.name in draft.positive and (mode == "edge" or value >= 0):
        draft.positive.add(made)
    draft.result(node, made, held.perm)


def resize(draft: Draft, node: ir.Node) -> None:
    """Resize and Upsample to the nearest, by whole factors."""
    held, x = draft.image(node)
    output = held_shape_of(node, node.outputs[0])
    whole = all(b and a and a % b == 0 for b, a in zip(held.shape[1:], output[1:], strict=True))
    refuse_unless_repeats(node, "the Wolfram Language")
    if not whole or output[1] != held.shape[1]:
        raise refuse(node, f"from {held.shape} to {output} is not by whole factors")
    size = listing(int(d or 1) for d in output[2:])
    made = draft.add(node, "ResizeLayer", [x], size, options={"Resampling": '"Nearest"'})
    draft.result(node, made)


def depth_to_space(draft: Draft, node: ir.Node) -> None:
    """DepthToSpace: reshape, transpose, reshape."""
    held, x = draft.image(node)
    block = int_attribute(node, "blocksize", 1)
    channels, height, width = (int(d or 1) for d in held.shape[1:])
    depth = channels // block**2
    crd = string_attribute(node, "mode", "DCR") == "CRD"
    split_axes = (depth, block, block, height, width) if crd else (block, block, depth, height, width)
    order = (0, 3, 1, 4, 2) if crd else (2, 3, 0, 4, 1)  # to depth, height, block, width, block
    blocks = draft.add(node, "ReshapeLayer", [x], listing(split_axes), part="blocks")
    levels = listing(order.index(k) + 1 for k in range(5))
    turned = draft.add(node, "TransposeLayer", [blocks], levels, part="turn")
    made = draft.add(node, "ReshapeLayer", [turned], listing((depth, height * block, width * block)))
    draft.result(node, made)


def constant_node(_draft: Draft, _node: ir.Node) -> None:
    """Constants are read where they are used."""
