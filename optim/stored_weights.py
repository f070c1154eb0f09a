"""Large weights that stay in the model's own file: read one at a time, when they are asked for.

A parsed protobuf message holds all weights in memory, and every load of the same file holds them again. Here
the message is parsed without them: their bytes are found by their place in the file, which stays open.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from optim.contract import Array
from optim.errors import UserError
from optim.wire import Field, delimited, fields

LARGE_BYTES = 1 << 20
"""Initializers from this size on stay in the file."""

MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW_DATA = 7, 5, 9  # field numbers in onnx.proto
_TENSOR_NAME = 8
# dims, data_type, name, raw_data, doc_string, metadata_props: a tensor with any other field is parsed whole.
_PLAIN_TENSOR = frozenset({1, 2, _TENSOR_NAME, TENSOR_RAW_DATA, 12, 16})
_LONGEST_MESSAGE = (1 << 31) - 1
_READ_BYTES = 1 << 26  # of one system call
_WIDENED_ELEMENTS = 1 << 18  # converted at once: what is read and what is written stay in the cache


class StoredFile:
    """A file held open: it can be read on when another file has taken its name."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        weakref.finalize(self, os.close, self._descriptor)
        self._state = _state(os.fstat(self._descriptor))

    @property
    def in_place(self) -> bool:
        """Whether the path still names this file, for a runtime that opens it itself."""
        try:
            return _state(self.path.stat()) == self._state
        except OSError:
            return False

    def map(self) -> mmap.mmap:
        """The whole file, read-only."""
        return mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)

    def read_into(self, array: Array, offset: int) -> None:
        """Fill a contiguous array with the bytes from ``offset`` on.

        Raises:
            UserError: the file was written to after it was opened.
        """
        view = array.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done : done + _READ_BYTES]], offset + done)
            if count == 0:
                break
            done += count
        if done < len(view) or _state(os.fstat(self._descriptor)) != self._state:
            raise UserError(
                "the file was changed while it was in use",
                where=str(self.path),
                hint="write to another file and rename it; then run again",
            )


class StoredTensor(ir.LazyTensor):
    """A weight in a file. Every access reads it anew; its memory is given back when the caller drops it."""

    __slots__ = ("file", "offset")

    def __init__(self, file: StoredFile, offset: int, proto: onnx.TensorProto) -> None:
        dtype, dims = ir.DataType(proto.data_type), tuple(proto.dims)
        super().__init__(
            partial(_read, file, offset, dtype, dims),
            dtype=dtype,
            shape=ir.Shape(dims, frozen=True),
            name=proto.name,
            doc_string=proto.doc_string or None,
            metadata_props={entry.key: entry.value for entry in proto.metadata_props} or None,
        )
        self.file = file
        self.offset = offset

    def astype(self, dtype: type[np.floating]) -> Array:
        """The content in another type, without a copy of all of it in its own."""
        out = np.empty(self.shape.numpy(), dtype)
        flat, own = out.reshape(-1), _numpy_type(self.dtype)
        block = np.empty(min(flat.size, _WIDENED_ELEMENTS), own)
        for start in range(0, flat.size, _WIDENED_ELEMENTS):
            part = block[: flat.size - start]
            self.file.read_into(part, self.offset + start * own.itemsize)
            flat[start : start + part.size] = part
        return out


@dataclass(frozen=True)
class Parsed:
    """A message without its large weights, and where these lie."""

    proto: onnx.ModelProto
    file: StoredFile
    places: Mapping[str, Field]  # raw data by initializer

    def attach(self, model: ir.Model) -> None:
        """Give the weights to ``model``, which was made of ``proto``; none of them is read."""
        heads = {t.name: t for t in self.proto.graph.initializer if t.name in self.places}
        for name, place in self.places.items():
            value = model.graph.initializers[name]
            value.const_value = StoredTensor(self.file, place.value, heads[name])


def parse(path: Path) -> Parsed | None:
    """The model in ``path`` without its large weights.

    None where there are none, where the file is not laid out as protobuf's own writers do it (it has to be
    parsed as a whole then, or is damaged), and where the system cannot read at an offset (Windows).

    Raises:
        OSError: the file cannot be read.
        google.protobuf.message.DecodeError: what is left of the message is damaged.
    """
    if not hasattr(os, "preadv") or not LARGE_BYTES <= path.stat().st_size <= _LONGEST_MESSAGE:
        return None
    file = StoredFile(path)
    with file.map() as view:
        try:
            return _parsed(file, view)
        except ValueError:
            return None


def _parsed(file: StoredFile, view: mmap.mmap) -> Parsed | None:
    graphs = [field for field in fields(view, 0, len(view)) if field.number == MODEL_GRAPH]
    if len(graphs) != 1 or graphs[0].kind != 2:
        return None
    graph = graphs[0]
    places: dict[str, Field] = {}
    pieces: list[bytes] = []
    copied = graph.value
    for field in fields(view, graph.value, graph.end):
        if field.number != GRAPH_INITIALIZER or field.end - field.value < LARGE_BYTES:
            continue
        found = _raw_data(view, field)
        if found is None:
            continue
        head, raw = found
        if head.name in places:
            return None
        places[head.name] = raw
        left = view[field.value : raw.start] + view[raw.end : field.end]
        pieces += [view[copied : field.start], delimited(GRAPH_INITIALIZER, len(left)), left]
        copied = field.end
    if not places:
        return None
    pieces.append(view[copied : graph.end])
    length = sum(map(len, pieces))
    whole = [view[: graph.start], delimited(MODEL_GRAPH, length), *pieces, view[graph.end :]]
    proto = onnx.ModelProto.FromString(b"".join(whole))
    names = [tensor.name for tensor in proto.graph.initializer]
    return Parsed(proto, file, places) if len(set(names)) == len(names) else None


def _raw_data(view: mmap.mmap, field: Field) -> tuple[onnx.TensorProto, Field] | None:
    """A tensor without its data, and the field that holds them; None where it is not plain and whole."""
    inner = list(fields(view, field.value, field.end))
    raw = [one for one in inner if one.number == TENSOR_RAW_DATA]
    if len(raw) != 1 or raw[0].kind != 2 or not _PLAIN_TENSOR.issuperset(one.number for one in inner):
        return None
    head = onnx.TensorProto.FromString(view[field.value : raw[0].start] + view[raw[0].end : field.end])
    if not head.name or not is_streamable(head.data_type) or any(size < 0 for size in head.dims):
        return None
    itemsize = _numpy_type(ir.DataType(head.data_type)).itemsize
    return (head, raw[0]) if raw[0].end - raw[0].value == math.prod(head.dims) * itemsize else None


def is_streamable(data_type: int) -> bool:
    """Whether the elements of an ``onnx.TensorProto.DataType`` lie one after the other in whole bytes."""
    try:
        dtype = ir.DataType(data_type)
        bits = dtype.bitwidth
    except (ValueError, TypeError):
        return False
    return dtype != ir.DataType.STRING and bits >= 8


def raw_data(tensor: ir.TensorProtocol) -> memoryview:
    """The content of the field ``raw_data``: row-major, little-endian."""
    array = np.ascontiguousarray(tensor.numpy())
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.reshape(-1).view(np.uint8).data


def _read(file: StoredFile, offset: int, dtype: ir.DataType, dims: tuple[int, ...]) -> ir.TensorProtocol:
    array = np.empty(dims, _numpy_type(dtype))
    file.read_into(array, offset)
    return ir.Tensor(array, dtype=dtype)


def _numpy_type(dtype: ir.DataType) -> np.dtype:
    return np.dtype(dtype.numpy()).newbyteorder("<")


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
