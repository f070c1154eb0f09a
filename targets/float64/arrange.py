"""Operators that move, cut, join and reduce tensors. Formulas: https://onnx.ai/onnx/operators/."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from targets.float64.call import Call, Kernel, NotCoveredError, to_host
from targets.float64.windows import Array


def widened(data_type: int) -> np.dtype[Any]:
    """The dtype that stands for an ONNX element type here: float64 for every floating-point one."""
    kind = ir.DataType(data_type)
    if kind.is_floating_point():
        return np.dtype(np.float64)
    return kind.numpy()


def _axes(call: Call, index: int) -> tuple[int, ...] | None:
    """Axes from input ``index`` (newer opsets) or from the attribute (older ones)."""
    if "axes" in call.attributes:
        return call.integers("axes")
    return call.host_ints(index)


def _reshape(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    wanted = call.integers("shape") if "shape" in call.attributes else call.host_ints(1)
    if wanted is None:
        raise NotCoveredError("Reshape without a shape")
    if not call.integer("allowzero", 0):  # 0 copies the input's dimension
        wanted = tuple(x.shape[i] if d == 0 else d for i, d in enumerate(wanted))
    return (x.reshape(wanted),)


def _transpose(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    return (x.transpose(call.integers("perm", tuple(reversed(range(x.ndim))))),)


def _flatten(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    axis = call.integer("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return (x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), -1),)


def _squeeze(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    return (call.xp.squeeze(x, axis=_axes(call, 1)),)


def _unsqueeze(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    axes = _axes(call, 1)
    if axes is None:
        raise NotCoveredError("Unsqueeze without axes")
    rank = x.ndim + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = call.xp.expand_dims(x, axis)
    return (x,)


def _concat(call: Call) -> tuple[Array, ...]:
    return (call.xp.concatenate(call.tensors(), axis=call.integer("axis", 1)),)


def _split(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    axis = call.integer("axis", 0)
    sizes = call.integers("split") if "split" in call.attributes else call.host_ints(1)
    if not sizes:
        length, parts = x.shape[axis], call.output_count
        size = -(-length // parts)
        sizes = (*([size] * (parts - 1)), length - size * (parts - 1))
    return tuple(call.xp.split(x, np.cumsum(sizes)[:-1].tolist(), axis=axis))


def _slice(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    if "starts" in call.attributes:
        starts, ends = call.integers("starts"), call.integers("ends")
        axes: tuple[int, ...] | None = call.integers("axes") or None
        steps: tuple[int, ...] | None = None
    else:
        starts, ends = call.host_ints(1) or (), call.host_ints(2) or ()
        axes, steps = call.host_ints(3), call.host_ints(4)
    axes = axes if axes is not None else tuple(range(len(starts)))
    steps = steps if steps is not None else (1,) * len(starts)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        # an end before the first element means "up to and with it" when stepping backwards
        stop = None if step < 0 and (end < -size) else end
        index[axis] = slice(start, stop, step)
    return (x[tuple(index)],)


def _pad(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    mode = call.text("mode", "constant")
    flat = call.integers("pads") if "pads" in call.attributes else call.host_ints(1)
    axes = call.host_ints(3)
    if mode not in ("constant", "reflect", "edge") or flat is None:
        raise NotCoveredError(f"Pad mode {mode!r}")
    axes = axes if axes is not None else tuple(range(x.ndim))
    widths, kept = [(0, 0)] * x.ndim, [slice(None)] * x.ndim
    for i, axis in enumerate(axes):
        begin, end = flat[i], flat[i + len(axes)]
        widths[axis] = (max(begin, 0), max(end, 0))
        kept[axis] = slice(max(-begin, 0), x.shape[axis] + min(end, 0))  # a negative pad crops
    x = x[tuple(kept)]
    if mode != "constant":
        return (call.xp.pad(x, widths, mode=mode),)
    given = call.host(2)
    value = call.number("value", 0.0) if given is None or given.size == 0 else given.reshape(()).item()
    return (call.xp.pad(x, widths, mode="constant", constant_values=value),)


def _gather(call: Call) -> tuple[Array, ...]:
    x, indices = call.tensor(0), call.tensor(1)
    return (call.xp.take(x, indices, axis=call.integer("axis", 0)),)


def _shape(call: Call) -> tuple[Array, ...]:
    x = call.optional(0)
    dims = np.array(x.shape, dtype=np.int64)  # type: ignore[union-attr]
    return (dims[call.integer("start", 0) : call.attributes.get("end")],)


def _size(call: Call) -> tuple[Array, ...]:
    return (np.array(call.tensor(0).size, dtype=np.int64),)


def _cast(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    if x.dtype.kind not in "biuf":
        raise NotCoveredError(f"Cast from {x.dtype}")
    target = ir.DataType(call.integer("to", 0))
    if target == ir.DataType.STRING:
        raise NotCoveredError("Cast to string")
    return (x.astype(widened(target)),)


def _constant(call: Call) -> tuple[Array, ...]:
    attributes = call.attributes
    if "value" in attributes:
        return (attributes["value"],)
    if "value_float" in attributes:
        return (np.array(call.number("value_float", 0.0)),)
    if "value_floats" in attributes:
        return (np.array(attributes["value_floats"], dtype=np.float32).astype(np.float64),)
    if "value_int" in attributes:
        return (np.array(attributes["value_int"], dtype=np.int64),)
    if "value_ints" in attributes:
        return (np.array(attributes["value_ints"], dtype=np.int64),)
    raise NotCoveredError("Constant of a string or sparse value")


def _constant_of_shape(call: Call) -> tuple[Array, ...]:
    value = call.attributes.get("value", np.zeros(1))
    return (np.full(call.host_ints(0) or (), np.asarray(value).reshape(-1)[0]),)


def _expand(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    shape = np.broadcast_shapes(x.shape, call.host_ints(1) or ())
    return (call.xp.broadcast_to(x, shape),)


def _tile(call: Call) -> tuple[Array, ...]:
    return (call.xp.tile(call.tensor(0), call.host_ints(1) or ()),)


def _range(call: Call) -> tuple[Array, ...]:
    start, limit, delta = (call.host(i) for i in range(3))
    if start is None or limit is None or delta is None:
        raise NotCoveredError("Range without all three inputs")
    return (np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype),)


def _depth_to_space(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    n, c, h, w = x.shape
    b = call.integer("blocksize", 1)
    if call.text("mode", "DCR") == "DCR":
        x = x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return (x.reshape(n, c // (b * b), h * b, w * b),)


def _space_to_depth(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    n, c, h, w = x.shape
    b = call.integer("blocksize", 1)
    x = x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
    return (x.reshape(n, c * b * b, h // b, w // b),)


def _reduce(function: Callable[[Any, Array, tuple[int, ...] | None, bool], Array]) -> Kernel:
    def kernel(call: Call) -> tuple[Array, ...]:
        x = call.tensor(0)
        axes = _axes(call, 1)
        if not axes and call.integer("noop_with_empty_axes", 0):
            raise NotCoveredError("reduction without axes as a no-op")
        return (function(call.xp, x, axes or None, bool(call.integer("keepdims", 1))),)

    return kernel


def _log_sum_exp(xp: Any, x: Array, axes: tuple[int, ...] | None, keep: bool) -> Array:
    top = xp.max(x, axis=axes, keepdims=True)
    total = xp.log(xp.sum(xp.exp(x - top), axis=axes, keepdims=True)) + top
    return total if keep else xp.squeeze(total, axis=axes)


def _one_hot(call: Call) -> tuple[Array, ...]:
    """Indices outside [-depth, depth) give no hot element."""
    index, given = to_host(call.tensor(0)), call.host(1)
    if given is None:
        raise NotCoveredError("OneHot without a depth")
    depth, (off, on) = int(given.reshape(-1)[0]), to_host(call.tensor(2))
    rank = index.ndim + 1
    axis = call.integer("axis", -1) % rank
    places = np.arange(depth).reshape([depth if k == axis else 1 for k in range(rank)])
    hot = np.expand_dims(np.where(index < 0, index + depth, index), axis) == places
    return (np.where(hot, on, off),)


def _unique(call: Call) -> tuple[Array, ...]:
    """Of the flattened tensor; with ``sorted`` 0 in the order of first occurrence."""
    if "axis" in call.attributes or call.integer("sorted", 1):
        raise NotCoveredError("Unique along an axis, or sorted")
    values, first, inverse, counts = np.unique(
        to_host(call.tensor(0)).reshape(-1), return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first)
    return values[order], first[order], np.argsort(order)[inverse.reshape(-1)], counts[order]


ARRANGE: Mapping[str, Kernel] = {
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "ReduceL1": _reduce(lambda xp, x, a, k: xp.sum(xp.abs(x), axis=a, keepdims=k)),
    "ReduceL2": _reduce(lambda xp, x, a, k: xp.sqrt(xp.sum(x * x, axis=a, keepdims=k))),
    "ReduceLogSumExp": _reduce(_log_sum_exp),
    "ReduceMax": _reduce(lambda xp, x, a, k: xp.max(x, axis=a, keepdims=k)),
    "ReduceMean": _reduce(lambda xp, x, a, k: xp.mean(x, axis=a, keepdims=k).astype(x.dtype)),
    "ReduceMin": _reduce(lambda xp, x, a, k: xp.min(x, axis=a, keepdims=k)),
    "ReduceProd": _reduce(lambda xp, x, a, k: xp.prod(x, axis=a, keepdims=k).astype(x.dtype)),
    "ReduceSum": _reduce(lambda xp, x, a, k: xp.sum(x, axis=a, keepdims=k).astype(x.dtype)),
    "ReduceSumSquare": _reduce(lambda xp, x, a, k: xp.sum(x * x, axis=a, keepdims=k).astype(x.dtype)),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unique": _unique,
    "Unsqueeze": _unsqueeze,
}
