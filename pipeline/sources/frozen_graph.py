"""Frozen GraphDef files: ``.pb`` and ``.pbtxt``."""

from __future__ import annotations

import time
from pathlib import Path

from optim.errors import UserError
from pipeline.sources.contract import Converted, ConvertRequest, Progress, no_progress
from pipeline.sources.tf.graph import GraphDef
from pipeline.sources.tf.graph_session import GraphSession
from pipeline.sources.tf.prepare import Prepared, prepare
from pipeline.sources.tf.stored_graph import convert_prepared
from targets.contract import Session


class FrozenGraphSource:
    """A GraphDef whose variables are constants."""

    def __init__(self) -> None:
        self._prepared: tuple[ConvertRequest, Prepared] | None = None

    def convert(self, request: ConvertRequest, progress: Progress = no_progress) -> Converted:
        """Read and convert.

        Raises:
            UserError: the file is damaged, holds variables, or shapes must be given.
            UnsupportedModelError: TensorFlow rejects the graph, or an op cannot be carried over.
        """
        started = time.perf_counter()
        prepared = self._prepare(request)
        load_s = time.perf_counter() - started
        return convert_prepared(prepared, request, load_s=load_s, progress=progress)

    def open(self, request: ConvertRequest) -> Session:
        """The graph in a TensorFlow session."""
        return GraphSession(self._prepare(request))

    def _prepare(self, request: ConvertRequest) -> Prepared:
        if self._prepared is None or self._prepared[0] != request:
            self._prepared = (request, prepare(read_graph_def(Path(request.model)), request))
        return self._prepared[1]


def read_graph_def(path: Path) -> GraphDef:
    """The GraphDef in a binary or text file.

    Raises:
        UserError: it is no GraphDef, or damaged.
    """
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import graph_pb2

    graph_def = graph_pb2.GraphDef()
    try:
        if path.suffix in (".pbtxt", ".prototxt"):
            text_format.Parse(path.read_text(), graph_def)
        else:
            graph_def.ParseFromString(path.read_bytes())
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(
            f"not a GraphDef, or damaged: {str(error)[:200]}", where=str(path), hint="copy or export it again"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", where=str(path)) from error
    if not graph_def.node or any(not node.op for node in graph_def.node):
        raise UserError("the file holds no graph", where=str(path), expected="a frozen GraphDef")
    return graph_def
