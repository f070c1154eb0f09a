"""LRN → Mul(x, x), banded 1×1 Conv with bias, square roots (or Pow), Div.

Allowed: float32, known channels, bias above zero and alpha not below it, so that no root of a negative number
is taken. Numbers: reassociates; the sum of squares runs over all channels, most of them times zero.

    y = x / (bias + alpha / size · Σ x²)^beta,   Σ over channels c - ⌊(size-1)/2⌋ … c + ⌈(size-1)/2⌉

``d^0.75`` is √d · √√d: runtimes take roots in vector instructions and powers one by one.
https://onnx.ai/onnx/operators/onnx__LRN.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Numerics, PassInfo, PassOutcome, Refusal, SiteFilter, every_site
from optim.facts import dims, float_attribute, int_attribute, is_op
from optim.passes.faster_sites import Candidate, candidates_of, rewrite_candidates
from optim.rewrite import Rewrite

_BY_ROOTS: Final = (0.5, 0.75)


@dataclass(frozen=True)
class LrnAsConvolution:
    """Local response normalisation in operators that runtimes have fast kernels for."""

    @property
    def info(self) -> PassInfo:
        summary = "LRN → square, banded 1×1 convolution, roots, division, where that is faster"
        return PassInfo("lrn_as_convolution", Numerics.REASSOCIATES, summary)

    def candidates(self, model: ir.Model) -> tuple[tuple[Candidate, ...], tuple[Refusal, ...]]:
        """All LRN nodes; those that may not be rewritten, with the reason."""

        def look(node: ir.Node) -> Candidate | str | None:
            if not is_op(node, "LRN"):
                return None
            return _why_not(node) or Candidate(node, (node,))

        return candidates_of(model, look)

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        return rewrite_candidates(self, model, allowed, lambda rw, site: _write(rw, site.last))


def _why_not(node: ir.Node) -> str:
    data, shape = node.inputs[0], dims(node.inputs[0])
    if data is None or data.dtype != ir.DataType.FLOAT:
        return "the data is not FLOAT"
    if shape is None or len(shape) < 3 or not isinstance(shape[1], int):
        return "the number of channels is not known"
    bias, alpha = float_attribute(node, "bias", 1.0), float_attribute(node, "alpha", 1e-4)
    if bias <= 0 or alpha < 0:
        return f"bias {bias:g} and alpha {alpha:g} allow a power of a number below zero"
    return ""


def band(channels: int, size: int, weight: float) -> Array:
    """[channels, channels]: ``weight`` where the column lies in the row's window, float64."""
    row, column = np.indices((channels, channels))
    inside = (column >= row - (size - 1) // 2) & (column <= row + size // 2)
    return np.where(inside, weight, 0.0)


def _write(rw: Rewrite, node: ir.Node) -> None:
    data, old = node.inputs[0], node.outputs[0]
    shape = dims(data)
    if data is None or shape is None or not isinstance(shape[1], int):
        raise ValueError("checked before")
    channels, size, name = shape[1], int_attribute(node, "size", 1), f"{old.name}/lrn"
    beta = float(np.float32(float_attribute(node, "beta", 0.75)))
    weights = band(channels, size, float_attribute(node, "alpha", 1e-4) / size)

    def then(op: str, *inputs: ir.Value) -> ir.Value:
        return rw.node(op, inputs, before=node, out=f"{name}/{op}")

    flat = weights.astype(np.float32).reshape(channels, channels, *(1 for _ in shape[2:]))
    offset = np.full(channels, float_attribute(node, "bias", 1.0), np.float32)
    value = then(
        "Conv",
        then("Mul", data, data),
        rw.constant(flat, f"{name}/band"),
        rw.constant(offset, f"{name}/bias"),
    )
    if beta in _BY_ROOTS:
        root = then("Sqrt", value)
        value = root if beta == 0.5 else then("Mul", root, then("Sqrt", root))
    elif beta != 1.0:
        value = then("Pow", value, rw.constant(np.asarray(beta, np.float32), f"{name}/beta"))
    rw.replace(old, rw.node("Div", [data, value], before=node, sources=(node,), like=old))
    rw.drop(node)
