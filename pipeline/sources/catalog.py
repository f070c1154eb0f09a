"""The one table of sources: format → module and class. Modules are imported when a format is first used."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from optim.errors import MissingRuntimeError
from pipeline.sources.contract import Source, SourceFormat

_SOURCES: dict[SourceFormat, str] = {
    SourceFormat.KERAS: "pipeline.sources.keras_file:KerasFileSource",
    SourceFormat.KERAS_H5: "pipeline.sources.keras_h5:KerasH5Source",
    SourceFormat.SAVED_MODEL: "pipeline.sources.saved_model:SavedModelSource",
    SourceFormat.TF_FUNCTION: "pipeline.sources.tf_function:TfFunctionSource",
    SourceFormat.TF1_CHECKPOINT: "pipeline.sources.tf1_checkpoint:Tf1CheckpointSource",
    SourceFormat.FROZEN_GRAPH: "pipeline.sources.frozen_graph:FrozenGraphSource",
    SourceFormat.TFLITE: "pipeline.sources.tflite:TfliteSource",
    SourceFormat.ONNX: "pipeline.sources.onnx:OnnxSource",
    SourceFormat.CAFFE: "pipeline.sources.caffe_model:CaffeSource",
}

_EXTRA = {SourceFormat.ONNX: "cpu", SourceFormat.CAFFE: "caffe"}


def source_of(source_format: SourceFormat) -> Source:
    """The source that reads ``source_format``.

    Raises:
        MissingRuntimeError: its framework is not installed; names the extra that brings it.
    """
    module, _, name = _SOURCES[source_format].partition(":")
    try:
        return cast(Source, getattr(import_module(module), name)())
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("pipeline", "targets", "optim"):
            raise  # ours: a bug, not a missing package
        extra = _EXTRA.get(source_format, "tensorflow")
        raise MissingRuntimeError(
            f"reading {source_format.value} needs a package that is not here: {error}",
            hint=f"pip install 'fairlead[{extra}]'",
        ) from error
