"""Read, write and name ONNX models. ``ModelProto`` exists only here, at the border.

Large weights stay on disk, in the model's own file or beside it, and are not read before they are needed.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir import serde

from optim.contract import TensorSpec
from optim.errors import FairleadError, UserError
from optim.stored_weights import Parsed, parse
from optim.stream_weights import write_streamed

# A protobuf message ends at 2^31 - 1 bytes; the margin leaves room for nodes and names.
INLINE_LIMIT_BYTES = 1_900_000_000
_EXTERNAL_THRESHOLD_BYTES = 1024
_FIRST_IR_WITH_FREE_INITIALIZERS = 4
_CHUNK_BYTES = 1 << 22


def load(path: str | Path) -> ir.Model:
    """The model in ``path``. Large weights stay on disk: those in the file are read at each access, external
    ones mapped at the first.

    Raises:
        UserError: the file is missing or damaged, or its external data is missing, too short or outside
            the model's folder.
    """
    file = Path(path)
    proto, stored = _parse(file)
    _check_inline_tensors(proto, file)
    try:
        model = serde.deserialize_model(proto)
        if stored is not None:
            stored.attach(model)
    except Exception as error:  # onnx_ir raises many kinds; all mean that the content makes no sense
        raise UserError(
            f"the ONNX content makes no sense: {_first_line(error)}",
            where=str(file),
            expected="a valid ONNX model",
        ) from error
    for graph in _graphs(model):
        ir.external_data.set_base_dir(graph, file.parent.absolute())
    for tensor in _external_tensors(model):
        _check_external(tensor, file)
    _modernise(model, file)
    return model


def save(model: ir.Model, path: str | Path, *, external: bool | None = None) -> None:
    """Write ``model``: the same bytes for the same model, all or nothing.

    Args:
        model: the model; not changed.
        path: the file to write; its folder is made when missing.
        external: weights in ``<name>.data`` beside the file. None: only where they would not fit in one
            protobuf message. Weights are streamed one by one, so memory grows by the largest only.

    Raises:
        UserError: the folder cannot be written.
    """
    file = Path(path)
    apart = weight_bytes(model) > INLINE_LIMIT_BYTES if external is None else external
    data_name = file.name + ".data"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{file.name}.", dir=file.parent))
    except OSError as error:
        raise UserError(f"cannot write there: {error.strerror}", where=str(file)) from error
    try:
        _write(model, aside / file.name, data_name if apart else None)
        if apart and (aside / data_name).exists():
            _map_tensors_stored_in(model, file.parent / data_name)
            (aside / data_name).replace(file.parent / data_name)
        (aside / file.name).replace(file)
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}", where=str(file)) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sha256(path: str | Path) -> str:
    """Fingerprint of a saved model in hex: the file's own SHA-256, or, with external data, the SHA-256 over
    the file followed by each data file's name and bytes in the order of their names.

    Raises:
        UserError: the file or its external data cannot be read.
    """
    file = Path(path)
    digest = hashlib.sha256()
    _digest_file(digest, file)
    for location in _external_locations(file):
        data = _inside(file, location)
        digest.update(location.encode())
        _digest_file(digest, data)
    return digest.hexdigest()


def signature(model: ir.Model) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs. A graph input that also has an initializer is a weight and no input."""
    initializers = model.graph.initializers
    inputs = tuple(_spec(v) for v in model.graph.inputs if v.name not in initializers)
    return inputs, tuple(_spec(v) for v in model.graph.outputs)


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers and constant tensors, in every graph and function; reads none of them."""
    total = 0
    for graph in _graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                total += _initializer_bytes(value, value.const_value)
    return total + sum(tensor.nbytes for tensor in _attribute_tensors(model))


def _initializer_bytes(value: ir.Value, tensor: ir.TensorProtocol) -> int:
    """From the value's own type where it has one: an order faster than asking a tensor still in its
    protobuf.
    """
    if value.shape is None or value.dtype is None or value.dtype == ir.DataType.STRING:
        return tensor.nbytes
    dims = value.shape.dims
    if not all(isinstance(d, int) for d in dims):
        return tensor.nbytes
    return (math.prod(d for d in dims if isinstance(d, int)) * value.dtype.bitwidth + 7) // 8


def op_counts(model: ir.Model) -> dict[str, int]:
    """Number of nodes by op (``domain::op`` outside the standard domain), subgraphs included, by name."""
    nodes = _all_nodes(model.graph)
    counts = Counter(f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in nodes)
    return dict(sorted(counts.items()))


def node_count(model: ir.Model) -> int:
    """Number of nodes of the graph, subgraphs included."""
    return sum(1 for _ in _all_nodes(model.graph))


# --- reading -------------------------------------------------------------------------------------


def _parse(file: Path) -> tuple[onnx.ModelProto, Parsed | None]:
    """The message, without its large weights where they can be left in the file."""
    if not file.is_file():
        raise UserError("no such file", where=str(file), expected="an ONNX model")
    damaged = UserError(
        "not an ONNX model, or damaged",
        where=str(file),
        expected="a complete ONNX protobuf file",
        hint="copy or export the file again; `fairlead convert` makes an ONNX model of other formats",
    )
    try:
        stored = parse(file)
        if stored is None:
            proto = onnx.load(file, load_external_data=False, format="protobuf")
        else:
            proto = stored.proto
    except (DecodeError, ValueError, RuntimeError) as error:
        raise damaged from error
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", where=str(file)) from error
    if not proto.HasField("graph") or not (proto.graph.output or proto.graph.node):
        raise damaged
    return proto, stored


def _check_inline_tensors(proto: onnx.ModelProto, file: Path) -> None:
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or not tensor.HasField("raw_data"):
            continue
        elements = 1
        for dim in tensor.dims:
            elements *= dim
        try:
            bits: int | None = ir.DataType(tensor.data_type).bitwidth
        except (ValueError, TypeError):
            bits = None
        if bits is None or len(tensor.raw_data) != (elements * bits + 7) // 8:
            raise UserError(
                f"initializer '{tensor.name}' holds {len(tensor.raw_data)} bytes",
                where=str(file),
                expected=f"{elements} elements of type {tensor.data_type}",
                hint="the file is damaged; copy or export it again",
            )


def _check_external(tensor: ir.ExternalTensor, file: Path) -> None:
    data = _inside(file, os.fspath(tensor.location))
    needed = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
    size = data.stat().st_size
    if size < needed or (tensor.length is not None and tensor.length != tensor.nbytes):
        raise UserError(
            f"external data of '{tensor.name}' is damaged: {size} bytes in {data.name}",
            where=str(file),
            expected=f"{tensor.nbytes} bytes at offset {tensor.offset or 0}",
            hint="copy the data file again",
        )
    if data.stat().st_nlink > 1:
        raise UserError(
            f"external data {data.name} has several hard links",
            where=str(file),
            expected="a data file that belongs to this model alone",
            hint="copy the data file instead of linking it",
        )


def _inside(file: Path, location: str) -> Path:
    """The external data file at ``location``; nothing outside the model's own folder is ever opened."""
    folder = file.parent.resolve()
    data = (folder / location).resolve()
    if Path(location).is_absolute() or not data.is_relative_to(folder):
        raise UserError(
            f"external data '{location}' lies outside the model's folder",
            where=str(file),
            expected="a file beside the model",
            hint="do not trust this model; save it again with its data beside it",
        )
    if not data.is_file():
        raise UserError(f"external data file '{location}' is missing", where=str(file))
    return data


def _external_locations(file: Path) -> list[str]:
    """Names of the data files that ``file`` refers to, sorted; without parsing where there are none."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
            if view.find(b"location") < 0:
                return []
    except (OSError, ValueError):
        return []
    try:
        tensors = _external_tensors(serde.deserialize_model(_parse(file)[0]))
        return sorted({os.fspath(t.location) for t in tensors})
    except FairleadError:
        raise
    except Exception as error:
        raise UserError(f"the ONNX content makes no sense: {_first_line(error)}", where=str(file)) from error


def _digest_file(digest: hashlib._Hash, file: Path) -> None:
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", where=str(file)) from error


def _modernise(model: ir.Model, file: Path) -> None:
    """Bring an old or careless file into the form that all later code may take for granted.

    Nodes stand in topological order, and weights are no inputs: before IR version 4 every weight had to be
    listed among the inputs, so nothing can be told from it there.
    """
    try:
        model.graph.sort()
    except ValueError as error:
        raise UserError("the graph has a cycle", where=str(file), expected="an acyclic graph") from error
    if model.ir_version < _FIRST_IR_WITH_FREE_INITIALIZERS:
        for value in [v for v in model.graph.inputs if v.name in model.graph.initializers]:
            model.graph.inputs.remove(value)
        model.ir_version = _FIRST_IR_WITH_FREE_INITIALIZERS


# --- writing -------------------------------------------------------------------------------------


def _write(model: ir.Model, file: Path, data_name: str | None) -> None:
    values = [v for graph in _graphs(model) for v in graph.initializers.values()]
    before = [v.const_value for v in values]
    try:
        if data_name is not None:
            ir.external_data.unload_from_model(
                model, file.parent, data_name, size_threshold_bytes=_EXTERNAL_THRESHOLD_BYTES
            )
        with file.open("wb") as stream:
            write_streamed(model, stream)
            stream.flush()
            os.fsync(stream.fileno())
    finally:
        for value, tensor in zip(values, before, strict=True):
            value.const_value = tensor


def _map_tensors_stored_in(model: ir.Model, data: Path) -> None:
    """Map tensors that live in a file about to be replaced: the mapping keeps the old content alive."""
    for tensor in _external_tensors(model):
        if Path(tensor.path).resolve() == data.resolve():
            tensor.numpy()


# --- walking -------------------------------------------------------------------------------------


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph and every subgraph."""
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                    pending.append(attribute.as_graph())
                elif attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
                    pending.extend(attribute.as_graphs())


def _all_nodes(graph: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    """Every node, those of subgraphs after the node that holds them."""
    for node in graph:
        yield node
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                yield from _all_nodes(attribute.as_graph())
            elif attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
                for body in attribute.as_graphs():
                    yield from _all_nodes(body)


def _all_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in _graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    yield from _attribute_tensors(model)


def _attribute_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    holders: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for holder in holders:
        for node in _all_nodes(holder):
            for attribute in node.attributes.values():
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    yield attribute.as_tensor()
                elif attribute.type == ir.AttributeType.TENSORS:
                    yield from attribute.as_tensors()


def _external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    for tensor in _all_tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            yield tensor


def _spec(value: ir.Value) -> TensorSpec:
    try:
        dtype = "" if value.dtype is None else str(value.dtype.numpy())
        if value.dtype == ir.DataType.STRING:
            dtype = "str"
    except TypeError:
        dtype = ""
    dims: tuple[int | str | None, ...] = ()
    if value.shape is not None:
        dims = tuple(d if isinstance(d, int) else d.value for d in value.shape)
    return TensorSpec(name=value.name or "", dtype=dtype, shape=dims)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
