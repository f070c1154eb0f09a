"""TF1 Saver checkpoints: the graph from ``.meta`` (or from a Python factory), the values from ``.data``.

Values are read by name from the files; no session restores them, so ops that exist no more outside the part
that is converted do no harm.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from optim.contract import Array
from optim.errors import UserError
from pipeline.sources.contract import Converted, ConvertRequest, Progress, no_progress
from pipeline.sources.detect import checkpoint_prefix
from pipeline.sources.factory import call_factory
from pipeline.sources.tf.graph import GraphDef, by_name, constant, data_inputs, node_of
from pipeline.sources.tf.graph_session import GraphSession
from pipeline.sources.tf.prepare import Prepared, ReadVariable, Signature, prepare
from pipeline.sources.tf.stored_graph import convert_prepared
from targets.contract import Session


class Tf1CheckpointSource:
    """A checkpoint written by ``tf.compat.v1.train.Saver``."""

    def __init__(self) -> None:
        self._prepared: tuple[ConvertRequest, Prepared] | None = None

    def convert(self, request: ConvertRequest, progress: Progress = no_progress) -> Converted:
        """Read and convert.

        Raises:
            UserError: a file is missing or damaged, a value is not stored, or shapes must be given.
            UnsupportedModelError: TensorFlow rejects the graph, or an op cannot be carried over.
        """
        started = time.perf_counter()
        prepared = self._prepare(request)
        load_s = time.perf_counter() - started
        return convert_prepared(prepared, request, load_s=load_s, progress=progress)

    def open(self, request: ConvertRequest) -> Session:
        """The restored graph in a TensorFlow session."""
        return GraphSession(self._prepare(request))

    def _prepare(self, request: ConvertRequest) -> Prepared:
        if self._prepared is None or self._prepared[0] != request:
            self._prepared = (request, _read(request))
        return self._prepared[1]


def _read(request: ConvertRequest) -> Prepared:
    prefix = checkpoint_prefix(Path(request.model)) or Path(request.model)
    meta = prefix.with_name(prefix.name + ".meta")
    signature = None
    if request.graph_factory is not None:
        graph_def = _built(request)
    elif meta.is_file():
        meta_graph = read_meta_graph(meta)
        graph_def = meta_graph.graph_def
        signature = signature_of(meta_graph, request)
    else:
        raise UserError(
            "the checkpoint has no .meta file, so its graph is unknown",
            where=str(prefix),
            hint="give a function that builds the graph: --graph-factory module:function --allow-custom-code",
        )
    read = variable_reader(prefix, graph_def)
    return prepare(graph_def, request, read_variable=read, signature=signature)


def read_meta_graph(path: Path) -> Any:
    """The MetaGraphDef in ``path``.

    Raises:
        UserError: it is damaged.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import meta_graph_pb2

    meta_graph = meta_graph_pb2.MetaGraphDef()
    try:
        meta_graph.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise UserError("not a MetaGraphDef, or damaged", where=str(path)) from error
    if not meta_graph.graph_def.node:
        raise UserError("the .meta file holds no graph", where=str(path))
    return meta_graph


def signature_of(meta_graph: Any, request: ConvertRequest) -> Signature | None:
    """The serving signature of a MetaGraphDef, unless the user names tensors of the graph himself."""
    signatures = {
        name: one
        for name, one in meta_graph.signature_def.items()
        if one.outputs and name != "__saved_model_init_op"
    }
    if not signatures:
        return None
    chosen = signatures.get("serving_default") or signatures[sorted(signatures)[0]]
    inputs = {name: info.name for name, info in chosen.inputs.items() if info.name}
    outputs = {name: info.name for name, info in chosen.outputs.items() if info.name}
    named = [name for name in request.outputs if name not in outputs]
    return None if named else Signature(inputs, outputs)


def variable_reader(prefix: Path, graph_def: GraphDef) -> ReadVariable:
    """Reads a variable's value by its node's name.

    Raises (when called first):
        UserError: the checkpoint's files are missing or damaged.
    """
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        stored = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the checkpoint cannot be read: {str(error)[:300]}",
            where=str(prefix),
            expected=f"{prefix.name}.index and {prefix.name}.data-… beside it",
        ) from error
    keys = _saved_under(graph_def)

    def read(name: str) -> Array | None:
        key, part = keys.get(name, (name, None))
        for candidate in (key, name, f"{name}/.ATTRIBUTES/VARIABLE_VALUE"):
            if candidate in stored:
                try:
                    value = np.asarray(reader.get_tensor(candidate))
                    return value if part is None or candidate != key else value[part]
                except Exception as error:  # damage shows as nearly anything
                    raise UserError(
                        f"the value of '{candidate}' is damaged or missing: {str(error)[:200]}",
                        where=str(prefix),
                    ) from error
        return None

    return read


def _saved_under(graph_def: GraphDef) -> dict[str, tuple[str, tuple[slice, ...] | None]]:
    """Variable node → key in the checkpoint and, for one part of a partitioned variable, the part's place.

    As the graph's own restore ops pair them.
    """
    nodes = by_name(graph_def)
    keys: dict[str, tuple[str, tuple[slice, ...] | None]] = {}
    for node in graph_def.node:
        if node.op not in ("Assign", "AssignVariableOp"):
            continue
        variable, value = data_inputs(node)[:2]
        source = nodes.get(node_of(value))
        while source is not None and source.op == "Identity":
            value = data_inputs(source)[0]
            source = nodes.get(node_of(value))
        if source is None or source.op not in ("RestoreV2", "Restore"):
            continue
        names = nodes.get(node_of(data_inputs(source)[1]))
        if names is None or names.op != "Const":
            continue
        listed = constant(names).reshape(-1)
        index = int(value.rpartition(":")[2])
        if index < len(listed):
            parts = nodes.get(node_of(data_inputs(source)[2])) if len(data_inputs(source)) > 2 else None
            place = constant(parts).reshape(-1)[index].decode() if _is_const(parts) else ""
            keys[node_of(variable)] = (listed[index].decode(), _part(place))
    return keys


def _is_const(node: Any) -> bool:
    return node is not None and node.op == "Const"


def _part(text: str) -> tuple[slice, ...] | None:
    """``16 5 0,8:-``: of a tensor [16, 5] the 8 rows from row 0, every column; empty: all of it.

    tensorflow/core/framework/tensor_slice.h
    """
    ranges = text.rpartition(" ")[2].split(":") if text.strip() else []
    if not ranges:
        return None
    bounds = [None if one == "-" else tuple(map(int, one.split(","))) for one in ranges]
    return tuple(slice(None) if one is None else slice(one[0], one[0] + one[1]) for one in bounds)


def _built(request: ConvertRequest) -> GraphDef:
    import tensorflow as tf

    assert request.graph_factory is not None
    graph = tf.Graph()
    with graph.as_default():
        result = call_factory(request.graph_factory, request)
    built = result if isinstance(result, tf.Graph) else graph
    if not built.get_operations():
        raise UserError(
            f"{request.graph_factory} built no graph",
            expected="a function that builds ops in the default graph, or returns a tf.Graph",
        )
    return built.as_graph_def()
