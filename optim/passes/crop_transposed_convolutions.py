"""ConvTranspose → Slice of its spatial axes → ConvTranspose with more padding (which is what crops it).

Allowed: constant starts and ends, steps of 1, spatial axes only, pads in numbers; an end counted from the
front needs the output's size. Numbers: exact. https://onnx.ai/onnx/operators/onnx__ConvTranspose.html
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import (
    dims,
    input_of,
    ints_attribute,
    ints_of,
    is_op,
    opset_of,
    site_of,
    sole_consumer,
    string_attribute,
)
from optim.rewrite import Rewrite, kept

_TO_THE_END = 2**31 - 1


@dataclass(frozen=True)
class CropTransposedConvolutions:
    """A constant crop behind a transposed convolution becomes its padding."""

    @property
    def info(self) -> PassInfo:
        return PassInfo("crop_transposed_convolutions", Numerics.EXACT, "ConvTranspose + Slice → pads")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        for node in tuple(model.graph):
            current = node
            while is_op(current, "ConvTranspose"):
                crop = sole_consumer(current.outputs[0])
                if crop is None or not is_op(crop, "Slice") or not rw.allows(site_of(crop)):
                    break
                pads = _pads(current, crop, opset_of(model))
                if isinstance(pads, str):
                    rw.refuse(site_of(crop), pads)
                    break
                current = _write(rw, current, crop, pads)
        return rw.outcome()


def _pads(node: ir.Node, crop: ir.Node, opset: int) -> list[int] | str:
    """The new pads, or why the crop cannot be taken in."""
    if (
        string_attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        or "output_shape" in node.attributes
    ):
        return "the ConvTranspose chooses its own pads; make its padding explicit first"
    if opset < 10:
        starts, ends = ints_attribute(crop, "starts"), ints_attribute(crop, "ends")
        axes, steps = ints_attribute(crop, "axes"), None
    else:
        starts, ends, axes, steps = (ints_of(input_of(crop, i)) for i in range(1, 5))
        if any(ints_of(v) is None for v in crop.inputs[1:] if v is not None):
            return "starts or ends are not constant"
    shape = dims(node.outputs[0])
    if starts is None or ends is None or shape is None:
        return "starts, ends or the rank are unknown"
    if steps is not None and any(s != 1 for s in steps):
        return "the Slice takes steps"
    spatial = len(shape) - 2
    pads = list(ints_attribute(node, "pads") or (0,) * (2 * spatial))
    for start, end, axis in zip(starts, ends, axes or range(len(starts)), strict=True):
        place = axis % len(shape) - 2
        if place < 0:
            return "it crops the batch or the channels"
        size = shape[place + 2]
        if start < 0 or (0 <= end < _TO_THE_END and not isinstance(size, int)):
            return "the output's size is unknown, so the crop cannot be counted"
        tail = (
            -end if end < 0 else 0 if end >= _TO_THE_END or not isinstance(size, int) else max(0, size - end)
        )
        pads[place] += start
        pads[spatial + place] += tail
    return pads


def _write(rw: Rewrite, node: ir.Node, crop: ir.Node, pads: list[int]) -> ir.Node:
    target = crop.outputs[0]
    attributes = {k: a for k, a in kept(node).items() if k != "auto_pad"}
    value = rw.node(
        "ConvTranspose",
        list(node.inputs),
        {**attributes, "pads": pads},
        before=crop,
        sources=(node, crop),
        name=node.name,
        like=target,
    )
    rw.replace(target, value)
    rw.drop(crop)
    rw.drop(node)
    rw.done(value.name or "")
    made = value.producer()
    assert made is not None
    return made
