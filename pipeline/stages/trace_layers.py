"""The source's layers on the first examples, for a bundle that compares its own with them."""

from __future__ import annotations

import numpy as np

from optim.contract import Array
from optim.model import load
from pipeline.feeds import load_data
from pipeline.parity.layer_map import LayerMapRow, layer_map
from pipeline.parity.layer_study import CONVERTED, OPTIMIZED, SOURCE, study_layers
from pipeline.parity.match_layout import align
from pipeline.parity.run_layers import layer_feed
from pipeline.records import ConvertRecord
from pipeline.sources import open_source
from pipeline.sources.layer_values import ShowsLayers
from pipeline.stages.contract import CONVERTED as CONVERTED_FILE
from pipeline.stages.contract import OPTIMIZED as OPTIMIZED_FILE
from pipeline.stages.contract import StageContext
from pipeline.stages.convert import source_request
from targets.layer_trace import LayerTrace, TracedLayer, TracedWeight


def trace_layers(context: StageContext) -> LayerTrace:
    """Layers that the optimised graph still shows, with the values that the source framework gives them.

    Where the framework shows no layers, those of the converted graph stand in, and ``framework`` says so.
    """
    record = context.record_of("convert", ConvertRecord)
    before, after = (
        context.done[step] / file
        for step, file in (("convert", CONVERTED_FILE), ("optimize", OPTIMIZED_FILE))
    )
    rows = {row.layer: row for row in layer_map(record.layers, load(before), load(after))}
    layers: list[TracedLayer] = []
    values: dict[str, Array] = {}
    with open_source(source_request(context.config, record)) as source:
        inner = source if isinstance(source, ShowsLayers) else None
        dataset = load_data(context.config, source.inputs)
        feed, words = layer_feed(source, record.layers, dataset, context.config.parity)
        side = SOURCE if inner is not None else CONVERTED
        for one in study_layers(inner, record.layers, before, after, feed, float64=False):
            shown, own = one.values.get(OPTIMIZED), one.values.get(side)
            pair = None if shown is None or own is None else align(shown, own)
            if pair is None or shown is None or pair.got.shape != shown.shape:
                continue
            layers.append(_traced(rows[one.row.layer]))
            values[one.row.layer] = np.ascontiguousarray(pair.got)
    framework = record.framework if inner is not None else "the converted graph in ONNX Runtime, unoptimised"
    return LayerTrace(framework, words, tuple(layers), feed, values)


def _traced(row: LayerMapRow) -> TracedLayer:
    weights = tuple(
        TracedWeight(w.name, w.shape, w.tensor_after, w.permutation_after, w.note) for w in row.weights
    )
    return TracedLayer(row.layer, row.op, row.tensor_after, weights)
