"""auto_pad SAME_UPPER / SAME_LOWER / VALID → pads in numbers.

Allowed: Conv, pools, ConvTranspose, whose kernel is known; with a stride above 1 the input size must be
known too (the pads depend on it). AveragePool with count_include_pad keeps its meaning. ConvTranspose with
output_shape is refused.
Numbers: exact. https://onnx.ai/onnx/operators/onnx__Conv.html
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import (
    dims,
    input_of,
    int_attribute,
    ints_attribute,
    is_op,
    opset_of,
    site_of,
    string_attribute,
)
from optim.passes.window import same_pads, same_pads_of_any_size, transposed_same_pads
from optim.rewrite import Rewrite, note_sources

_WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "ConvInteger", "QLinearConv")


@dataclass(frozen=True)
class MakePaddingExplicit:
    """Every window says its pads."""

    @property
    def info(self) -> PassInfo:
        return PassInfo("make_padding_explicit", Numerics.EXACT, "auto_pad → pads in numbers")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        for node in model.graph:
            auto = string_attribute(node, "auto_pad", "NOTSET") if is_op(node, *_WINDOWED) else "NOTSET"
            site = site_of(node)
            if auto == "NOTSET":
                continue
            pads = _pads(node, auto, opset_of(model))
            if isinstance(pads, str):
                rw.refuse(site, pads)
            elif rw.allows(site):
                note_sources(node, (node,))
                del node.attributes["auto_pad"]
                node.attributes["pads"] = ir.AttrInt64s("pads", pads)
                rw.done(site)
        return rw.outcome()


def _pads(node: ir.Node, auto: str, opset: int) -> tuple[int, ...] | str:
    """The pads, or why they cannot be told."""
    kernel = kernel_of(node)
    if kernel is None:
        return "the kernel's size is unknown"
    ones = (1,) * len(kernel)
    strides = ints_attribute(node, "strides") or ones
    dilations = ints_attribute(node, "dilations") or ones
    if auto == "VALID":
        return (0,) * (2 * len(kernel))
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        return f"auto_pad is '{auto}', which ONNX does not define"
    upper = auto == "SAME_UPPER"
    if int_attribute(node, "ceil_mode", 0):
        return "ceil_mode together with SAME padding is not defined alike everywhere"
    if node.op_type == "ConvTranspose":
        if "output_shape" in node.attributes:
            return "output_shape fixes the pads by itself"
        output_padding = ints_attribute(node, "output_padding") or (0,) * len(kernel)
        pads = transposed_same_pads(kernel, strides, dilations, output_padding, upper=upper)
        if pads is None:
            return "the output is larger than the window reaches; pads would be negative"
        if pads[: len(kernel)] != pads[len(kernel) :] and (opset < 11 or not upper):
            return "which side the odd pad of a ConvTranspose goes to differs between opsets and runtimes"
        return pads
    free = same_pads_of_any_size(kernel, strides, dilations, upper=upper)
    if free is not None:
        return free
    shape = dims(input_of(node, 0))
    size = [] if shape is None else [d for d in shape[2:] if isinstance(d, int)]
    if len(size) != len(kernel):
        return "the input's size is unknown and the stride is above 1; fix the input shape first"
    return same_pads(size, kernel, strides, dilations, upper=upper)


def kernel_of(node: ir.Node) -> tuple[int, ...] | None:
    """Kernel size of a convolution or pool, from the attribute or the weight's shape."""
    kernel = ints_attribute(node, "kernel_shape")
    if kernel is not None:
        return kernel
    weight = dims(input_of(node, 3 if node.op_type == "QLinearConv" else 1))
    if weight is None or "Pool" in node.op_type:
        return None
    sizes = tuple(d for d in weight[2:] if isinstance(d, int))
    return sizes if len(sizes) == len(weight) - 2 else None
