"""Caffe nets: a .prototxt in the format of Caffe 1.0 with the .caffemodel beside it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from onnx_ir.passes.common import RemoveUnusedNodesPass

from optim.errors import UserError
from pipeline.sources.caffe_graph import graph_of
from pipeline.sources.caffe_session import CaffeSession, framework
from pipeline.sources.caffe_values import Graph
from pipeline.sources.contract import Converted, ConvertRequest, Progress, SourceLayer, no_progress
from pipeline.sources.onnx_signature import apply_request
from pipeline.sources.onnx_upgrade import upgrade
from targets.caffe.read import ReadNet, read_net
from targets.contract import Session

# Blobs by layer type, as Caffe orders them.
_WEIGHTS = {"BatchNorm": ("mean", "variance", "factor"), "Scale": ("scale", "bias"), "PReLU": ("slope",)}


@dataclass(frozen=True)
class CaffeSource:
    """A Caffe net in test phase."""

    def convert(self, request: ConvertRequest, progress: Progress = no_progress) -> Converted:
        """Read description and weights, and write each layer in ONNX.

        Raises:
            UserError: a file is missing or damaged, weights are missing, or a given shape does not fit.
            UnsupportedModelError: a layer's type is not read; names the layer.
        """
        started = time.perf_counter()
        progress("read", 0.0)
        net = read_net(*files_of(Path(request.model)))
        shapes = _shapes(net, request)
        loaded = time.perf_counter()
        progress("convert", 0.4)
        model, graph = graph_of(net, shapes)
        layers = _layers(net, graph)
        frozen = apply_request(model, replace(request, inputs={}))
        RemoveUnusedNodesPass()(model)
        upgrade(model, request.opset)
        progress("convert", 1.0)
        seconds = {"load": loaded - started, "convert": time.perf_counter() - loaded}
        return Converted(model=model, framework=framework(), frozen=frozen, layers=layers, seconds=seconds)

    def open(self, request: ConvertRequest) -> Session:
        """The net in OpenCV's importer, which shares no code with the conversion."""
        prototxt, caffemodel = files_of(Path(request.model))
        net = read_net(prototxt, caffemodel)
        model, _ = graph_of(net, _shapes(net, request))
        apply_request(model, replace(request, inputs={}))
        return CaffeSession(prototxt, caffemodel, model)


def files_of(path: Path) -> tuple[Path, Path | None]:
    """Description and weights of the net that ``path``, one of the two, names.

    Raises:
        UserError: there is no description.
    """
    if path.suffix != ".caffemodel":
        weights = path.with_suffix(".caffemodel")
        return path, weights if weights.is_file() else None
    description = path.with_suffix(".prototxt")
    if not description.is_file():
        raise UserError(
            "no description beside it", where=str(path), expected=f"{description.name} in the same folder"
        )
    return description, path


def _shapes(net: ReadNet, request: ConvertRequest) -> dict[str, tuple[int, ...]]:
    if unknown := sorted(set(request.inputs) - set(net.inputs)):
        raise UserError(
            f"the net has no input {', '.join(unknown)}", where="inputs", expected=", ".join(net.inputs)
        )
    shapes = {name: tuple(shape) for name, shape in request.inputs.items() if shape is not None}
    for name, shape in shapes.items():
        if any(d < 1 for d in shape) or len(shape) != len(net.inputs[name]):
            raise UserError(
                f"shape {list(shape)} for input {name}",
                where="inputs",
                expected=f"{len(net.inputs[name])} fixed sizes: Caffe's are",
            )
    return shapes


def _layers(net: ReadNet, graph: Graph) -> tuple[SourceLayer, ...]:
    """Layers that compute something, with the ONNX tensor of their first top."""
    values = {layer.name: value for value, layer in graph.made_by.items()}
    found = []
    for layer in net.layers:
        if layer.name not in values:
            continue
        names = _WEIGHTS.get(layer.type, ("weight", "bias"))
        weights = tuple(
            (f"{layer.name}/{name}", tuple(blob.shape))
            for name, blob in zip(names, layer.blobs, strict=False)
        )
        shape = graph.shapes[values[layer.name]]
        found.append(
            SourceLayer(
                name=layer.name,
                op=layer.type,
                outputs=(values[layer.name],),
                output_shape=shape,
                parameters=sum(blob.size for blob in layer.blobs),
                weights=weights,
                inbound=tuple(dict.fromkeys(layer.bottoms)),
            )
        )
    return tuple(found)
