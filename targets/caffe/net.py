"""A Caffe net as records, and its two files: ``.prototxt`` (layers) and ``.caffemodel`` (with weights)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from google.protobuf import text_format

from optim.contract import Array
from optim.errors import UnsupportedModelError
from targets.caffe.schema import message

LIMIT_BYTES: Final = 2**31 - 1  # of a protobuf message; both readers stop there
_LAYER, _BLOBS, _SHAPE, _DATA = 100, 7, 7, 5  # field numbers
_DELIMITED: Final = 2  # wire type

Options = Mapping[str, object]


@dataclass(frozen=True)
class Layer:
    """One layer: ``parameters`` maps e.g. ``pooling_param`` to its fields; blobs are float32."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    parameters: Mapping[str, Options] = field(default_factory=dict)
    blobs: tuple[Array, ...] = ()


@dataclass(frozen=True)
class Net:
    """Layers in order; the inputs are layers of type Input."""

    name: str
    layers: tuple[Layer, ...]

    @property
    def weight_bytes(self) -> int:
        return sum(4 * blob.size for layer in self.layers for blob in layer.blobs)


def write_prototxt(net: Net, file: Path) -> None:
    """The description in protobuf's text format."""
    written = message("NetParameter")(name=net.name)
    for layer in net.layers:
        written.layer.append(_described(layer))
    file.write_text(text_format.MessageToString(written), encoding="utf-8")


def write_caffemodel(net: Net, file: Path) -> None:
    """Description and weights in protobuf's wire format, streamed blob by blob.

    Raises:
        UnsupportedModelError: the weights do not fit into one protobuf message.
    """
    if net.weight_bytes > LIMIT_BYTES:
        raise UnsupportedModelError(
            f"{net.weight_bytes} bytes of weights",
            where=net.name,
            expected=f"at most {LIMIT_BYTES}, which is all that a .caffemodel holds",
        )
    with file.open("wb") as stream:
        stream.write(message("NetParameter")(name=net.name).SerializeToString())
        for layer in net.layers:
            described = _described(layer).SerializeToString()
            heads = [_blob_head(blob) for blob in layer.blobs]
            sizes = [len(head) + 4 * blob.size for head, blob in zip(heads, layer.blobs, strict=True)]
            total = len(described) + sum(len(_tag(_BLOBS, size)) + size for size in sizes)
            stream.write(_tag(_LAYER, total) + described)
            for head, size, blob in zip(heads, sizes, layer.blobs, strict=True):
                stream.write(_tag(_BLOBS, size) + head)
                _write_floats(stream, blob)


def _described(layer: Layer) -> Any:
    written = message("LayerParameter")(
        name=layer.name, type=layer.type, bottom=layer.bottoms, top=layer.tops
    )
    for group, options in layer.parameters.items():
        part = getattr(written, group)
        part.SetInParent()
        for key, value in options.items():
            if key == "shape":  # of Input and Reshape: the only nested message
                _set_shapes(part, value)
            elif isinstance(value, (list, tuple)):
                getattr(part, key).extend(value)
            elif isinstance(value, str):
                setattr(part, key, part.DESCRIPTOR.fields_by_name[key].enum_type.values_by_name[value].number)
            else:
                setattr(part, key, value)
    return written


def _set_shapes(part: Any, value: object) -> None:
    assert isinstance(value, (list, tuple))
    shape = part.shape.add() if hasattr(part.shape, "add") else part.shape
    shape.dim.extend(value)


def _blob_head(blob: Array) -> bytes:
    """All of a BlobProto but its floats: the shape, and tag and length of the packed data."""
    shape: bytes = message("BlobShape")(dim=blob.shape).SerializeToString()
    return _tag(_SHAPE, len(shape)) + shape + _tag(_DATA, 4 * blob.size)


def _tag(number: int, length: int) -> bytes:
    return _varint(number << 3 | _DELIMITED) + _varint(length)


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _write_floats(stream: BinaryIO, blob: Array) -> None:
    stream.write(np.ascontiguousarray(blob, dtype="<f4").data)


# --- reading -------------------------------------------------------------------------------------


def parameters_by_layer(content: bytes) -> Iterator[tuple[str, tuple[Array, ...]]]:
    """(layer name, blobs) of a .caffemodel's bytes; shapes are the blobs' own."""
    parsed = message("NetParameter").FromString(content)
    for layer in parsed.layer:
        yield layer.name, tuple(array_of(blob) for blob in layer.blobs)


def array_of(blob: Any) -> Array:
    """A BlobProto as float32, with its new (``shape``) or old (num, channels, height, width) shape."""
    flat = np.asarray(blob.data or blob.double_data, dtype=np.float32)
    shape = (
        tuple(blob.shape.dim)
        if blob.HasField("shape")
        else (blob.num, blob.channels, blob.height, blob.width)
    )
    if flat.size != int(np.prod(shape, dtype=np.int64)):
        raise UnsupportedModelError(f"a blob of shape {list(shape)} holds {flat.size} numbers")
    return flat.reshape(shape)
