"""Pools in Caffe's ceil mode, which is the only one that both readers honour.

Caffe's output has ceil((H + 2·pad - kernel) / stride) + 1 windows, less one that would start in the end
padding; ONNX's floor mode has at most as many when its begin padding is kept. Windows beyond ONNX's are cut
off. An average divides by the window's extent clipped to H + pad, padding included; where ONNX divides by
something else a map of ratios corrects it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import axes_of, int_attribute, ints_attribute, string_attribute
from targets.axis_order import Held, refuse
from targets.caffe.convolution import pair, window_options
from targets.caffe.draft import Draft
from targets.float64.windows import output_lengths, resolve_pads

_MOST_TERMS: Final = 256  # of a sum in float32, one after another


@dataclass(frozen=True)
class AxisPool:
    """How one axis is pooled: Caffe's padding, its number of windows, and how many to drop at both ends."""

    pad: int
    windows: int
    first: int
    last: int


def caffe_windows(size: int, kernel: int, stride: int, pad: int) -> int:
    """Number of windows that Caffe makes of an axis."""
    windows = -(-(size + 2 * pad - kernel) // stride) + 1
    if pad and (windows - 1) * stride >= size + pad:
        windows -= 1
    return windows


def fit(size: int, kernel: int, stride: int, begin: int, wanted: int) -> AxisPool | None:
    """Caffe's padding whose windows hold the ``wanted`` ones from ``-begin`` on; None where none does."""
    for pad in range(begin, kernel, stride):
        first = (pad - begin) // stride
        windows = caffe_windows(size, kernel, stride, pad)
        if windows >= first + wanted:
            return AxisPool(pad, windows, first, windows - first - wanted)
    return None


def divisor_ratio(
    size: int, kernel: int, stride: int, pads: tuple[int, int], fitted: AxisPool, *, counts_pads: bool
) -> Array:
    """Caffe's divisor over ONNX's for each wanted window of an axis; float64."""
    begin, end = pads
    ratios = []
    for window in range(fitted.windows - fitted.first - fitted.last):
        start = window * stride - begin
        caffe = min(start + kernel, size + fitted.pad) - start
        if counts_pads:
            onnx = min(start + kernel, size + end) - start
        else:
            onnx = min(start + kernel, size) - max(start, 0)
        ratios.append(caffe / onnx if onnx > 0 else np.inf)
    return np.asarray(ratios)


def pool(draft: Draft, node: ir.Node) -> None:
    """MaxPool and AveragePool."""
    held = draft.image(node)
    kernel = ints_attribute(node, "kernel_shape") or ()
    if len(kernel) != 2 or any(o.name and o.uses() for o in node.outputs[1:]):
        raise refuse(node, "only two spatial axes, without indices, have a Caffe counterpart")
    if max(ints_attribute(node, "dilations") or (1,)) > 1:
        raise refuse(node, "a dilated pool has no Caffe counterpart")
    strides = pair(ints_attribute(node, "strides"))
    sizes = [int(d or 0) for d in held.shape[2:]]
    auto = string_attribute(node, "auto_pad", "NOTSET")
    pads = resolve_pads(auto, ints_attribute(node, "pads") or (), sizes, kernel, strides, (1, 1))
    ceil = bool(int_attribute(node, "ceil_mode", 0))
    wanted = output_lengths(sizes, kernel, strides, (1, 1), pads, ceil=ceil)
    fits = [
        fit(size, k, s, begin, count)
        for size, k, s, (begin, _), count in zip(sizes, kernel, strides, pads, wanted, strict=True)
    ]
    rows, columns = fits
    if rows is None or columns is None:
        raise refuse(node, f"padding {pads} reaches beyond what a Caffe pool with kernel {kernel} can do")
    method = "MAX" if node.op_type == "MaxPool" else "AVE"
    options = {"pool": method, **window_options(pair(kernel), strides, (rows.pad, columns.pad))}
    top = draft.add(node, "Pooling", [held.name], {"pooling_param": options})
    for axis, one in ((2, rows), (3, columns)):
        top = draft.crop(node, top, axis, one.windows, one.first, one.last)
    if method == "AVE":
        counted = bool(int_attribute(node, "count_include_pad", 0))
        height, width = (
            divisor_ratio(size, k, s, p, one, counts_pads=counted)
            for size, k, s, p, one in zip(sizes, kernel, strides, pads, (rows, columns), strict=True)
        )
        correction = np.outer(height, width)
        if not np.isfinite(correction).all():
            raise refuse(node, "a window lies wholly in the padding")
        if not (correction == 1.0).all():
            where = {"axis": 2, "num_axes": 2}
            top = draft.barrier(node, top, 4)
            top = draft.add(node, "Scale", [top], {"scale_param": where}, [correction], part="divisor")
    draft.put(node.outputs[0], top, held.perm, (*held.shape[:2], *wanted))


def global_pool(draft: Draft, node: ir.Node) -> None:
    """GlobalAveragePool and GlobalMaxPool."""
    held = draft.image(node)
    draft.result(node, _whole(draft, node, held, "AVE" if "Average" in node.op_type else "MAX"))


def reduce(draft: Draft, node: ir.Node) -> None:
    """ReduceMean, ReduceSum and ReduceMax over all of space, in whichever order it is held: a global pool."""
    held, axes = draft.get(node), axes_of(node)
    if axes is None or held.rank != 4 or sorted(held.position(a) for a in axes) != [2, 3]:
        raise refuse(
            node, f"over axes {axes} of {held.rank}; only height and width together have a Caffe counterpart"
        )
    top = _whole(draft, node, held, "MAX" if node.op_type == "ReduceMax" else "AVE")
    if node.op_type == "ReduceSum":
        _, _, height, width = held.held_shape
        top = draft.power(node, top, scale=float((height or 1) * (width or 1)), part="sum")
    if int_attribute(node, "keepdims", 1):
        draft.result(node, top, held.perm)
    else:
        draft.result(node, draft.add(node, "Flatten", [top], part="flatten"))


def _whole(draft: Draft, node: ir.Node, held: Held, method: str) -> str:
    """One value a channel.

    Both readers add up a mean one element after another in float32, which loses digits over a large map: such
    a mean is taken in two steps, of equal windows and then of their means.
    """
    bottom = held.name
    sizes = [int(d or 1) for d in held.held_shape[2:]]
    kernel = [_divisor(size) for size in sizes]
    if method == "AVE" and math.prod(sizes) > _MOST_TERMS and math.prod(kernel) > 1:
        options = {"pool": method, **window_options(pair(tuple(kernel)), pair(tuple(kernel)), (0, 0))}
        bottom = draft.add(node, "Pooling", [bottom], {"pooling_param": options}, part="parts")
    return draft.add(node, "Pooling", [bottom], {"pooling_param": {"pool": method, "global_pooling": True}})


def _divisor(size: int) -> int:
    """The largest divisor up to 16, which leaves windows of one size."""
    return next(k for k in range(16, 0, -1) if size % k == 0)
