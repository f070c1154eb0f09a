"""Where a sliding window stands: TFLite's padding SAME and VALID as explicit numbers."""

from __future__ import annotations

from typing import Any

SAME, VALID = 0, 1  # Padding in schema.fbs


def same_pads(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Padding before and after one axis, so that ceil(size / stride) windows fit; the odd one goes after.

    https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
    """
    windows = -(-size // stride)
    total = max((windows - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def padding_attributes(
    padding: int,
    sizes: tuple[int | None, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> dict[str, Any]:
    """ONNX's attribute for a window over such axes: ``pads``, or ``auto_pad`` where a size is free."""
    if padding == VALID:
        return {}
    if any(size is None for size in sizes):
        # With stride 1 the padding does not depend on the size.
        if any(stride != 1 for stride in strides):
            return {"auto_pad": "SAME_UPPER"}
        sizes = tuple(1 << 20 for _ in sizes)
    pairs = [
        same_pads(size or 0, k, s, d) for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    pads = [before for before, _ in pairs] + [after for _, after in pairs]
    return {"pads": pads} if any(pads) else {}
