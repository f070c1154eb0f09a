"""The layers of an artefact in the target's own words, and the ONNX tensors that they compute.

A target that writes its own layers records them as it builds (``artefact.options["layer_table"]``). An ONNX
file and OpenVINO's IR say themselves what they hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from optim.facts import constant_tensor_of, label
from optim.model import load
from targets.contract import Artefact
from targets.padding_text import padding_of

OPTION: Final = "layer_table"
# OpenVINO's operators that hold kernels; ahead of a bias their results have no names.
_KERNELS: Final = frozenset(
    {
        "Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData",
        "MatMul",
    }
)  # fmt: skip
_NO_LAYERS: Final = frozenset({"Const", "Parameter", "Result"})


@dataclass(frozen=True)
class TargetLayer:
    """One layer over there. ``tensor``: the ONNX tensor it computes, alone or as the last of several."""

    name: str
    op: str  # the target's word for it
    tensor: str
    weights: tuple[tuple[str, tuple[int, ...]], ...] = ()  # (name, shape) as the target stores them
    padding: str = ""

    @staticmethod
    def of(told: Mapping[str, Any]) -> TargetLayer:
        """What ``recorded`` wrote."""
        weights = tuple((str(name), tuple(int(n) for n in shape)) for name, shape in told["weights"])
        name, op, tensor, padding = (str(told[key]) for key in ("name", "op", "tensor", "padding"))
        return TargetLayer(name, op, tensor, weights, padding)


def recorded(layers: Iterable[TargetLayer]) -> list[dict[str, object]]:
    """Layers as plain JSON values, for ``artefact.options``."""
    return [
        {**asdict(layer), "weights": [[name, list(shape)] for name, shape in layer.weights]}
        for layer in layers
    ]


def layers_of(folder: Path, artefact: Artefact) -> tuple[TargetLayer, ...]:
    """The layers of an artefact in ``folder``; empty where its format names none."""
    told = artefact.options.get(OPTION)
    if isinstance(told, list):
        return tuple(TargetLayer.of(one) for one in told)
    first = next((name for name in artefact.files if name.endswith((".onnx", ".xml"))), "")
    if first.endswith(".onnx"):
        return onnx_layers(load(folder / first))
    return openvino_layers(folder / first) if first else ()


def with_target_layers(
    layers: Iterable[Mapping[str, object]], table: Iterable[TargetLayer]
) -> tuple[dict[str, object], ...]:
    """Source layers, each with the target's layers that carry it under ``target``.

    A source layer names the ONNX tensors of its nodes under ``tensors``.
    """
    by_tensor: dict[str, list[TargetLayer]] = {}
    for one in table:
        by_tensor.setdefault(one.tensor, []).append(one)
    found = []
    for layer in layers:
        tensors = layer.get("tensors")
        names = [str(name) for name in tensors] if isinstance(tensors, list | tuple) else []
        carrying = [one for name in names for one in by_tensor.get(name, ())]
        found.append({**layer, "target": recorded(carrying)})
    return tuple(found)


def onnx_layers(model: ir.Model) -> tuple[TargetLayer, ...]:
    """The nodes of an ONNX graph."""
    return tuple(
        TargetLayer(
            name=label(node),
            op=node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}:{node.op_type}",
            tensor=node.outputs[0].name or "",
            weights=_constants(node),
            padding=padding_of(node),
        )
        for node in model.graph
        if node.outputs
    )


def _constants(node: ir.Node) -> tuple[tuple[str, tuple[int, ...]], ...]:
    held = ((value, constant_tensor_of(value)) for value in node.inputs if value is not None)
    return tuple(
        (value.name or "", tuple(tensor.shape.numpy()))
        for value, tensor in held
        if tensor is not None and tensor.dtype.is_floating_point()
    )


def openvino_layers(file: Path) -> tuple[TargetLayer, ...]:
    """Layers of an IR file that we wrote: an output port names the ONNX tensors it is.

    A convolution or product ahead of its bias has no name: it belongs to the tensor computed next.
    """
    from xml.etree import ElementTree

    root = ElementTree.parse(file).getroot()
    layers = {layer.get("id", ""): layer for layer in root.iterfind("./layers/layer")}
    readers: dict[str, list[str]] = {}
    sources: dict[str, list[str]] = {}
    for edge in root.iterfind("./edges/edge"):
        source, reader = edge.get("from-layer", ""), edge.get("to-layer", "")
        readers.setdefault(source, []).append(reader)
        sources.setdefault(reader, []).append(source)
    found = []
    for key, layer in layers.items():
        if layer.get("type") in _NO_LAYERS:
            continue
        constants = [layers[source] for source in sources.get(key, []) if _is_weight(layers[source])]
        weights = tuple((one.get("name", ""), _constant_shape(one)) for one in constants)
        name, op, padding = layer.get("name", ""), layer.get("type", ""), _openvino_padding(layer)
        weighted = op in _KERNELS
        tensors = _openvino_tensors(key, layers, readers, weighted=weighted)
        found += [TargetLayer(name, op, tensor, weights, padding) for tensor in tensors]
    return tuple(found)


def _openvino_tensors(
    key: str, layers: Mapping[str, Any], readers: Mapping[str, list[str]], *, weighted: bool
) -> list[str]:
    """The ONNX tensors of a layer; of one without names that holds weights, those computed next from it."""
    waiting, seen = [key], {key}
    while waiting:
        here = waiting.pop(0)
        ports = layers[here].iterfind("./output/port")
        names = [name for port in ports for name in port.get("names", "").split(",") if name]
        if names or not weighted:
            return names
        following = [reader for reader in readers.get(here, []) if reader not in seen]
        seen.update(following)
        waiting += following
    return []


def _is_weight(layer: Any) -> bool:
    data = layer.find("data")
    return layer.get("type") == "Const" and data is not None and data.get("element_type", "").startswith("f")


def _constant_shape(layer: Any) -> tuple[int, ...]:
    data = layer.find("data")
    text = "" if data is None else data.get("shape", "")
    return tuple(int(n) for n in text.split(",") if n.strip())


def _openvino_padding(layer: Any) -> str:
    data = layer.find("data")
    begin, end = ("", "") if data is None else (data.get("pads_begin", ""), data.get("pads_end", ""))
    return f"pads_begin {begin}; pads_end {end}" if begin or end else ""
