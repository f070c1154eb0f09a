"""Compare two models tensor by tensor as a stream: mean, variance and error on both sides.

Both run in ONNX Runtime; a float64 run of the first gives the noise floor. Only a group of tensors is held at
a time, so a network whose activations do not fit into memory can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Feeds
from optim.facts import label
from optim.model import load
from optim.reordered import reordered_tensors
from pipeline.parity.feature_maps import FeatureMaps, feature_maps
from pipeline.parity.localise import difference
from pipeline.parity.match_layout import align
from pipeline.parity.metrics import compare
from pipeline.parity.moments import moments, same_digits
from pipeline.parity.runtime_values import BUDGET_BYTES, runtime_values
from pipeline.records import LayerStudyRow, Metrics, Moments, Real, Record
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


def compare_layers(
    a: Path,
    b: Path,
    feeds: Feeds,
    *,
    optimization: tuple[OptimizationLevel, OptimizationLevel] = ("off", "off"),
    budget_bytes: int = BUDGET_BYTES,
    pictures: list[FeatureMaps] | None = None,
) -> Iterator[LayerComparison]:
    """One row for each floating-point tensor that both graphs name, in the order of ``a``.

    Args:
        a: the reference; ``b``: the model compared with it.
        feeds: one input for both.
        optimization: ONNX Runtime's levels for the two.
        budget_bytes: most bytes of intermediate tensors held for each side.
        pictures: gets the feature maps of those tensors that are pictures, kept small.

    Raises:
        UserError: a file is missing or damaged, or the feeds do not fit.
        UnsupportedModelError: a node cannot be evaluated.
    """
    first, second = load(a), load(b)
    moved = {one.original: (name, one.order) for name, one in reordered_tensors(second).items()}
    both = {v.name for node in second.graph for v in node.outputs if v.name} | moved.keys()
    evaluator = GraphEvaluator(first)
    with np.errstate(all="ignore"):
        sizes = {
            name: value.nbytes // 2  # float32 holds half of float64
            for _, name, value in evaluator.trace(feeds)
            if name in both and getattr(value, "dtype", np.dtype("O")).kind == "f"
        }
        truth = ((node, to_host(v)) for node, name, v in evaluator.trace(feeds) if name in sizes)
        left = runtime_values(a, feeds, sizes, optimization=optimization[0], budget_bytes=budget_bytes)
        there = {moved[name][0] if name in moved else name: size for name, size in sizes.items()}
        right = runtime_values(b, feeds, there, optimization=optimization[1], budget_bytes=budget_bytes)
        for (node, expected), (name, x), (_, got) in zip(truth, left, right, strict=True):
            y = np.take(got, moved[name][1], axis=1) if name in moved else got
            yield _row(node, name, expected, x, y)
            drawn = feature_maps(name, {"a": x, "b": y}, "a") if pictures is not None else None
            if pictures is not None and drawn is not None:
                pictures.append(drawn)


def _row(node: ir.Node, name: str, expected: Array, x: Array, y: Array) -> LayerComparison:
    pair = align(x, y)
    comparable = pair is not None and x.size > 0 and bool(np.isfinite(x).all())
    note = "" if pair is None else pair.words
    if not comparable:
        note = "not finite" if pair is not None else f"shape {list(y.shape)} in the second"
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
        error_b=_error(expected, widen(y)),
        metrics=compare(pair.reference, pair.got, where=name) if pair is not None and comparable else None,
        note=note,
    )


def _error(expected: Array, got: Array) -> float:
    """max|Δ| / range of a tensor in whatever axis order it stands."""
    pair = align(expected, got)
    return float("inf") if pair is None else difference(pair.reference, pair.got)


def without_counterpart(a: Path, b: Path) -> tuple[str, ...]:
    """Tensors of ``a`` that ``b`` does not name: layers that are not compared."""
    first, second = ([v.name for node in load(path).graph for v in node.outputs if v.name] for path in (a, b))
    there = {*second, *(one.original for one in reordered_tensors(load(b)).values())}
    return tuple(name for name in first if name not in there)


def as_study_row(row: LayerComparison) -> LayerStudyRow:
    """The row as the report's table of layers shows it, with the sides ``a`` and ``b``."""
    moments_a = Moments(mean=row.mean_a, variance=row.variance_a)
    moments_b = Moments(mean=row.mean_b, variance=row.variance_b)
    digits = same_digits(moments_a, moments_b, "b")
    return LayerStudyRow(
        layer=row.node,
        op=row.op,
        tensor_before=row.tensor,
        tensor_after=row.tensor,
        shape=row.shape,
        moments={"a": moments_a, "b": moments_b},
        errors={"a": row.error_a, "b": row.error_b},
        before_vs_after=row.metrics,
        digits=(digits,) if digits else (),
        note=row.note,
    )
