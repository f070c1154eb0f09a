"""Compare two models tensor by tensor as a stream: mean, variance and error on both sides.

Both run in ONNX Runtime; a float64 run of the first gives the noise floor. Only a group of tensors is held at
a time, so a network whose activations do not fit into memory can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Feeds
from optim.facts import label
from optim.model import load
from pipeline.parity.localise import difference
from pipeline.parity.metrics import compare
from pipeline.parity.runtime_values import BUDGET_BYTES, runtime_values
from pipeline.records import Metrics, Real, Record
from targets.float64.call import to_host
from targets.float64.evaluate import GraphEvaluator, widen
from targets.reference import OptimizationLevel


class LayerComparison(Record):
    """One tensor of both models. Errors are max|Δ| / range against the float64 run of ``a``."""

    tensor: str
    node: str
    op: str
    shape: tuple[int, ...]
    mean_a: Real
    variance_a: Real
    mean_b: Real
    variance_b: Real
    error_a: Real
    error_b: Real
    metrics: Metrics | None = None
    note: str = ""


def moments(value: Array) -> tuple[float, float]:
    """Mean and variance (of the population) in float64; of an empty array NaN."""
    if value.size == 0:
        return float("nan"), float("nan")
    doubled = value.astype(np.float64)
    return float(doubled.mean()), float(doubled.var())


def compare_layers(
    a: Path,
    b: Path,
    feeds: Feeds,
    *,
    optimization: tuple[OptimizationLevel, OptimizationLevel] = ("off", "off"),
    budget_bytes: int = BUDGET_BYTES,
) -> Iterator[LayerComparison]:
    """One row for each floating-point tensor that both graphs name, in the order of ``a``.

    Args:
        a: the reference; ``b``: the model compared with it.
        feeds: one input for both.
        optimization: ONNX Runtime's levels for the two.
        budget_bytes: most bytes of intermediate tensors held for each side.

    Raises:
        UserError: a file is missing or damaged, or the feeds do not fit.
        UnsupportedModelError: a node cannot be evaluated.
    """
    first, second = load(a), load(b)
    both = {v.name for node in second.graph for v in node.outputs if v.name}
    evaluator = GraphEvaluator(first)
    with np.errstate(all="ignore"):
        sizes = {
            name: value.nbytes // 2  # float32 holds half of float64
            for _, name, value in evaluator.trace(feeds)
            if name in both and getattr(value, "dtype", np.dtype("O")).kind == "f"
        }
        truth = ((node, to_host(v)) for node, name, v in evaluator.trace(feeds) if name in sizes)
        left = runtime_values(a, feeds, sizes, optimization=optimization[0], budget_bytes=budget_bytes)
        right = runtime_values(b, feeds, sizes, optimization=optimization[1], budget_bytes=budget_bytes)
        for (node, expected), (name, x), (_, y) in zip(truth, left, right, strict=True):
            yield _row(node, name, expected, x, y)


def _row(node: ir.Node, name: str, expected: Array, x: Array, y: Array) -> LayerComparison:
    comparable = x.shape == y.shape and x.size > 0 and bool(np.isfinite(x).all())
    note = (
        "" if comparable else "not finite" if x.shape == y.shape else f"shape {list(y.shape)} in the second"
    )
    (mean_a, variance_a), (mean_b, variance_b) = moments(x), moments(y)
    return LayerComparison(
        tensor=name,
        node=label(node),
        op=node.op_type,
        shape=tuple(x.shape),
        mean_a=mean_a,
        variance_a=variance_a,
        mean_b=mean_b,
        variance_b=variance_b,
        error_a=difference(expected, widen(x)),
        error_b=difference(expected, widen(y)),
        metrics=compare(x, y, where=name) if comparable else None,
        note=note,
    )


def feature_maps(value: Array, most: int = 8) -> Sequence[Array]:
    """The first channels of the first example of [N, C, H, W], each [H, W] in float64."""
    if value.ndim != 4:
        return ()
    return tuple(value[0, :most].astype(np.float64))
