"""Mul → Add → Relu, or BatchNormalization → Relu, by channel → depthwise 1×1 Conv → Relu.

Allowed: float32 [N, C, ...] with known C, constants by channel, and nothing else reads what is in between.
Where a convolution comes before, ``fold_batchnorm`` has taken the scale and shift into its weights; what is
left stands before it, behind a Concat or an Add. Numbers: reassociates (product and sum may be fused).

A runtime that keeps channels in blocks for convolutions leaves that layout for a Mul with one number a
channel, and comes back for the next convolution; a depthwise convolution stays in it.
https://onnx.ai/onnx/operators/onnx__Conv.html
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, Refusal, SiteFilter, every_site
from optim.errors import InternalError
from optim.facts import dims, is_op, producer, sole_consumer
from optim.passes.affine import Affine, affine_of
from optim.passes.faster_sites import Candidate, candidates_of, rewrite_candidates
from optim.rewrite import Rewrite

_AFFINE = ("Mul", "Div", "Add", "Sub", "BatchNormalization")


@dataclass(frozen=True)
class AffineAsDepthwise:
    """Scale and shift before an activation as the convolution they are."""

    @property
    def info(self) -> PassInfo:
        summary = "pre-activation scale and shift → depthwise 1×1 convolution, where that is faster"
        return PassInfo("affine_as_depthwise", Numerics.REASSOCIATES, summary)

    def candidates(self, model: ir.Model) -> tuple[tuple[Candidate, ...], tuple[Refusal, ...]]:
        """Runs of scales and shifts that end in a Relu; the last node of a site is its last shift."""

        def look(node: ir.Node) -> Candidate | str | None:
            found = _pattern(node)
            if found is None or isinstance(found, str):
                return found
            return Candidate(node, (*found.nodes, next(iter(node.outputs[0].uses())).node))

        return candidates_of(model, look)

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        return rewrite_candidates(self, model, allowed, _write)


@dataclass(frozen=True)
class _Pattern:
    nodes: tuple[ir.Node, ...]  # in graph order
    data: ir.Value
    affine: Affine


def _pattern(last: ir.Node) -> _Pattern | str | None:
    """The run of affine nodes that ends in ``last``, if an activation follows; why not; None: no such run."""
    if not is_op(last, *_AFFINE) or not is_op(sole_consumer(last.outputs[0]), "Relu"):
        return None
    nodes: list[ir.Node] = []
    affine: Affine | None = None
    data: ir.Value | None = last.outputs[0]
    while (node := producer(data, *_AFFINE)) is not None and (
        not nodes or sole_consumer(node.outputs[0]) is nodes[0]
    ):
        step = _step(node)
        if step is None:
            break
        source, inner = step
        affine = (
            inner
            if affine is None
            else Affine(inner.scale * affine.scale, inner.shift * affine.scale + affine.shift)
        )
        nodes.insert(0, node)
        data = source
    if affine is None or data is None or (len(nodes) == 1 and not is_op(nodes[0], "BatchNormalization")):
        return None
    if data.dtype != ir.DataType.FLOAT:
        return "the data is not FLOAT"
    return _Pattern(tuple(nodes), data, affine)


def _step(node: ir.Node) -> tuple[ir.Value, Affine] | None:
    """The data operand of one affine node, and the map."""
    for data in node.inputs[:2]:
        shape = dims(data)
        if data is None or shape is None or len(shape) < 3 or not isinstance(shape[1], int):
            continue
        found = affine_of(node, data, 1, shape[1])
        if isinstance(found, Affine) and dims(node.outputs[0]) in (None, shape):
            return data, found
    return None


def _write(rw: Rewrite, candidate: Candidate) -> None:
    found = _pattern(candidate.last)
    if not isinstance(found, _Pattern):
        raise InternalError(f"{candidate.site} was a candidate: {found}")
    last, channels = found.nodes[-1], found.affine.scale.size
    old, rank = last.outputs[0], len(dims(found.data) or ())
    weight = found.affine.scale.astype(np.float32).reshape(channels, *(1 for _ in range(rank - 1)))
    inputs = [
        found.data,
        rw.constant(weight, f"{old.name}/scale"),
        rw.constant(found.affine.shift.astype(np.float32), f"{old.name}/shift"),
    ]
    value = rw.node("Conv", inputs, {"group": channels}, before=last, sources=found.nodes, like=old)
    rw.replace(old, value)
    for node in reversed(found.nodes):
        rw.drop(node)
