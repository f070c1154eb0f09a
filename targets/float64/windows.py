"""Convolution, pooling and local response normalisation over any number of spatial axes.

Tensors are ``[N, C, *spatial]``. Every function takes the array module first (NumPy or CuPy), so the same
code runs on a GPU. Formulas: the operators' pages at https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray
Module: TypeAlias = Any  # numpy or cupy
Pads: TypeAlias = tuple[tuple[int, int], ...]  # (begin, end) of each spatial axis

COLUMN_ELEMENTS = 1 << 22  # largest im2col block held at once: 32 MiB of float64
TAP_ELEMENTS = 1 << 15  # block of a tap sum that still lies in the second-level cache: 256 KiB


def effective(kernel: Sequence[int], dilations: Sequence[int]) -> tuple[int, ...]:
    """Extent of a dilated kernel on each axis."""
    return tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))


def resolve_pads(
    auto_pad: str,
    pads: Sequence[int],
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Pads:
    """Explicit (begin, end) pads of Conv and the pools; ``auto_pad`` as the ONNX specification has it."""
    rank = len(spatial)
    if auto_pad in ("", "NOTSET"):
        flat = list(pads) or [0] * (2 * rank)
        return tuple((flat[i], flat[i + rank]) for i in range(rank))
    if auto_pad == "VALID":
        return ((0, 0),) * rank
    totals = [
        max((math.ceil(size / s) - 1) * s + e - size, 0)
        for size, s, e in zip(spatial, strides, effective(kernel, dilations), strict=True)
    ]
    return split_pads(totals, upper=auto_pad == "SAME_UPPER")


def split_pads(totals: Sequence[int], *, upper: bool) -> Pads:
    """Split totals in two; an odd one goes to the end (upper) or to the beginning (lower)."""
    small = [t // 2 for t in totals]
    return tuple((s, t - s) if upper else (t - s, s) for s, t in zip(small, totals, strict=True))


def output_lengths(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Pads,
    *,
    ceil: bool = False,
) -> tuple[int, ...]:
    """Output size of each axis. With ``ceil`` a window that would start in the end padding is dropped."""
    lengths = []
    for size, e, s, (begin, end) in zip(spatial, effective(kernel, dilations), strides, pads, strict=True):
        room = size + begin + end - e
        length = (-(-room // s) if ceil else room // s) + 1
        if ceil and (length - 1) * s >= size + begin:
            length -= 1
        lengths.append(length)
    return tuple(lengths)


def pad_spatial(xp: Module, x: Array, pads: Pads, value: float) -> Array:
    """``x`` with constant borders; ``x`` itself where there are none."""
    if not any(b or e for b, e in pads):
        return x
    shape = (*x.shape[:2], *(n + b + e for n, (b, e) in zip(x.shape[2:], pads, strict=True)))
    padded = xp.full(shape, value, dtype=x.dtype)
    inner = tuple(slice(b, b + n) for n, (b, _) in zip(x.shape[2:], pads, strict=True))
    padded[(slice(None), slice(None), *inner)] = x
    return padded


def tap_slices(
    tap: Sequence[int], strides: Sequence[int], dilations: Sequence[int], lengths: Sequence[int]
) -> tuple[slice, ...]:
    """Where kernel position ``tap`` reads: one strided slice for each axis."""
    return tuple(
        slice(t * d, t * d + (n - 1) * s + 1, s)
        for t, s, d, n in zip(tap, strides, dilations, lengths, strict=True)
    )


def taps_of(kernel: Sequence[int]) -> itertools.product[tuple[int, ...]]:
    """All kernel positions in row-major order."""
    return itertools.product(*(range(k) for k in kernel))


# --- convolution ---------------------------------------------------------------------------------


def conv(
    xp: Module,
    x: Array,
    w: Array,
    bias: Array | None,
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Pads,
    group: int,
) -> Array:
    """Convolution (cross-correlation), ONNX Conv-11. x: [N, C, *S]; w: [M, C/group, *K]; y: [N, M, *out]."""
    kernel = w.shape[2:]
    lengths = output_lengths(x.shape[2:], kernel, strides, dilations, pads)
    x = pad_spatial(xp, x, pads, 0.0)
    if w.shape[1] == 1 and group > 1:
        y = _depthwise(xp, x, w, strides, dilations, group, lengths)
    elif math.prod(kernel) == 1:
        inner = x[(slice(None), slice(None), *tap_slices([0] * len(kernel), strides, dilations, lengths))]
        y = _group_product(xp, w, inner.reshape(x.shape[0], group, -1, math.prod(lengths)), group)
    else:
        y = _by_columns(xp, x, w, strides, dilations, group, lengths)
    y = y.reshape(x.shape[0], w.shape[0], *lengths)
    if bias is not None:
        y += bias.reshape(1, -1, *([1] * len(kernel)))
    return y


def _group_product(xp: Module, w: Array, columns: Array, group: int) -> Array:
    """[G, M/G, K] @ [N, G, K, P] -> [N, G, M/G, P]."""
    flat = w.reshape(group, w.shape[0] // group, -1)
    if group == 1:  # a plain product: batched matmul would miss the BLAS call
        n, _, k, p = columns.shape
        y = xp.empty((n, 1, w.shape[0], p), dtype=columns.dtype)
        for i in range(n):
            xp.matmul(flat[0], columns[i].reshape(k, p), out=y[i, 0])
        return y
    return xp.matmul(flat, columns)


def _by_columns(
    xp: Module,
    x: Array,
    w: Array,
    strides: Sequence[int],
    dilations: Sequence[int],
    group: int,
    lengths: tuple[int, ...],
) -> Array:
    """im2col and a matrix product, in blocks of images and of rows of the first spatial axis."""
    n, channels = x.shape[:2]
    kernel = w.shape[2:]
    windows = _windows(xp, x, kernel, strides, dilations, lengths)  # [N, C, *K, *out]
    row = channels * math.prod(kernel) * math.prod(lengths[1:])
    rows = max(1, min(lengths[0], COLUMN_ELEMENTS // max(row, 1)))
    y = xp.empty((n, w.shape[0], *lengths), dtype=x.dtype)
    lead = (slice(None),) * (1 + len(kernel))
    for image in range(n):
        for start in range(0, lengths[0], rows):
            stop = min(start + rows, lengths[0])
            block = windows[image][(*lead, slice(start, stop))]
            columns = block.reshape(1, group, channels // group * math.prod(kernel), -1)  # copies
            part = _group_product(xp, w, columns, group)
            y[image, :, start:stop] = part.reshape(w.shape[0], stop - start, *lengths[1:])
    return y


def _windows(
    xp: Module,
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    lengths: Sequence[int],
) -> Array:
    """View [N, C, *K, *out] of every window; no copy."""
    spatial = x.strides[2:]
    return xp.lib.stride_tricks.as_strided(
        x,
        shape=(*x.shape[:2], *kernel, *lengths),
        strides=(
            *x.strides[:2],
            *(step * d for step, d in zip(spatial, dilations, strict=True)),
            *(step * s for step, s in zip(spatial, strides, strict=True)),
        ),
    )


def _depthwise(
    xp: Module,
    x: Array,
    w: Array,
    strides: Sequence[int],
    dilations: Sequence[int],
    group: int,
    lengths: tuple[int, ...],
) -> Array:
    """One input channel a group: the sum over kernel positions, in blocks that stay in the cache."""
    n = x.shape[0]
    multiplier = w.shape[0] // group
    kernel = w.shape[2:]
    weights = w.reshape(group, multiplier, *kernel)
    y = xp.empty((n, group, multiplier, *lengths), dtype=x.dtype)
    block = max(1, TAP_ELEMENTS // max(1, multiplier * math.prod(lengths)))
    ones = (1,) * len(kernel)
    for image in range(n):
        for start in range(0, group, block):
            here = slice(start, start + block)
            out = y[image, here]
            scratch = xp.empty_like(out)
            for index, tap in enumerate(taps_of(kernel)):
                source = x[(image, here, None, *tap_slices(tap, strides, dilations, lengths))]
                factor = weights[(here, slice(None), *tap)].reshape(-1, multiplier, *ones)
                xp.multiply(source, factor, out=out if index == 0 else scratch)
                if index:
                    out += scratch
    return y


# --- transposed convolution ----------------------------------------------------------------------


def conv_transpose(
    xp: Module,
    x: Array,
    w: Array,
    bias: Array | None,
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    group: int,
    pads: Pads,
    lengths: Sequence[int],
) -> Array:
    """Transposed convolution, ONNX ConvTranspose-11.

    x: [N, C, *S]; w: [C, M/group, *K]; y: [N, M, *lengths].
    """
    n, channels, *spatial = x.shape
    kernel = w.shape[2:]
    per_group = w.shape[1]
    weights = w.reshape(group, channels // group, -1)  # [G, C/G, M/G * K]
    columns = xp.matmul(xp.swapaxes(weights, 1, 2), x.reshape(n, group, channels // group, -1)).reshape(
        n, group * per_group, *kernel, *spatial
    )
    full = tuple(
        max((size - 1) * s + e, length + begin)
        for size, s, e, length, (begin, _) in zip(
            spatial, strides, effective(kernel, dilations), lengths, pads, strict=True
        )
    )
    y = xp.zeros((n, group * per_group, *full), dtype=x.dtype)
    for tap in taps_of(kernel):
        y[(slice(None), slice(None), *tap_slices(tap, strides, dilations, spatial))] += columns[
            (slice(None), slice(None), *tap)
        ]
    inner = tuple(slice(begin, begin + length) for length, (begin, _) in zip(lengths, pads, strict=True))
    y = y[(slice(None), slice(None), *inner)]
    if bias is not None:
        y = y + bias.reshape(1, -1, *([1] * len(kernel)))
    return y


def conv_transpose_geometry(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    *,
    auto_pad: str,
    pads: Sequence[int],
    output_padding: Sequence[int],
    output_shape: Sequence[int],
) -> tuple[Pads, tuple[int, ...]]:
    """Pads and output lengths of ConvTranspose, from whichever of its attributes is given."""
    rank = len(spatial)
    extent = effective(kernel, dilations)
    full = [
        (size - 1) * s + e + extra
        for size, s, e, extra in zip(spatial, strides, extent, output_padding, strict=True)
    ]
    same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
    if output_shape or same:
        wanted = tuple(output_shape) or tuple(size * s for size, s in zip(spatial, strides, strict=True))
        wanted = wanted[-rank:]
        totals = [max(f - length, 0) for f, length in zip(full, wanted, strict=True)]
        return split_pads(totals, upper=auto_pad == "SAME_UPPER"), wanted
    given: Pads = ((0, 0),) * rank
    if auto_pad != "VALID":
        flat = list(pads) or [0] * (2 * rank)
        given = tuple((flat[i], flat[i + rank]) for i in range(rank))
    return given, tuple(f - b - e for f, (b, e) in zip(full, given, strict=True))


# --- pooling -------------------------------------------------------------------------------------


def reduce_windows(
    xp: Module,
    x: Array,
    *,
    combine: Callable[..., Array],
    fill: float,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Pads,
    lengths: Sequence[int],
) -> Array:
    """``combine`` (a binary ufunc) over every window; cells outside the input count as ``fill``."""
    reach = [
        (length - 1) * s + e
        for length, s, e in zip(lengths, strides, effective(kernel, dilations), strict=True)
    ]
    enough = tuple(
        (begin, max(end, r - size - begin))  # ceil mode may read beyond the declared padding
        for (begin, end), r, size in zip(pads, reach, x.shape[2:], strict=True)
    )
    x = pad_spatial(xp, x, enough, fill)
    result = None
    for tap in taps_of(kernel):
        part = x[(slice(None), slice(None), *tap_slices(tap, strides, dilations, lengths))]
        if result is None:
            result = part.copy()
        else:
            combine(result, part, out=result)
    return result


def window_counts(
    xp: Module,
    spatial: Sequence[int],
    *,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Pads,
    lengths: Sequence[int],
    include_pad: bool,
) -> Array:
    """How many cells AveragePool divides by, as an array of shape ``lengths``.

    Separable: the product over the axes of the cells of that axis that lie inside the input, or with
    ``include_pad`` inside the declared padding (never in what ceil mode adds beyond it).
    """
    counts = xp.ones((1,) * len(lengths))
    for axis, size in enumerate(spatial):
        begin, end = pads[axis]
        low, high = (-begin, size + end) if include_pad else (0, size)
        cells = (
            np.arange(lengths[axis])[:, None] * strides[axis]
            - begin
            + np.arange(kernel[axis])[None, :] * dilations[axis]
        )
        line = ((cells >= low) & (cells < high)).sum(axis=1).astype(np.float64)
        shape = [1] * len(lengths)
        shape[axis] = lengths[axis]
        counts = counts * xp.asarray(line).reshape(shape)
    return counts


def local_response(xp: Module, x: Array, *, size: int, alpha: float, beta: float, bias: float) -> Array:
    """ONNX LRN-13: x / (bias + alpha/size * sum of squares over ``size`` neighbouring channels)^beta."""
    channels = x.shape[1]
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = x * x
    total = xp.zeros_like(x)
    for shift in range(-before, after + 1):
        if abs(shift) >= channels:
            continue
        to = slice(max(0, -shift), channels - max(0, shift))
        source = slice(max(0, shift), channels + min(0, shift))
        total[:, to] += squares[:, source]
    return x / (bias + alpha / size * total) ** beta
