"""The one table of sources: format → module and class. Modules are imported when a format is first used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import cast

from optim.errors import MissingRuntimeError
from pipeline.sources.contract import ConvertRequest, Source, SourceFormat
from pipeline.sources.light_imports import import_framework

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


def source_for(request: ConvertRequest, source_format: SourceFormat) -> Source:
    """The source that reads ``request.model``, with its framework imported: only in a child process.

    Raises:
        MissingRuntimeError: its framework is not installed; names the extra that brings it.
    """
    with _missing_named(source_format):
        import_framework(source_format, for_custom_code=_runs_custom_code(request))
        return source_of(source_format)


def source_of(source_format: SourceFormat) -> Source:
    """The source that reads ``source_format``.

    Raises:
        MissingRuntimeError: its framework is not installed; names the extra that brings it.
    """
    module, _, name = _SOURCES[source_format].partition(":")
    with _missing_named(source_format):
        return cast(Source, getattr(import_module(module), name)())


def _runs_custom_code(request: ConvertRequest) -> bool:
    return request.allow_custom_code or request.graph_factory is not None


@contextmanager
def _missing_named(source_format: SourceFormat) -> Iterator[None]:
    """A package that is not here, as the error that says how to get it."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("pipeline", "targets", "optim"):
            raise  # ours: a bug, not a missing package
        extra = _EXTRA.get(source_format, "tensorflow")
        raise MissingRuntimeError(
            f"reading {source_format.value} needs a package that is not here: {error}",
            hint=f"pip install 'fairlead[{extra}]'",
        ) from error
