"""The layers of a run: rows for the record, pictures for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from optim.contract import Feeds
from optim.errors import UnsupportedModelError
from pipeline.config import ParityConfig
from pipeline.feeds import Dataset, random, ranges_of
from pipeline.parity.feature_maps import FeatureMaps, feature_maps, spread, write_feature_maps
from pipeline.parity.layer_study import CONVERTED, study_layers
from pipeline.parity.study import concrete_specs
from pipeline.records import DivergenceRecord, LayerRecord, LayerStudyRow, ParityRecord
from pipeline.sources.layer_values import ShowsLayers
from targets.contract import Session
from targets.reference import OptimizationLevel

FEATURE_MAPS = "feature_maps.npz"
EXAMPLES = 10  # pictures that the layers are compared on, as in the MNIST system …
_MOST_BYTES = 64 << 20  # … where all layers together stay below this; else one


def with_layers(
    record: ParityRecord,
    source: Session,
    layers: Sequence[LayerRecord],
    models: tuple[Path, Path],
    dataset: Dataset | None,
    config: ParityConfig,
    out: Path,
) -> ParityRecord:
    """The record with its layers compared; where they cannot be, with a notice that says why.

    Args:
        models: the converted and the optimised one.
        out: the folder that gets the pictures.
    """
    feed, words = layer_feed(source, layers, dataset, config)
    rows: list[LayerStudyRow] = []
    maps: list[FeatureMaps] = []
    drawn = spread(len(layers))
    shipped = record.runtime_settings.get("optimized.optimization")
    known: tuple[OptimizationLevel, ...] = get_args(OptimizationLevel)
    level = next((one for one in known if one == shipped), known[0])
    inner = source if isinstance(source, ShowsLayers) else None
    compared = study_layers(inner, layers, *models, feed, level=level, float64=config.float64)
    try:
        for index, one in enumerate(compared):
            rows.append(one.row)
            pictures = feature_maps(one.row.layer, one.values, CONVERTED) if index in drawn else None
            maps += [pictures] if pictures is not None else []
    except UnsupportedModelError as error:
        notice = f"the layers are not compared: {error.what}"
        return record.model_copy(update={"notices": (*record.notices, notice)})
    write_feature_maps(maps, out / FEATURE_MAPS)
    found = record.first_divergence or first_parting(record, rows, words)
    return record.model_copy(update={"layers": tuple(rows), "layers_feed": words, "first_divergence": found})


def first_parting(record: ParityRecord, rows: Sequence[LayerStudyRow], feed: str) -> DivergenceRecord | None:
    """The first layer at which the source itself and the converted model part, where they do.

    The source has no graph to be searched: its layers are what can be told apart.
    """
    if not any(c.question == "source_vs_converted" and not c.passed for c in record.comparisons):
        return None
    bound = record.gate.get("max_abs_over_range") or 0.0
    apart = [r for r in rows if r.source_vs_converted and r.source_vs_converted.max_abs_over_range > bound]
    if not apart or apart[0].source_vs_converted is None:
        return None
    first, distance = apart[0], apart[0].source_vs_converted.max_abs_over_range
    return DivergenceRecord(
        node=first.layer,
        tensor=first.tensor_before,
        cause="unknown",
        detail=f"the source's {first.op} and its ONNX tensor are {distance:.3g} of the range apart",
        feed=feed,
    )


def layer_feed(
    source: Session, layers: Sequence[LayerRecord], dataset: Dataset | None, config: ParityConfig
) -> tuple[Feeds, str]:
    """The first examples of the data, else one random input; and the words for it."""
    specs = concrete_specs(source.inputs, dataset)
    each = sum(4 * int(np.prod([d or 1 for d in layer.output_shape], dtype=np.int64)) for layer in layers)
    free = all(not spec.shape or not isinstance(spec.shape[0], int) for spec in specs)
    count = EXAMPLES if free and each * EXAMPLES <= _MOST_BYTES else 1
    if dataset is not None and dataset.examples >= count:
        feed = {k: v if k in dataset.shared else v[:count] for k, v in dataset.feeds.items()}
        fixed = next((s.shape[0] for s in specs if s.shape and isinstance(s.shape[0], int)), None)
        if fixed in (None, count):
            return feed, f"the first {count} examples" if count > 1 else "the first example"
    seed = config.seeds[0] if config.seeds else 0
    ranges = None if dataset is None else ranges_of(dataset)
    return random(specs, seed, 1, ranges), f"random(seed={seed})/batch=1"
