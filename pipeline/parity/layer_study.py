"""The layers of a run side by side: in the source framework, converted, and optimised, as a stream.

For each layer: mean and variance on every side, the differences, and each side's distance from float64, so
that the growth of error over depth can be drawn. A group of layers is held at a time, never all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Feeds
from optim.model import load
from optim.reordered import reordered_tensors
from pipeline.parity.layer_map import LayerMapRow, layer_map
from pipeline.parity.localise import difference
from pipeline.parity.match_layout import align
from pipeline.parity.metrics import compare
from pipeline.parity.moments import moments, same_digits
from pipeline.parity.runtime_values import BUDGET_BYTES, grouped, runtime_values
from pipeline.records import LayerRecord, LayerStudyRow, Metrics, Moments
from pipeline.sources.contract import AnyLayer, SourceLayer
from pipeline.sources.layer_values import ShowsLayers
from targets.float64.call import to_host
from targets.float64.evaluate import GraphEvaluator, widen
from targets.reference import OptimizationLevel

SOURCE, CONVERTED, OPTIMIZED = "source", "converted", "optimized"


@dataclass(frozen=True)
class LayerValues:
    """One layer's row, and its values by side for whoever draws them. Held by nobody afterwards."""

    row: LayerStudyRow
    values: Mapping[str, Array]


def study_layers(
    source: ShowsLayers | None,
    layers: Sequence[SourceLayer] | Sequence[LayerRecord],
    converted: Path,
    optimized: Path,
    feeds: Feeds,
    *,
    level: OptimizationLevel = "off",
    float64: bool = True,
    budget_bytes: int = BUDGET_BYTES,
) -> Iterator[LayerValues]:
    """Each layer that the converted graph shows, in the order of that graph.

    Args:
        source: a session that may show its layers; None where the framework is not there.
        level: ONNX Runtime's optimisations for the optimised model.
        budget_bytes: most bytes of layers held for each side.

    Raises:
        UserError: the feeds do not fit.
        UnsupportedModelError: a node cannot be evaluated.
    """
    before, after = load(converted), load(optimized)
    rows = {row.layer: row for row in layer_map(layers, before, after)}
    order = {v.name: i for i, v in enumerate(v for node in before.graph for v in node.outputs)}
    shown = [layer for layer in layers if rows[layer.name].tensor_before in order]
    shown.sort(key=lambda layer: order[rows[layer.name].tensor_before])
    named = {v.name for node in after.graph for v in node.outputs}
    moved = reordered_tensors(after)
    examples = max((v.shape[0] for v in feeds.values() if v.ndim), default=1)
    sizes = {layer.name: _bytes(layer, examples) for layer in shown}
    by_name = {layer.name: layer for layer in shown}
    for names in grouped(sizes, budget_bytes):
        group = [by_name[name] for name in names]
        of_source = {} if source is None else source.layer_values(feeds, group)
        tensors = [rows[name].tensor_before for name in names]
        of_before = _in_runtime(converted, feeds, tensors, "off")
        kept = [rows[name].tensor_after for name in names if not _merged(rows[name])]
        carrying = [tensor for tensor in kept if tensor in named]
        of_after = {
            name: np.take(value, moved[name].order, axis=1) if name in moved else value
            for name, value in _in_runtime(optimized, feeds, carrying, level).items()
        }
        truth = _in_float64(before, feeds, tensors) if float64 else {}
        for name in names:
            row = rows[name]
            values = {
                SOURCE: of_source.get(name),
                CONVERTED: of_before.get(row.tensor_before),
                OPTIMIZED: None if _merged(row) else of_after.get(row.tensor_after),
            }
            held = {side: value for side, value in values.items() if value is not None}
            yield LayerValues(_row(by_name[name], row, held, truth.get(row.tensor_before)), held)


def _merged(row: LayerMapRow) -> bool:
    """Whether the layer's own result is gone: the node that holds it computes the next layer too."""
    return row.tensor_after != row.tensor_before and row.note.startswith("merged")


def _bytes(layer: AnyLayer, examples: int) -> int:
    shape = [examples if d is None else d for d in layer.output_shape]
    return 4 * int(np.prod(shape, dtype=np.int64))


def _in_runtime(path: Path, feeds: Feeds, names: Sequence[str], level: OptimizationLevel) -> dict[str, Array]:
    wanted = dict.fromkeys(names, 0)  # the group as a whole is within the budget
    return dict(runtime_values(path, feeds, wanted, optimization=level)) if wanted else {}


def _in_float64(model: ir.Model, feeds: Feeds, names: Sequence[str]) -> dict[str, Array]:
    with np.errstate(all="ignore"):
        found = GraphEvaluator(model).run(feeds, tuple(dict.fromkeys(names)))
    return {name: to_host(value) for name, value in found.items()}


def _row(
    layer: AnyLayer, row: LayerMapRow, values: Mapping[str, Array], truth: Array | None
) -> LayerStudyRow:
    converted = values.get(CONVERTED)
    notes = [row.note] if row.note else []
    pairs: dict[str, Metrics | None] = {}
    for side, reference in ((SOURCE, CONVERTED), (OPTIMIZED, CONVERTED)):
        pairs[side], words = _compared(values.get(reference), values.get(side), source=side == SOURCE)
        notes += [f"{side}: {words}"] if words and side == OPTIMIZED else []
    spread = {side: _moments(value) for side, value in values.items()}
    digits = [pair for side in (SOURCE, OPTIMIZED) if (pair := _digits(spread, side))]
    return LayerStudyRow(
        layer=layer.name,
        op=layer.op,
        tensor_before=row.tensor_before,
        tensor_after="" if OPTIMIZED not in values else row.tensor_after,
        shape=() if converted is None else tuple(converted.shape),
        moments=spread,
        errors={side: _error(truth, value) for side, value in values.items() if truth is not None},
        source_vs_converted=pairs[SOURCE],
        before_vs_after=pairs[OPTIMIZED],
        digits=tuple(digits),
        note="; ".join(notes),
    )


def _moments(value: Array) -> Moments:
    mean, variance = moments(value)
    return Moments(mean=mean, variance=variance)


def _digits(spread: Mapping[str, Moments], side: str) -> str:
    """Why mean or variance is printed otherwise than for the converted model; empty where they agree."""
    if side not in spread or CONVERTED not in spread:
        return ""
    return same_digits(spread[CONVERTED], spread[side], side)


def _compared(reference: Array | None, got: Array | None, *, source: bool) -> tuple[Metrics | None, str]:
    """Metrics of the converted model against the source, or of the optimised against the converted."""
    if reference is None or got is None or reference.dtype.kind != "f" or not reference.size:
        return None, ""
    pair = align(reference, got)
    if pair is None:
        return None, f"shape {list(got.shape)}"
    x, y = (pair.got, pair.reference) if source else (pair.reference, pair.got)
    if not np.isfinite(x).all():
        return None, "not finite"
    return compare(np.asarray(x), np.asarray(y)), pair.words


def _error(truth: Array | None, value: Array) -> float:
    """max|Δ| / range against float64."""
    if truth is None:
        return float("nan")
    wide = widen(value)
    pair = align(truth, wide)
    return float("inf") if pair is None else difference(pair.reference, pair.got)
