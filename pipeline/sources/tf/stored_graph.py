"""Sources that store a GraphDef (frozen graphs, TF1 checkpoints, TF1 SavedModels): prepared once, then
converted and run."""

from __future__ import annotations

import time

from pipeline.sources.contract import Converted, ConvertRequest, Progress
from pipeline.sources.tf.convert import convert_graph
from pipeline.sources.tf.fold import static_shapes
from pipeline.sources.tf.graph_layers import graph_layers
from pipeline.sources.tf.prepare import Prepared


def convert_prepared(
    prepared: Prepared,
    request: ConvertRequest,
    *,
    notes: tuple[str, ...] = (),
    load_s: float,
    progress: Progress,
) -> Converted:
    """Convert a prepared graph.

    Raises:
        UnsupportedModelError: an op cannot be carried over.
    """
    import tensorflow as tf

    started = time.perf_counter()
    progress("convert", 0.3)
    result = convert_graph(prepared.graph, request)
    seconds = {"load": load_s, "convert": time.perf_counter() - started}
    layers = graph_layers(
        prepared.graph.graph_def,
        dict(prepared.graph.weights),
        static_shapes(prepared.graph.graph_def),
        result.model,
    )
    channels_first = any(node.attr["data_format"].s == b"NCHW" for node in prepared.graph.graph_def.node)
    layout = ("the source is channels-first (data_format NCHW)",) if channels_first else ()
    return Converted(
        model=result.model,
        framework=f"tensorflow {tf.__version__}",
        frozen=prepared.frozen + result.frozen,
        notes=notes + prepared.notes + result.notes + layout,
        layers=layers,
        seconds=seconds,
    )
