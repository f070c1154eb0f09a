"""Reads a Caffe net: the layers of a ``.prototxt`` in test phase, with the blobs of a ``.caffemodel``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from optim.contract import Array
from optim.errors import UnsupportedModelError, UserError
from targets.caffe.net import array_of
from targets.caffe.schema import message

_TEST = 1  # of the enum Phase


@dataclass(frozen=True)
class ReadLayer:
    """A layer as the description has it; ``description`` is its LayerParameter message."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    description: Any
    blobs: tuple[Array, ...] = ()


@dataclass(frozen=True)
class ReadNet:
    """Inputs with their shapes, and the layers of the test phase in order."""

    name: str
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    layers: tuple[ReadLayer, ...] = ()


def read_net(prototxt: Path, caffemodel: Path | None) -> ReadNet:
    """The net of a description, with its weights where there are some.

    Raises:
        UserError: a file is missing or damaged, or holds no net.
        UnsupportedModelError: the description is in the format from before Caffe 1.0.
    """
    net = message("NetParameter")()
    try:
        text = prototxt.read_text(encoding="utf-8")
        text_format.Parse(text, net, allow_unknown_field=True, allow_unknown_extension=True)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(prototxt)) from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(
            f"no Caffe description: {error}", where=str(prototxt), expected="a net in protobuf text"
        ) from error
    if not net.layer:
        if "layers" in text:
            raise UnsupportedModelError(
                "holds `layers`, the format from before Caffe 1.0",
                where=str(prototxt),
                hint="bring it up to date with Caffe's upgrade_net_proto_text",
            )
        raise UserError("holds no layers", where=str(prototxt), expected="a Caffe net")
    weights = {} if caffemodel is None else read_weights(caffemodel)
    layers = [_layer(one, weights) for one in net.layer if _in_test(one)]
    inputs = _inputs(net, prototxt) | {
        top: tuple(shape.dim)
        for layer in layers
        if layer.type == "Input"
        for top, shape in zip(layer.tops, layer.description.input_param.shape, strict=False)
    }
    kept = tuple(layer for layer in layers if layer.type != "Input")
    return ReadNet(net.name or prototxt.stem, inputs, kept)


def read_weights(caffemodel: Path) -> dict[str, tuple[Array, ...]]:
    """Blobs by layer name.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        parsed = message("NetParameter").FromString(caffemodel.read_bytes())
        return {layer.name: tuple(array_of(blob) for blob in layer.blobs) for layer in parsed.layer}
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(caffemodel)) from error
    except (DecodeError, UnsupportedModelError) as error:
        raise UserError(
            f"damaged: {error}", where=str(caffemodel), expected="a complete .caffemodel"
        ) from error


def _inputs(net: Any, file: Path) -> dict[str, tuple[int, ...]]:
    shapes = [tuple(shape.dim) for shape in net.input_shape]
    if not shapes and net.input_dim:
        dims = list(net.input_dim)
        shapes = [tuple(dims[k : k + 4]) for k in range(0, len(dims), 4)]
    if len(shapes) != len(net.input):
        raise UserError(
            f"{len(net.input)} inputs and {len(shapes)} shapes", where=str(file), expected="a shape for each"
        )
    return dict(zip(net.input, shapes, strict=True))


def _layer(one: Any, weights: dict[str, tuple[Array, ...]]) -> ReadLayer:
    return ReadLayer(one.name, one.type, tuple(one.bottom), tuple(one.top), one, weights.get(one.name, ()))


def _in_test(layer: Any) -> bool:
    """Whether the net has the layer in test phase."""

    def matches(rule: Any) -> bool:
        return not rule.HasField("phase") or int(rule.phase) == _TEST

    if layer.include:
        return any(matches(rule) for rule in layer.include)
    return not any(matches(rule) for rule in layer.exclude)
