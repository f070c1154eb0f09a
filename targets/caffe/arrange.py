"""Layers that only move values: reshape, concat, slice, split; and the transposes that need none."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from optim.facts import input_of, int_attribute, ints_attribute, ints_of
from targets.axis_order import Held, held_shape_of, identity, refuse
from targets.caffe.draft import Draft
from targets.caffe.net import Layer
from targets.caffe.pooling import caffe_windows


def same(draft: Draft, node: ir.Node) -> None:
    """Identity, Dropout at inference, and casts between floats: no layer."""
    value = node.inputs[0]
    if node.op_type == "Cast" and value is not None and value.dtype != node.outputs[0].dtype:
        raise refuse(node, f"from {value.dtype} to {node.outputs[0].dtype}; Caffe computes in float32 only")
    held = draft.get(node, flat=True)
    draft.put(node.outputs[0], held.name, held.perm, held.shape, held.rows)


def transpose(draft: Draft, node: ir.Node) -> None:
    """No layer: the value is held as it is, in another order of ONNX's axes."""
    held = draft.get(node)
    order = ints_attribute(node, "perm") or tuple(reversed(range(held.rank)))
    if order[0] != 0:
        raise refuse(node, "moves the batch axis")
    # Output axis i is input axis order[i]; the held tensor has input axis perm[k] at position k.
    perm = tuple(order.index(axis) for axis in held.perm)
    draft.put(node.outputs[0], held.name, perm, held_shape_of(node, node.outputs[0]))


def reshape(draft: Draft, node: ir.Node) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: everything that keeps the batch axis."""
    held = draft.get(node, flat=True)
    output = held_shape_of(node, node.outputs[0])
    inner = [int(d) for d in held.shape[1:] if d is not None]
    if not output or math.prod(inner) != math.prod(int(d) for d in output[1:] if d is not None):
        raise refuse(node, f"{held.shape} → {output} moves the batch axis")
    if held.rows is not None:
        if output[1:] != held.shape[1:]:
            raise refuse(node, "of a vector that was flattened with its channels last")
        draft.put(node.outputs[0], held.name, held.perm, output, held.rows)
        return
    if in_sequence(held):
        if tuple(output[1:]) == tuple(held.held_shape[1:]):
            draft.put(node.outputs[0], held.name, identity(len(output)), output)  # only axes of 1 moved
            return
        draft.put(node.outputs[0], _reshaped(draft, node, held, output), identity(len(output)), output)
    elif len(output) == 2:
        elements = np.arange(math.prod(inner)).reshape(inner)
        rows = elements.transpose([axis - 1 for axis in held.perm[1:]]).reshape(-1)
        flat = draft.add(node, "Flatten", [held.name])
        draft.put(node.outputs[0], flat, (0, 1), output, rows)
    else:
        raise refuse(
            node,
            f"{held.shape} → {output} of a value with its channels last, and Caffe has no transposing layer",
            "optimise with the canonical recipe first",
        )


def in_sequence(held: Held) -> bool:
    """Whether the held tensor has its elements in ONNX's sequence: only axes of 1 moved."""
    wide = [axis for axis in held.perm if held.shape[axis] != 1]
    return wide == sorted(wide) and held.perm[0] == 0


def _reshaped(draft: Draft, node: ir.Node, held: Held, output: tuple[int | None, ...]) -> str:
    if len(output) == 2:
        return draft.add(node, "Flatten", [held.name])
    dims = [0, *(int(d) for d in output[1:] if d is not None)]
    return draft.add(node, "Reshape", [held.name], {"reshape_param": {"shape": dims}})


def concat(draft: Draft, node: ir.Node) -> None:
    """Concat of values held in one order."""
    parts = [draft.get(node, k) for k in range(len(node.inputs))]
    if any(part.perm != parts[0].perm for part in parts):
        raise refuse(node, "its inputs are held in different orders, and Caffe has no transposing layer")
    axis = parts[0].position(int_attribute(node, "axis", 0))
    if axis == 0:
        raise refuse(node, "along the batch")
    if len(parts) == 1:
        draft.put(node.outputs[0], parts[0].name, parts[0].perm, parts[0].shape)
        return
    top = draft.add(node, "Concat", [part.name for part in parts], {"concat_param": {"axis": axis}})
    draft.result(node, top, parts[0].perm)


def split(draft: Draft, node: ir.Node) -> None:
    """Split into parts of known size: Slice; parts that nobody reads go into a Silence layer."""
    held = draft.get(node)
    onnx_axis = int_attribute(node, "axis", 0) % held.rank
    shapes = [held_shape_of(node, output) for output in node.outputs]
    sizes = [int(shape[onnx_axis] or 0) for shape in shapes]
    axis = held.position(onnx_axis)
    if axis == 0:
        raise refuse(node, "along the batch")
    bounds = np.cumsum(sizes)[:-1].tolist()
    if not bounds:
        draft.put(node.outputs[0], held.name, held.perm, held.shape)
        return
    kept = [bool(output.uses()) or output.is_graph_output() for output in node.outputs]
    tops = iter(draft.cut(node, held.name, axis, bounds, kept=kept))
    for output, shape, keep in zip(node.outputs, shapes, kept, strict=True):
        if keep:
            draft.put(output, next(tops), held.perm, shape)


def take_slice(draft: Draft, node: ir.Node) -> None:
    """Slice with constant bounds: Slice and Silence; a step in space is a pool of one element."""
    held = draft.get(node)
    starts = ints_attribute(node, "starts") or ints_of(input_of(node, 1))
    ends = ints_attribute(node, "ends") or ints_of(input_of(node, 2))
    if starts is None or ends is None:
        raise refuse(node, "its bounds are computed at run time")
    axes = ints_attribute(node, "axes") or ints_of(input_of(node, 3)) or tuple(range(len(starts)))
    steps = ints_of(input_of(node, 4)) or (1,) * len(starts)
    top, strides = held.name, {}
    left = [int(d or 1) for d in held.held_shape]
    for start, end, onnx_axis, step in zip(starts, ends, axes, steps, strict=True):
        axis, size = held.position(onnx_axis), held.shape[onnx_axis % held.rank]
        if size is None:
            if (start, step) == (0, 1) and end >= 2**31 - 1:
                continue
            raise refuse(node, "along the batch")
        begin, stop, _ = slice(start, end, step).indices(size)
        if step < 1 or stop <= begin:
            raise refuse(node, f"a step of {step} from {start} to {end}")
        top = draft.crop(node, top, axis, size, begin, size - stop)
        strides[axis], left[axis] = step, stop - begin
    if any(step > 1 for step in strides.values()):
        if held.rank != 4 or any(step > 1 for axis, step in strides.items() if axis < 2):
            raise refuse(node, "a step along another axis than height or width")
        options: dict[str, object] = {"pool": "MAX", "kernel_h": 1, "kernel_w": 1}
        options |= {"stride_h": strides.get(2, 1), "stride_w": strides.get(3, 1)}
        top = draft.add(node, "Pooling", [top], {"pooling_param": options}, part="step")
        for axis in (2, 3):
            size, step = left[axis], strides.get(axis, 1)
            windows = caffe_windows(size, 1, step, 0)
            top = draft.crop(node, top, axis, windows, 0, windows - -(-size // step))
    draft.result(node, top, held.perm)


def constant_node(_draft: Draft, _node: ir.Node) -> None:
    """Constants are read where they are used."""


def input_layer(
    draft: Draft, name: str, value: ir.Value, perm: tuple[int, ...], shape: tuple[int | None, ...]
) -> None:
    """An Input layer of batch 1 where the batch is free."""
    blob = draft.names.unique(name, "input")
    dims = [shape[axis] or 1 for axis in perm]
    draft.layers.append(Layer(blob, "Input", (), (blob,), {"input_param": {"shape": dims}}))
    draft.put(value, blob, perm, shape)
