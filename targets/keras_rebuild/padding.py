"""ONNX's pads as Keras says them: "same" where that means exactly these numbers, else an explicit border.

TensorFlow's "same": out = ceil(in / stride), total = max((out - 1)·stride + extent - in, 0), the odd pixel
at the end (https://www.tensorflow.org/api_docs/python/tf/nn, notes on padding).
"""

from __future__ import annotations

import onnx_ir as ir

from optim.facts import int_attribute, ints_attribute, string_attribute
from targets.float64.windows import effective, output_lengths, resolve_pads
from targets.keras_rebuild.drawing import Shape, refuse

Pads = tuple[tuple[int, int], ...]


def window_of(
    node: ir.Node, spatial: Shape, kernel: tuple[int, ...]
) -> tuple[Pads, tuple[int, ...], tuple[int, ...]]:
    """(pads, strides, dilations) of a Conv or pool; ceil_mode becomes pads at the end.

    Raises:
        UnsupportedModelError: the pads depend on a size that is not known.
    """
    ones = (1,) * len(kernel)
    strides = ints_attribute(node, "strides") or ones
    dilations = ints_attribute(node, "dilations") or ones
    auto = string_attribute(node, "auto_pad", "NOTSET")
    ceil = bool(int_attribute(node, "ceil_mode", 0))
    static = [d for d in spatial if d is not None]
    if len(static) != len(spatial) and (ceil or auto.startswith("SAME")):
        raise refuse(node, "its padding depends on an unknown size", "freeze the input's shape")
    pads = resolve_pads(
        auto, ints_attribute(node, "pads") or (), static or (1,) * len(kernel), kernel, strides, dilations
    )
    if ceil:
        floor = output_lengths(static, kernel, strides, dilations, pads)
        wanted = output_lengths(static, kernel, strides, dilations, pads, ceil=True)
        extents = effective(kernel, dilations)
        pads = tuple(
            (b, e) if w == f else (b, (w - 1) * s + k - n - b)
            for (b, e), w, f, s, k, n in zip(pads, wanted, floor, strides, extents, static, strict=True)
        )
    return pads, strides, dilations


def is_same(
    pads: Pads, spatial: Shape, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> bool:
    """Whether TensorFlow's "same" pads exactly so. With stride 1 the size does not matter."""
    for (begin, end), size, stride, extent in zip(
        pads, spatial, strides, effective(kernel, dilations), strict=True
    ):
        if stride == 1:
            total = extent - 1
        elif size is None:
            return False
        else:
            total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        if (begin, end) != (total // 2, total - total // 2):
            return False
    return True


def word_or_border(
    pads: Pads, spatial: Shape, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[str, bool]:
    """(padding word, whether a border must be drawn first)."""
    if not any(b or e for b, e in pads):
        return "valid", False
    if is_same(pads, spatial, kernel, strides, dilations):
        return "same", False
    return "valid", True
