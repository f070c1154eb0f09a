"""Zero border of a MaxPool: written as −0, the same number, which ONNX Runtime does not fuse away.

From its first optimisation level on, ONNX Runtime (1.31, Pad_Fusion) takes a Pad with the border value 0
into the MaxPool that follows, whose own border is -infinity: wrong wherever a window at the edge holds only
negative numbers, by a quarter of the range on ResNet50V2. It knows the value by its bits, and leaves -0 be.
Allowed: constant mode, border value 0, of a floating-point type. Borders that MaxPool may take are folded by
``fold_pads`` before.
Numbers: exact (IEEE 754: -0 = +0; only the sign of a zero in the result may differ).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import input_of, is_op, opset_of, producer, scalar_of, site_of, string_attribute
from optim.rewrite import Rewrite

_INPUT_FROM = 11  # opset in which the border value became an input
_VALUE = 2  # its place
_SAME_TYPE = (  # as their first input
    *("Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "Identity", "MaxPool", "Mul"),
    *("Pad", "Relu", "Reshape", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class SignPoolBorders:
    """Keeps zero borders of max pools from being fused away by a runtime."""

    @property
    def info(self) -> PassInfo:
        return PassInfo(
            "sign_pool_borders", Numerics.EXACT, "zero Pad before MaxPool → −0, which no runtime fuses away"
        )

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        if opset_of(model) < _INPUT_FROM:
            return rw.outcome()
        for pool in tuple(model.graph):
            pad = producer(pool.inputs[0], "Pad") if is_op(pool, "MaxPool") else None
            if pad is not None and _plain_zero(pad) and rw.allows(site_of(pad)):
                _sign(rw, pad)
        return rw.outcome()


def _plain_zero(pad: ir.Node) -> bool:
    """Whether the border is +0 of a float type."""
    if string_attribute(pad, "mode", "constant") != "constant" or _dtype(pad) not in _FLOATS:
        return False
    if input_of(pad, _VALUE) is None:
        return True
    value = scalar_of(pad.inputs[_VALUE])
    return value == 0.0 and not np.signbit(value)


def _dtype(pad: ir.Node) -> ir.DataType | None:
    """The type of its elements, also where no shape inference has noted it."""
    value = pad.outputs[0]
    for _ in range(64):
        node = value.producer()
        typed = (value, *(node.inputs[:2] if node is not None and is_op(node, "Conv", "Add", "Mul") else ()))
        for one in typed:
            if one is not None and one.dtype is not None:
                return one.dtype
        if node is None or not is_op(node, *_SAME_TYPE) or node.inputs[0] is None:
            return None
        value = node.inputs[0]
    return None


def _sign(rw: Rewrite, pad: ir.Node) -> None:
    dtype = _dtype(pad)
    assert dtype is not None  # _plain_zero has asked
    value = rw.constant(np.array(-0.0, dtype.numpy()), f"{pad.outputs[0].name}_border")
    if len(pad.inputs) <= _VALUE:
        pad.resize_inputs(_VALUE + 1)
    pad.replace_input_with(_VALUE, value)
    rw.done(site_of(pad))
