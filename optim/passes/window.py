"""Geometry of sliding windows: what SAME means in numbers, and how large an output is.

https://onnx.ai/onnx/operators/onnx__Conv.html, onnx__ConvTranspose.html, onnx__MaxPool.html
"""

from __future__ import annotations

from collections.abc import Sequence


def same_pads(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    *,
    upper: bool,
) -> tuple[int, ...]:
    """Pads [begin..., end...] of SAME_UPPER or SAME_LOWER for a convolution or pool.

    out = ceil(in / stride); total = max(0, (out - 1) * stride + (kernel - 1) * dilation + 1 - in).
    """
    begins, ends = [], []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        small, large = total // 2, total - total // 2
        begins.append(small if upper else large)
        ends.append(large if upper else small)
    return (*begins, *ends)


def same_pads_of_any_size(
    kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], *, upper: bool
) -> tuple[int, ...] | None:
    """As ``same_pads`` where the size does not matter: with stride 1 the total is (kernel - 1) * dilation."""
    if any(s != 1 for s in strides):
        return None
    huge = [sum((k - 1) * d for k, d in zip(kernel, dilations, strict=True)) + 1] * len(kernel)
    return same_pads(huge, kernel, strides, dilations, upper=upper)


def transposed_same_pads(
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    output_padding: Sequence[int],
    *,
    upper: bool,
) -> tuple[int, ...] | None:
    """Pads of a ConvTranspose with auto_pad SAME_*, whose output size is in * stride; None where they are
    negative.

    total = stride * (in - 1) + output_padding + (kernel - 1) * dilation + 1 - in * stride, free of ``in``.
    """
    begins, ends = [], []
    for k, s, d, o in zip(kernel, strides, dilations, output_padding, strict=True):
        total = -s + o + (k - 1) * d + 1
        if total < 0:
            return None
        small, large = total // 2, total - total // 2
        begins.append(small if upper else large)
        ends.append(large if upper else small)
    return (*begins, *ends)
