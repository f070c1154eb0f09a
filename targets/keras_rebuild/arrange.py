"""Layers that only move values: transpose, reshape, concat, pad, slice, resize, reduce."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from optim.facts import (
    axes_of,
    constant_of,
    float_attribute,
    input_of,
    int_attribute,
    ints_attribute,
    ints_of,
    is_op,
    scalar_of,
    sole_consumer,
    string_attribute,
)
from targets.keras_rebuild.drawing import Drawing, Held, channels_last, identity, refuse, shape_of

REDUCTIONS = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max", "ReduceMin": "min"}


def transpose(drawing: Drawing, node: ir.Node) -> None:
    """No layer where the held order already is the wanted one: the edge transposes of a converted model
    vanish."""
    held = drawing.get(node, node.inputs[0])
    order = ints_attribute(node, "perm") or tuple(reversed(range(held.rank)))
    # Output axis i is input axis order[i]; the held tensor has input axis perm[k] at position k.
    perm = tuple(order.index(axis) for axis in held.perm)
    if perm in (identity(held.rank), channels_last(held.rank)):
        drawing.put(node.outputs[0], held.variable, perm)
        return
    plain = drawing.turned(held, identity(held.rank))
    source = Held(plain, identity(held.rank), held.shape)
    wanted = drawing.turned(source, tuple(order))
    drawing.put(node.outputs[0], wanted, identity(held.rank))


def same(drawing: Drawing, node: ir.Node) -> None:
    """Identity, Dropout at inference, and casts that change nothing."""
    value = node.inputs[0]
    if node.op_type == "Cast" and value is not None and value.dtype != node.outputs[0].dtype:
        raise refuse(node, f"from {value.dtype} to {node.outputs[0].dtype}")
    held = drawing.get(node, value)
    drawing.put(node.outputs[0], held.variable, held.perm)


def reshape(drawing: Drawing, node: ir.Node) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: everything that keeps the batch axis."""
    held = drawing.get(node, node.inputs[0])
    output = shape_of(node.outputs[0])
    target = ints_of(input_of(node, 1)) if node.op_type == "Reshape" else None
    inner = list(output[1:])
    if None in inner and target is not None and len(target) == len(output) and 0 not in target[1:]:
        inner = [int(d) for d in target[1:]]
    if not output or inner.count(None) > 1 or (None in inner and -1 in inner):
        raise refuse(node, f"to {output}: too many unknown sizes", "freeze the input's shape")
    inner_known = [-1 if d is None else d for d in inner]
    if held.rank == 0 or _batch_moves(held.shape, output, inner_known):
        raise refuse(node, f"{held.shape} → {output} moves the batch axis")
    if in_sequence(held.shape, held.perm):
        perm = channels_last(len(output))
        kept = tuple(held.shape[axis] for axis in held.perm)
        if in_sequence(output, perm) and tuple(output[axis] for axis in perm)[1:] == kept[1:]:
            drawing.put(node.outputs[0], held.variable, perm)  # only axes of size 1 moved
            return
        plain = held.variable
    elif _feeds_dense(node.outputs[0]) and None not in held.shape[1:] and len(inner_known) == 1:
        # TensorFlow flattens height, width, channels: so does this, and the dense layer's rows follow.
        inner_shape = [int(d or 0) for d in held.shape[1:]]
        order = np.arange(math.prod(inner_shape)).reshape(inner_shape)
        drawing.flattened[node.outputs[0].name or ""] = order.transpose(
            [a - 1 for a in held.perm[1:]]
        ).ravel()
        plain = held.variable
    else:
        plain = drawing.turned(held, identity(held.rank))
    call = (
        "layers.Flatten("
        if len(inner_known) == 1 and held.rank > 2
        else f"layers.Reshape({tuple(inner_known)}"
    )
    drawing.put(node.outputs[0], drawing.layer(node, call, plain), identity(len(output)))


def _feeds_dense(value: ir.Value) -> bool:
    """Whether only one dense layer reads a flattened value: a Gemm or MatMul with constant weights."""
    node = sole_consumer(value)
    if node is None or node.inputs[0] is not value or constant_of(input_of(node, 1)) is None:
        return False
    if is_op(node, "Gemm"):
        return not int_attribute(node, "transA", 0)
    weight = constant_of(input_of(node, 1))
    return is_op(node, "MatMul") and weight is not None and weight.ndim == 2


def in_sequence(shape: tuple[int | None, ...], perm: tuple[int, ...]) -> bool:
    """Whether a tensor held in order ``perm`` has its elements in ONNX's sequence: only axes of 1 moved."""
    wide = [axis for axis in perm if shape[axis] != 1]
    return wide == sorted(wide) and perm[0] == 0


def _batch_moves(before: tuple[int | None, ...], after: tuple[int | None, ...], inner: list[int]) -> bool:
    known = [d for d in before[1:] if d is not None]
    if len(known) == len(before) - 1 and -1 not in inner:
        return math.prod(known) != math.prod(inner)
    return before[0] != after[0]


def concat(drawing: Drawing, node: ir.Node) -> None:
    """Concat in the order that most inputs are held in."""
    held = [drawing.get(node, value) for value in node.inputs]
    perms = [h.perm for h in held]
    perm = max(set(perms), key=perms.count)
    axis = int_attribute(node, "axis", 0) % held[0].rank
    parts = ", ".join(drawing.turned(h, perm) for h in held)
    y = drawing.layer(node, f"layers.Concatenate(axis={perm.index(axis)}", f"[{parts}]")
    drawing.put(node.outputs[0], y, perm)


def pad(drawing: Drawing, node: ir.Node) -> None:
    """Constant, reflect and edge padding."""
    held = drawing.get(node, node.inputs[0])
    pads = ints_attribute(node, "pads") or ints_of(input_of(node, 1))
    axes = ints_of(input_of(node, 3))
    mode = string_attribute(node, "mode", "constant")
    value = (
        scalar_of(input_of(node, 2)) if input_of(node, 2) is not None else float_attribute(node, "value", 0.0)
    )
    if (
        pads is None
        or value is None
        or mode not in ("constant", "reflect", "edge")
        or min(pads, default=0) < 0
    ):
        raise refuse(node, "its pads are computed, negative or of an unknown mode")
    named = tuple(a % held.rank for a in axes) if axes is not None else tuple(range(held.rank))
    half = len(pads) // 2
    widths = {axis: (pads[i], pads[i + half]) for i, axis in enumerate(named)}
    full = tuple(widths.get(axis, (0, 0)) for axis in held.perm)
    if full[0] == full[-1] == (0, 0) and held.rank == 4 and mode == "constant" and value == 0.0:
        y = drawing.layer(node, f"layers.ZeroPadding2D({full[1:3]}", held.variable)
    else:
        how = f"constant_values={float(value)!r}" if mode == "constant" else f"mode={mode!r}"
        y = drawing.line(f"ops.pad({held.variable}, {full}, {how})")
    drawing.put(node.outputs[0], y, held.perm)


def take_slice(drawing: Drawing, node: ir.Node) -> None:
    """Slice with constant bounds: Python's own slicing."""
    held = drawing.get(node, node.inputs[0])
    starts = ints_attribute(node, "starts") or ints_of(input_of(node, 1))
    ends = ints_attribute(node, "ends") or ints_of(input_of(node, 2))
    if starts is None or ends is None:
        raise refuse(node, "its bounds are computed at run time")
    axes = ints_attribute(node, "axes") or ints_of(input_of(node, 3)) or tuple(range(len(starts)))
    steps = ints_of(input_of(node, 4)) or (1,) * len(starts)
    if min(steps) < 1:
        raise refuse(node, "a negative step")
    texts = {a % held.rank: _slice(s, e, st) for a, s, e, st in zip(axes, starts, ends, steps, strict=True)}
    index = ", ".join(texts.get(axis, ":") for axis in held.perm)
    drawing.put(node.outputs[0], drawing.line(f"{held.variable}[{index}]"), held.perm)


def _slice(start: int, end: int, step: int) -> str:
    stop = "" if end >= 2**31 - 1 else str(end)
    return f"{start}:{stop}" + (f":{step}" if step != 1 else "")


def split(drawing: Drawing, node: ir.Node) -> None:
    """Split into parts of known size."""
    held = drawing.get(node, node.inputs[0])
    axis = int_attribute(node, "axis", 0) % held.rank
    sizes = [shape_of(output)[axis] for output in node.outputs]
    start = 0
    for output, size in zip(node.outputs, sizes, strict=True):
        if size is None:
            raise refuse(node, "a part of unknown size")
        index = ", ".join(f"{start}:{start + size}" if a == axis else ":" for a in held.perm)
        drawing.put(output, drawing.line(f"{held.variable}[{index}]"), held.perm)
        start += size


def reduce(drawing: Drawing, node: ir.Node) -> None:
    """ReduceMean, ReduceSum, ReduceMax, ReduceMin; a mean over all of space is a GlobalAveragePooling."""
    held = drawing.get(node, node.inputs[0])
    axes = axes_of(node) or tuple(range(held.rank))
    named = tuple(sorted(a % held.rank for a in axes))
    keep = bool(int_attribute(node, "keepdims", 1))
    if 0 in named:
        raise refuse(node, "over the batch axis")
    if node.op_type == "ReduceMean" and held.rank == 4 and named == (2, 3):
        call = f"layers.GlobalAveragePooling2D(keepdims={keep}"
        y = drawing.layer(node, call, drawing.turned(held, channels_last(4)))
        drawing.put(node.outputs[0], y, channels_last(4) if keep else identity(2))
        return
    name = REDUCTIONS[node.op_type]
    variable, perm = (held.variable, held.perm) if keep else (drawing.turned(held, identity(held.rank)), None)
    positions = tuple(perm.index(a) for a in named) if perm else named
    y = drawing.line(f"ops.{name}({variable}, axis={positions}, keepdims={keep})")
    drawing.put(node.outputs[0], y, perm or identity(held.rank - len(named)))


def resize(drawing: Drawing, node: ir.Node) -> None:
    """Resize and Upsample by whole factors: nearest as a repetition, linear with half-pixel centres."""
    held, x = drawing.spatial(node, node.inputs[0])
    output = shape_of(node.outputs[0])
    mode = string_attribute(node, "mode", "nearest")
    centres = string_attribute(
        node, "coordinate_transformation_mode", "asymmetric" if node.op_type == "Upsample" else "half_pixel"
    )
    factors = []
    for before, after in zip(held.shape[2:], output[2:], strict=True):
        if before is None or after is None or after % before:
            raise refuse(node, f"from {held.shape} to {output} is not by known whole factors")
        factors.append(after // before)
    if held.rank != 4 or held.shape[1] != output[1]:
        raise refuse(node, "resizes more than two spatial axes")
    rounding = string_attribute(node, "nearest_mode", "round_prefer_floor")
    repeats = centres == "half_pixel" and rounding in ("round_prefer_floor", "round_prefer_ceil")
    repeats = repeats or (centres == "asymmetric" and rounding == "floor") or node.op_type == "Upsample"
    if mode == "nearest" and (repeats or factors == [1, 1]):
        call = f"layers.UpSampling2D({tuple(factors)}, interpolation='nearest'"
    elif mode == "linear" and centres in ("half_pixel", "pytorch_half_pixel") and node.op_type == "Resize":
        call = f"layers.UpSampling2D({tuple(factors)}, interpolation='bilinear'"
    else:
        raise refuse(node, f"mode {mode} with {centres} and {rounding} has no exact Keras counterpart")
    drawing.put(node.outputs[0], drawing.layer(node, call, x), channels_last(4))


def depth_to_space(drawing: Drawing, node: ir.Node) -> None:
    """DepthToSpace, DCR as TensorFlow's own and CRD as its permutation of channels."""
    held, x = drawing.spatial(node, node.inputs[0])
    _, channels, height, width = held.shape
    block = int_attribute(node, "blocksize", 1)
    if None in (channels, height, width) or channels is None:
        raise refuse(node, "unknown size")
    depth = channels // block**2
    crd = string_attribute(node, "mode", "DCR") == "CRD"
    inner = (height, width, depth, block, block) if crd else (height, width, block, block, depth)
    order = (1, 4, 2, 5, 3) if crd else (1, 3, 2, 4, 5)
    y = drawing.layer(node, f"layers.Reshape({inner}", x, part="blocks")
    y = drawing.line(f"layers.Permute({order})({y})")
    shape = tuple(shape_of(node.outputs[0])[axis] for axis in (2, 3, 1))
    drawing.put(node.outputs[0], drawing.layer(node, f"layers.Reshape({shape}", y), channels_last(4))


def constant_node(_drawing: Drawing, node: ir.Node) -> None:
    """Constants are read where they are used."""
    if constant_of(node.outputs[0]) is None:
        raise refuse(node, "a constant without a tensor")
