"""The layer table: each layer of the source model, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.parity.layer_map import LayerMapRow, WeightMapRow
from pipeline.records import LayerRecord, RunRecord, TargetLayerRecord
from pipeline.report.format_values import shape


@dataclass(frozen=True)
class WeightLine:
    """Weights that went one way: names and shape in the source, shape over there, how it was turned."""

    names: tuple[str, ...]  # several where all were folded alike
    before: tuple[int, ...]
    after: tuple[int, ...] | None
    how: str  # "axes 3, 2, 0, 1", "same", "folded into other constants", or empty


@dataclass(frozen=True)
class LayerLine:
    """One row. Empty tuples and strings where nothing is known."""

    name: str
    op: str
    output_shape: tuple[int | None, ...]
    parameters: int
    tensor_before: str  # the ONNX tensor that carries the layer's result as converted
    nodes: tuple[str, ...]  # ONNX nodes after optimisation
    tensor: str  # the ONNX tensor that carries the layer's result after optimisation
    weights: tuple[WeightLine, ...]
    padding: str  # in the framework's word
    padding_numbers: str  # "[0, 0] ... [1, 1]"
    note: str


@dataclass(frozen=True)
class TargetColumn:
    """One target's layers by source layer."""

    target: str
    by_layer: Mapping[str, tuple[TargetLayerRecord, ...]]


def target_columns(record: RunRecord) -> tuple[TargetColumn, ...]:
    """A column for each bundle whose format names its layers."""
    return tuple(
        TargetColumn(bundle.target, {place.layer: place.target for place in bundle.layer_map})
        for bundle in record.bundles
        if bundle.layer_map
    )


def layer_lines(record: RunRecord, rows: Sequence[LayerMapRow]) -> tuple[LayerLine, ...]:
    """Rows in the source's order; from the record alone where there is no layer map."""
    if rows:
        return tuple(_mapped(row) for row in rows)
    return tuple(_unmapped(layer) for layer in record.convert.layers)


def _mapped(row: LayerMapRow) -> LayerLine:
    return LayerLine(
        name=row.layer,
        op=row.op,
        output_shape=row.output_shape,
        parameters=row.parameters,
        tensor_before=row.tensor_before,
        nodes=row.nodes_after,
        tensor=row.tensor_after,
        weights=_together([_weight(weight) for weight in row.weights]),
        padding=row.padding,
        padding_numbers=row.padding_after or row.padding_before,
        note=row.note,
    )


def _together(lines: list[WeightLine]) -> tuple[WeightLine, ...]:
    """Neighbours of one shape that vanished in the same way share a line: gamma, beta, mean, variance."""
    kept: list[WeightLine] = []
    for line in lines:
        last = kept[-1] if kept else None
        alike = last is not None and replace(last, names=line.names) == line and line.after is None
        if last is not None and alike:
            kept[-1] = replace(last, names=(*last.names, *line.names))
        else:
            kept.append(line)
    return tuple(kept)


def _weight(row: WeightMapRow) -> WeightLine:
    found = bool(row.tensor_after)
    turned = row.permutation_after
    how = row.note
    if found and turned is not None:
        axes = "same" if turned == tuple(range(len(turned))) else f"axes {', '.join(map(str, turned))}"
        how = "; ".join(text for text in (axes, row.note) if text)
    return WeightLine((row.name,), row.shape, row.shape_after if found else None, how)


def _unmapped(layer: LayerRecord) -> LayerLine:
    return LayerLine(
        name=layer.name,
        op=layer.op,
        output_shape=layer.output_shape,
        parameters=layer.parameters,
        tensor_before="",
        nodes=(),
        tensor="",
        weights=tuple(WeightLine((name,), before, None, "") for name, before in layer.weights),
        padding=layer.padding,
        padding_numbers="",
        note="",
    )


def weight_text(weight: WeightLine) -> str:
    """``conv1/kernel 3 × 3 × 1 × 16 → 16 × 1 × 3 × 3 (axes 3, 2, 0, 1)``."""
    arrow = f" → {shape(weight.after)}" if weight.after is not None else ""
    return f"{', '.join(weight.names)} {shape(weight.before)}{arrow}" + (
        f" ({weight.how})" if weight.how else ""
    )
