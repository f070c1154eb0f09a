"""SavedModel folders of TensorFlow 2 (functions) and TensorFlow 1 (a graph with variables)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optim.errors import UnsupportedModelError, UserError
from pipeline.sources.contract import Converted, ConvertRequest, Progress, no_progress
from pipeline.sources.function_model import FunctionModel, convert_model_function, open_function
from pipeline.sources.saved_model_trust import refuse_untrusted
from pipeline.sources.tf.graph_session import GraphSession
from pipeline.sources.tf.prepare import Prepared, prepare
from pipeline.sources.tf.stored_graph import convert_prepared
from pipeline.sources.tf1_checkpoint import signature_of, variable_reader
from targets.contract import Session

_SERVING = "serving_default"
_ASSETS = "saved_model_assets"


class SavedModelSource:
    """A SavedModel folder."""

    def __init__(self) -> None:
        self._prepared: tuple[ConvertRequest, Prepared] | None = None
        self._function: tuple[ConvertRequest, FunctionModel] | None = None

    def convert(self, request: ConvertRequest, progress: Progress = no_progress) -> Converted:
        """Load and convert the serving signature.

        Raises:
            UserError: the folder is damaged or shapes must be given.
            UnsupportedModelError: TensorFlow cannot load it, or an op cannot be carried over.
        """
        started = time.perf_counter()
        if self._is_v1(request):
            prepared = self._prepare(request)
            load_s = time.perf_counter() - started
            return convert_prepared(prepared, request, load_s=load_s, progress=progress)
        model = self._load(request)
        load_s = time.perf_counter() - started
        return convert_model_function(model, request, load_s=load_s, progress=progress)

    def open(self, request: ConvertRequest) -> Session:
        """The signature's function, or the graph in a session."""
        if self._is_v1(request):
            return GraphSession(self._prepare(request))
        return open_function(self._load(request), request)

    def _is_v1(self, request: ConvertRequest) -> bool:
        return not _meta_graph(_folder(request)).HasField("object_graph_def")

    def _prepare(self, request: ConvertRequest) -> Prepared:
        if self._prepared is None or self._prepared[0] != request:
            folder = _folder(request)
            meta_graph = _meta_graph(folder)
            variables = folder / "variables" / "variables"
            read = None
            if variables.with_name("variables.index").is_file():
                read = variable_reader(variables, meta_graph.graph_def)
            prepared = prepare(
                meta_graph.graph_def,
                request,
                read_variable=read,
                signature=signature_of(meta_graph, request),
                assets=_assets(meta_graph, folder),
            )
            self._prepared = (request, prepared)
        return self._prepared[1]

    def _load(self, request: ConvertRequest) -> FunctionModel:
        if self._function is None or self._function[0] != request:
            folder = _folder(request)
            refuse_untrusted(_meta_graph(folder), folder, allowed=request.allow_custom_code)
            self._function = (request, _signature_function(folder))
        return self._function[1]


def _folder(request: ConvertRequest) -> Path:
    path = Path(request.model)
    return path if path.is_dir() else path.parent


def _meta_graph(folder: Path) -> Any:
    """The MetaGraphDef tagged for serving, else the first.

    Raises:
        UserError: the folder is damaged.
    """
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    stored = saved_model_pb2.SavedModel()
    try:
        if (folder / "saved_model.pb").is_file():
            stored.ParseFromString((folder / "saved_model.pb").read_bytes())
        else:
            text_format.Parse((folder / "saved_model.pbtxt").read_text(), stored)
    except (DecodeError, text_format.ParseError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"saved_model.pb is damaged: {str(error)[:200]}", where=str(folder)) from error
    graphs = list(stored.meta_graphs)
    if not graphs:
        raise UserError("the SavedModel holds no graph", where=str(folder))
    return next((graph for graph in graphs if "serve" in graph.meta_info_def.tags), graphs[0])


def _assets(meta_graph: Any, folder: Path) -> dict[str, Path]:
    """Files of the model by the tensor that holds their path; none outside ``assets/``."""
    from tensorflow.core.protobuf import meta_graph_pb2

    root = (folder / "assets").resolve()
    found = {}
    listed = list(meta_graph.asset_file_def)
    for packed in meta_graph.collection_def[_ASSETS].any_list.value:  # as TensorFlow 1 lists them
        asset = meta_graph_pb2.AssetFileDef()
        if packed.Unpack(asset):
            listed.append(asset)
    for asset in listed:
        file = (root / asset.filename).resolve()
        if file.is_relative_to(root):
            found[asset.tensor_info.name] = file
    return found


def _signature_function(folder: Path) -> FunctionModel:
    import tensorflow as tf

    try:
        with without_optimiser_slots(folder) as loadable:
            loaded = tf.saved_model.load(str(loadable))
    except (OSError, tf.errors.DataLossError, tf.errors.NotFoundError) as error:
        raise UserError(
            f"the SavedModel cannot be read: {str(error)[:300]}",
            where=str(folder),
            expected="variables/ beside saved_model.pb, complete",
        ) from error
    except Exception as error:
        raise UnsupportedModelError(
            f"TensorFlow {tf.__version__} cannot load it: {type(error).__name__}: {str(error)[:400]}",
            where=str(folder),
            hint="export it again with a newer TensorFlow",
        ) from error
    signatures = loaded.signatures
    if not signatures:
        raise UserError(
            "the SavedModel has no signature",
            where=str(folder),
            hint="save it with tf.saved_model.save(model, folder, signatures=a concrete function)",
        )
    name = _SERVING if _SERVING in signatures else sorted(signatures)[0]
    function = signatures[name]
    note = () if len(signatures) == 1 else (f"signature '{name}' of {', '.join(sorted(signatures))}",)
    keys = sorted(function.structured_input_signature[1])
    return FunctionModel(
        owner=loaded,
        function=function,
        input_names=tuple(keys),
        # A tensor cannot be named both as input and as output.
        output_names=tuple(
            f"{name}_out" if name in keys else name for name in sorted(function.structured_outputs)
        ),
        notes=note,
        by_keyword=True,
    )


@contextmanager
def without_optimiser_slots(folder: Path) -> Iterator[Path]:
    """A view of ``folder`` without optimiser slots, which need the class of an optimiser that is not here.

    The variables and assets are linked, not copied.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    file = folder / "saved_model.pb"
    stored = saved_model_pb2.SavedModel()
    if file.is_file():
        stored.ParseFromString(file.read_bytes())
    nodes = [node for graph in stored.meta_graphs for node in graph.object_graph_def.nodes]
    if not any(node.slot_variables for node in nodes):
        yield folder
        return
    for node in nodes:
        del node.slot_variables[:]
    with tempfile.TemporaryDirectory() as temporary:
        view = Path(temporary)
        (view / file.name).write_bytes(stored.SerializeToString())
        for name in ("variables", "assets"):
            if (folder / name).is_dir():
                (view / name).symlink_to((folder / name).absolute(), target_is_directory=True)
        yield view
