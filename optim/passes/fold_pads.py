"""Pad → Conv / MaxPool / AveragePool: the pad becomes a number of the window.

Allowed: constant pads, none negative and none on batch or channels; the border value is the one the window
pads with by itself: 0 for Conv and for AveragePool, which then counts the border, -infinity or the type's
lowest for MaxPool (or 0 where the input cannot be negative: after Relu, Sigmoid or Clip from 0, and a
window never lies wholly in the border). One Pad may feed several windows; it goes when its last reader has
taken it.
Numbers: reassociates (the same sum, but a runtime may choose another kernel).
https://onnx.ai/onnx/operators/onnx__Pad.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import (
    constant_of,
    float_attribute,
    input_of,
    int_attribute,
    ints_attribute,
    ints_of,
    is_op,
    opset_of,
    producer,
    rank,
    scalar_of,
    site_of,
    string_attribute,
)
from optim.passes.make_padding_explicit import kernel_of
from optim.rewrite import Rewrite, note_sources

_NEVER_NEGATIVE = ("Relu", "Sigmoid", "Softmax", "HardSigmoid", "Abs", "Exp", "Softplus")


@dataclass(frozen=True)
class FoldPads:
    """Takes constant borders into the windows that read them."""

    @property
    def info(self) -> PassInfo:
        return PassInfo("fold_pads", Numerics.REASSOCIATES, "Pad + Conv / MaxPool / AveragePool → pads")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        for node in tuple(model.graph):
            if node.graph is None or not is_op(node, "Conv", "MaxPool", "AveragePool"):
                continue
            while (pad := producer(node.inputs[0], "Pad")) is not None and rw.allows(site_of(node)):
                reason = _take(rw, pad, node)
                if reason is not None:
                    rw.refuse(site_of(node), reason)
                    break
        return rw.outcome()


@dataclass(frozen=True)
class _Border:
    """A constant spatial border: [begins..., ends...] of the spatial axes, and the value in it."""

    pads: tuple[int, ...]
    value: float


def _take(rw: Rewrite, pad: ir.Node, window: ir.Node) -> str | None:
    """Fold; or the reason why not."""
    border = border_of(pad, opset_of(rw.model))
    if isinstance(border, str):
        return border
    reason = _why_not(window, border, pad)
    if reason is not None:
        return reason
    own = ints_attribute(window, "pads") or (0,) * len(border.pads)
    note_sources(window, (pad, window))
    window.attributes.pop("auto_pad", None)
    window.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, border.pads, strict=True)])
    if window.op_type == "AveragePool":
        window.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
    window.replace_input_with(0, pad.inputs[0])
    if not pad.outputs[0].uses() and not pad.outputs[0].is_graph_output():
        rw.drop(pad)
    rw.done(site_of(window))
    return None


def border_of(pad: ir.Node, opset: int) -> _Border | str:
    """What a Pad node adds around the spatial axes of [N, C, ...]; or the reason why it is no such border."""
    mode = string_attribute(pad, "mode", "constant")
    if mode != "constant":
        return f"Pad mode is '{mode}'; only 'constant' folds into a window"
    pads = _full_pads(pad)
    if pads is None:
        return "the pads are not constant"
    half = len(pads) // 2
    if min(pads) < 0:
        return "a negative pad crops; a window cannot"
    if half < 3 or any(pads[i] or pads[half + i] for i in (0, 1)):
        return "it pads the batch or the channels"
    value = float_attribute(pad, "value", 0.0)
    if opset >= 11 and input_of(pad, 2) is not None:
        constant = scalar_of(pad.inputs[2])
        if constant is None:
            return "the border value is not constant"
        value = constant
    return _Border((*pads[2:half], *pads[half + 2 :]), value)


def _full_pads(pad: ir.Node) -> tuple[int, ...] | None:
    """Pads for all axes, [begins..., ends...]; the ``axes`` input of opset 18 is resolved."""
    pads = ints_attribute(pad, "pads") or ints_attribute(pad, "paddings") or ints_of(input_of(pad, 1))
    if pads is None or input_of(pad, 3) is None:
        return pads
    axes, wide = ints_of(pad.inputs[3]), rank(pad.inputs[0])
    if axes is None or wide is None:
        return None
    full = [0] * (2 * wide)
    for i, axis in enumerate(axes):
        full[axis % wide] = pads[i]
        full[wide + axis % wide] = pads[len(axes) + i]
    return tuple(full)


def _why_not(window: ir.Node, border: _Border, pad: ir.Node) -> str | None:
    auto = string_attribute(window, "auto_pad", "NOTSET")
    if auto.startswith("SAME") and any(border.pads):
        return "the window pads SAME by itself; make its padding explicit first"
    own = ints_attribute(window, "pads") or (0,) * len(border.pads)
    if len(own) != len(border.pads):
        return "window and Pad disagree about the rank"
    if window.op_type == "Conv":
        return None if border.value == 0.0 else f"the border holds {border.value:g}; a Conv pads with 0"
    if int_attribute(window, "ceil_mode", 0):
        return "ceil_mode may let a window start in the border"
    kernel = kernel_of(window)
    dilations = ints_attribute(window, "dilations") or (1,) * len(kernel or ())
    if kernel is None:
        return "the kernel's size is unknown"
    total = [a + b for a, b in zip(own, border.pads, strict=True)]
    if not _reaches_inside(kernel, dilations, total):
        return "a window could lie wholly in the border"
    if window.op_type == "AveragePool":
        if border.value != 0.0:
            return f"the border holds {border.value:g}; an AveragePool counts 0"
        if any(own) and not int_attribute(window, "count_include_pad", 0):
            return "the pool does not count its own border, but must count this one"
        return None
    return _why_not_max(window, border, pad)


def _why_not_max(window: ir.Node, border: _Border, pad: ir.Node) -> str | None:
    if len(window.outputs) > 1 and (window.outputs[1].uses() or window.outputs[1].is_graph_output()):
        return "the indices count the border"
    dtype = pad.outputs[0].dtype or (None if pad.inputs[0] is None else pad.inputs[0].dtype)
    if border.value == -np.inf or (dtype is not None and border.value <= _lowest(dtype)):
        return None
    if border.value == 0.0 and _never_negative(pad.inputs[0]):
        return None
    return f"the border holds {border.value:g}, which can win over the input; a MaxPool pads with -infinity"


def _lowest(dtype: ir.DataType) -> float:
    kind = dtype.numpy()
    if kind.kind in "iu":
        return float(np.iinfo(kind).min)
    return float(np.finfo(kind).min) if kind.kind == "f" else -np.inf  # bfloat16: only -infinity will do


def _never_negative(value: ir.Value | None) -> bool:
    """Whether every element is surely 0 or more (looking through what moves or selects elements)."""
    for _ in range(16):
        node = None if value is None else value.producer()
        if node is None:
            constant = constant_of(value)
            return constant is not None and constant.size < 1 << 20 and bool((constant >= 0).all())
        if is_op(node, *_NEVER_NEGATIVE):
            return True
        if is_op(node, "Clip"):
            low = scalar_of(input_of(node, 1)) if len(node.inputs) > 1 else float_attribute(node, "min", -1.0)
            return low is not None and low >= 0.0
        if not is_op(
            node, "Transpose", "Reshape", "Identity", "MaxPool", "AveragePool", "Squeeze", "Unsqueeze"
        ):
            return False
        value = node.inputs[0]
    return False


def _reaches_inside(kernel: Sequence[int], dilations: Sequence[int], pads: Sequence[int]) -> bool:
    """Whether every window holds at least one element that is no border, whatever the input's size.

    A window of ``kernel`` taps ``dilation`` apart starts at a border position at worst; it is inside when
    the border on each side is narrower than the window, and, dilated, when the border is narrower than its
    first step.
    """
    half = len(kernel)
    for axis, (k, d) in enumerate(zip(kernel, dilations, strict=True)):
        begin, end = pads[axis], pads[half + axis]
        if max(begin, end) > (k - 1) * d or (d > 1 and begin and end):
            return False
    return True
