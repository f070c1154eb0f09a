"""Serialise a model with its large weights written one by one: the same bytes as in one piece.

``serde.serialize_model`` holds all weights in a message, and ``SerializeToString`` once more as bytes. Here
the message is serialised without them, and they are put where protobuf's writers, which go by field numbers,
would have put them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO

import onnx
import onnx_ir as ir
from onnx_ir import serde

from optim.stored_weights import (
    GRAPH_INITIALIZER,
    LARGE_BYTES,
    MODEL_GRAPH,
    TENSOR_RAW_DATA,
    is_streamable,
    raw_data,
)
from optim.wire import Field, delimited, fields


def write_streamed(model: ir.Model, stream: BinaryIO) -> None:
    """Write ``model``, holding one large weight at a time; ``model`` is not changed."""
    large = large_initializers(model)
    with _headless(large):
        content = serde.serialize_model(model).SerializeToString(deterministic=True)
    if not large:
        stream.write(content)
        return
    graph = next(f for f in fields(content, 0, len(content)) if f.number == MODEL_GRAPH)
    cuts = list(_cuts(content, graph, large))
    length = graph.end - graph.value + sum(cut.grown for cut in cuts)
    stream.write(content[: graph.start] + delimited(MODEL_GRAPH, length))
    copied = graph.value
    for cut in cuts:
        stream.write(content[copied : cut.initializer.start])
        stream.write(delimited(GRAPH_INITIALIZER, cut.initializer.end - cut.initializer.value + cut.added))
        stream.write(content[cut.initializer.value : cut.position])
        stream.write(delimited(TENSOR_RAW_DATA, cut.nbytes))
        stream.write(raw_data(cut.tensor))  # under no name, which would hold it beside the next
        copied = cut.position
    stream.write(content[copied:])


def large_initializers(model: ir.Model) -> dict[str, ir.Value]:
    """Initializers of the main graph whose bytes can be written apart from their message, by name.

    A tensor that is still in its protobuf message is not among them: it is written as it came.
    """
    found: dict[str, ir.Value] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or isinstance(tensor, ir.ExternalTensor | serde.TensorProtoTensor):
            continue
        if is_streamable(int(tensor.dtype)) and tensor.nbytes >= LARGE_BYTES:
            found[name] = value
    return found


class _Cut:
    """Where the data of one weight go into the serialised message that lacks them."""

    def __init__(self, tensor: ir.TensorProtocol, initializer: Field, position: int) -> None:
        self.tensor = tensor
        self.initializer = initializer
        self.position = position
        self.nbytes = tensor.nbytes
        self.added = len(delimited(TENSOR_RAW_DATA, self.nbytes)) + self.nbytes
        before = initializer.end - initializer.value
        lengths = [len(delimited(GRAPH_INITIALIZER, size)) for size in (before, before + self.added)]
        self.grown = self.added + lengths[1] - lengths[0]


def _cuts(content: bytes, graph: Field, large: Mapping[str, ir.Value]) -> Iterator[_Cut]:
    for field in fields(content, graph.value, graph.end):
        if field.number != GRAPH_INITIALIZER:
            continue
        name, position = "", field.end
        for inner in fields(content, field.value, field.end):
            if inner.number == _NAME:
                name = content[inner.value : inner.end].decode()
            elif inner.number > TENSOR_RAW_DATA:
                position = min(position, inner.start)
        tensor = large[name].const_value if name in large else None
        if tensor is not None:
            yield _Cut(tensor, field, position)


_NAME = onnx.TensorProto.NAME_FIELD_NUMBER


@contextmanager
def _headless(large: Mapping[str, ir.Value]) -> Iterator[None]:
    """The large weights stand in for themselves without their data."""
    whole = {name: value.const_value for name, value in large.items()}
    try:
        for name, tensor in whole.items():
            large[name].const_value = None if tensor is None else _head(name, tensor)
        yield
    finally:
        for name, tensor in whole.items():
            large[name].const_value = tensor


def _head(name: str, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    dims = [int(size) for size in tensor.shape.numpy()]
    proto = onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=dims)
    if tensor.doc_string:
        proto.doc_string = tensor.doc_string
    head = serde.TensorProtoTensor(proto)
    head.metadata_props.update(tensor.metadata_props)
    return head
