"""Write a converted model without ever holding its weights twice.

``ModelProto`` is built without the large initializers; these are appended to the serialised graph one by one,
which protobuf reads as one message (repeated fields may come in pieces:
https://protobuf.dev/programming-guides/encoding/#last-one-wins). Models that do not fit in one message
get their weights beside them, in ``<name>.data``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir
from onnx_ir import serde

from optim import model as onnx_file
from optim.errors import UserError
from optim.stored_weights import raw_data
from optim.wire import varint

STREAMED_BYTES = 1 << 20
"""Initializers from this size on are streamed."""

_MODEL_GRAPH_TAG = (7 << 3) | 2  # ModelProto.graph
_GRAPH_INITIALIZER_TAG = (5 << 3) | 2  # GraphProto.initializer
_TENSOR_RAW_DATA_TAG = (9 << 3) | 2  # TensorProto.raw_data


@dataclass(frozen=True)
class Place:
    """Where the bytes of a streamed initializer lie in the model's own file."""

    name: str
    data_type: int  # onnx.TensorProto.DataType
    dims: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Written:
    """A model written aside, with the data file beside it if there is one."""

    file: Path
    data: Path | None
    places: tuple[Place, ...] = ()

    def move_to(self, out: Path) -> None:
        """Put it in place, data first."""
        try:
            if self.data is not None:
                self.data.replace(out.with_name(self.data.name))
            self.file.replace(out)
        except OSError as error:
            raise UserError(f"cannot write: {error.strerror}", where=str(out)) from error


def write_model(model: ir.Model, file: Path) -> Written:
    """Write ``model`` to ``file``: the same bytes for the same model.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    try:
        if onnx_file.weight_bytes(model) > onnx_file.INLINE_LIMIT_BYTES:
            onnx_file.save(model, file, external=True)
            return Written(file, file.with_name(file.name + ".data"))
        with file.open("wb") as stream:
            places = _stream(model, stream)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}", where=str(file)) from error
    return Written(file, None, places)


def skeleton(model: ir.Model) -> bytes:
    """``model`` without the initializers from ``STREAMED_BYTES`` on: small, and enough to reason about it."""
    proto = _without(model, _large(model))
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def read_skeleton(content: bytes) -> ir.Model:
    """The model that ``skeleton`` wrote; its large initializers are values without a producer."""
    return serde.deserialize_model(onnx.ModelProto.FromString(content))


@contextmanager
def mapped(written: Written, without_weights: bytes) -> Iterator[Path]:
    """A file that holds the same model, its large weights as external data: they lie in the written file.

    A runtime maps external data into memory, where it would parse and copy what lies in the message.

    Args:
        written: what ``write_model`` returned, before it is moved.
        without_weights: the model's ``skeleton``.
    """
    if not written.places:
        yield written.file
        return
    proto = onnx.ModelProto.FromString(without_weights)
    for place in written.places:
        tensor = proto.graph.initializer.add(name=place.name, data_type=place.data_type, dims=place.dims)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        told = {"location": written.file.name, "offset": place.offset, "length": place.nbytes}
        for key, value in told.items():
            tensor.external_data.add(key=key, value=str(value))
    view = written.file.with_name(f"{written.file.name}.mapped")
    try:
        view.write_bytes(proto.SerializeToString(deterministic=True))
        yield view
    finally:
        view.unlink(missing_ok=True)


def _large(model: ir.Model) -> dict[str, ir.Value]:
    return {
        name: value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.nbytes >= STREAMED_BYTES
        and value.const_value.dtype.bitwidth >= 8
        and value.const_value.dtype != ir.DataType.STRING
    }


def _stream(model: ir.Model, stream: BinaryIO) -> tuple[Place, ...]:
    """Write the model; where the large initializers came to lie."""
    places: list[Place] = []
    large = _large(model)
    proto = _without(model, large)
    graph = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    heads = [(_tensor_head(value), value) for value in large.values()]
    entries = [(_tensor_size(head, value), head, value) for head, value in heads]
    total = len(graph) + sum(1 + len(varint(size)) + size for size, _, _ in entries)
    stream.write(proto.SerializeToString(deterministic=True))
    stream.write(bytes([_MODEL_GRAPH_TAG]) + varint(total))
    stream.write(graph)
    for size, head, value in entries:
        stream.write(bytes([_GRAPH_INITIALIZER_TAG]) + varint(size) + head)
        assert value.const_value is not None
        nbytes = value.const_value.nbytes
        stream.write(bytes([_TENSOR_RAW_DATA_TAG]) + varint(nbytes))
        dims = tuple(int(d) for d in value.const_value.shape.numpy())
        places.append(Place(value.name or "", int(value.const_value.dtype), dims, stream.tell(), nbytes))
        stream.write(raw_data(value.const_value))  # under no name, which would hold it beside the next
    return tuple(places)


def _without(model: ir.Model, large: dict[str, ir.Value]) -> onnx.ModelProto:
    """``model`` as a proto that lacks the initializers ``large``."""
    graph = model.graph
    try:
        for name in large:
            del graph.initializers[name]
        return serde.serialize_model(model)
    finally:
        kept = dict(graph.initializers)
        graph.initializers.clear()
        for value in [*large.values(), *kept.values()]:
            graph.initializers.add(value)


def _tensor_head(value: ir.Value) -> bytes:
    """A TensorProto without its data."""
    tensor = value.const_value
    assert tensor is not None
    proto = onnx.TensorProto(
        name=value.name, data_type=int(tensor.dtype), dims=[int(d) for d in tensor.shape.numpy()]
    )
    head: bytes = proto.SerializeToString(deterministic=True)
    return head


def _tensor_size(head: bytes, value: ir.Value) -> int:
    assert value.const_value is not None
    nbytes = value.const_value.nbytes
    return len(head) + 1 + len(varint(nbytes)) + nbytes
