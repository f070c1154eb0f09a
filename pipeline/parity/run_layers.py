"""The layers of a run: rows for the record, pictures for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from optim.contract import Feeds, TensorSpec
from optim.errors import UnsupportedModelError
from optim.model import load, signature
from pipeline.config import ParityConfig
from pipeline.feeds import Dataset, batch_size, random, ranges_of
from pipeline.fixed_sizes import fixed_by
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
    fixed, _outputs = signature(load(models[1]))
    feed, words = layer_feed(source, layers, dataset, config, fixed)
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
    source: Session,
    layers: Sequence[LayerRecord],
    dataset: Dataset | None,
    config: ParityConfig,
    fixed: Sequence[TensorSpec] = (),
) -> tuple[Feeds, str]:
    """The first examples of the data, else one random input; and the words for it.

    ``fixed``: inputs of another model that must take it too, and may take one size only.
    """
    specs = fixed_by(concrete_specs(source.inputs, dataset), fixed)
    each = sum(4 * int(np.prod([d or 1 for d in layer.output_shape], dtype=np.int64)) for layer in layers)
    count = batch_size(specs, EXAMPLES if each * EXAMPLES <= _MOST_BYTES else 1)
    if dataset is not None and dataset.examples >= count:
        feed = {k: v if k in dataset.shared else v[:count] for k, v in dataset.feeds.items()}
        return feed, f"the first {count} examples" if count > 1 else "the first example"
    seed, size = config.seeds[0] if config.seeds else 0, batch_size(specs, 1)
    ranges = None if dataset is None else ranges_of(dataset)
    return random(specs, seed, size, ranges), f"random(seed={seed})/batch={size}"
