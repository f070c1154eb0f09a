"""Caffe: ``model.caffemodel`` + ``model.prototxt``, verified with OpenCV's importer.

The dialect is the one that OpenCV 4 and BVLC Caffe both run. OpenCV 5 has no importer any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from optim import model as onnx_file
from optim.errors import UnsupportedModelError, UserError
from targets.caffe import layer_checks
from targets.caffe.lower import lower, unsupported_nodes
from targets.caffe.net import Layer, write_caffemodel, write_prototxt
from targets.child import ChildSession, export_in_child, signature_facts
from targets.contract import Artefact, Availability, Session
from targets.layer_table import OPTION, TargetLayer, recorded
from targets.layer_trace import load_trace
from targets.options import TargetOptions, parse_options
from targets.runtime_probe import prove

MODEL_FILE: Final = "model.caffemodel"
DESCRIPTION_FILE: Final = "model.prototxt"


class CaffeOptions(TargetOptions):
    """Options of the ``caffe`` target."""

    fusion: bool = True
    """Let OpenCV fuse layers when it runs the net; the files do not depend on it."""
    layer_checks: bool = False
    """Compare every layer with the source's on the first examples; tables and pictures go into the bundle."""


@dataclass(frozen=True)
class Caffe:
    """A Caffe net, run by OpenCV's dnn module."""

    @property
    def name(self) -> str:
        return "caffe"

    @property
    def summary(self) -> str:
        return "Caffe prototxt and caffemodel for BVLC Caffe and OpenCV, run by OpenCV's importer"

    def available(self) -> Availability:
        """Builds and runs a one-node model."""
        return prove(self, "opencv-python-headless", "fairlead[caffe]")

    def unsupported(self, model: Path) -> tuple[str, ...]:
        return unsupported_nodes(onnx_file.load(model))

    def build(self, model: Path, out: Path, options: Mapping[str, object]) -> Artefact:
        """Write ``model.caffemodel`` and ``model.prototxt``; a free batch is written as 1.

        Raises:
            UnsupportedModelError: a node has no exact counterpart in the common dialect.
            UserError: layers are to be compared, and the source's are not there.
        """
        chosen = parse_options(CaffeOptions, self.name, options)
        trace = load_trace(out)
        if chosen.layer_checks and trace is None:
            raise UserError(
                "the source's layers are not at hand",
                where="targets.caffe.options.layer_checks",
                hint="`fairlead run` has them; `fairlead export` starts from an ONNX file",
            )
        facts = export_in_child("targets.caffe.target:export", model, out, chosen.model_dump())
        places = {key: facts.pop(key) for key in ("names", "blobs", "weights")}
        told = {**chosen.model_dump(), "signature": signature_facts(model), **facts}
        files = [MODEL_FILE, DESCRIPTION_FILE]
        if trace is not None:
            layer_checks.prepare(out, trace, places)
            given = {"folder": str(out), "artefact": {**told, "runnable_model": MODEL_FILE}}
            found = export_in_child("targets.caffe.layer_checks:export", model, out, given)
            told |= {"layers_compared": found["layer_checks"], "predictions": found["predictions"]}
            files += [*layer_checks.FILES, *found["pictures"]]
        return Artefact(tuple(files), told, requires={"numpy": "", "opencv-python-headless": ">=4.14,<5"})

    def open(self, folder: Path, artefact: Artefact) -> Session:
        return ChildSession(self.name, folder, artefact)


def export(model: Path, out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """In the child: lower the graph and write both files.

    Raises:
        UnsupportedModelError: as ``lower``.
    """
    del options  # they concern the runtime only
    loaded = onnx_file.load(model)
    lowered = lower(loaded)
    if not lowered.net.layers:
        raise UnsupportedModelError("the graph is empty", where=str(model))
    write_prototxt(lowered.net, out / DESCRIPTION_FILE)
    write_caffemodel(lowered.net, out / MODEL_FILE)
    return {
        "layers": len(lowered.net.layers),
        OPTION: recorded(
            _told(layer, lowered.named[layer.name])
            for layer in lowered.net.layers
            if layer.name in lowered.named
        ),
        "ports": {
            side: [{**asdict(port), "perm": list(port.perm)} for port in ports]
            for side, ports in (("inputs", lowered.inputs), ("outputs", lowered.outputs))
        },
        "names": [layer.name for layer in lowered.net.layers if layer.type != "Input"],
        "blobs": {
            tensor: {"blob": held.name, "perm": list(held.perm)} for tensor, held in lowered.held.items()
        },
        "weights": {
            tensor: {"layer": one.layer, "shape": list(one.shape), "turned": one.turned}
            for tensor, one in lowered.weights.items()
        },
    }


def _told(layer: Layer, tensor: str) -> TargetLayer:
    """A layer in Caffe's words."""
    pads = {
        key: value
        for options in layer.parameters.values()
        for key, value in options.items()
        if key == "pad" or key.startswith("pad_")
    }
    return TargetLayer(
        layer.name,
        layer.type,
        tensor,
        tuple((f"blobs[{k}]", tuple(blob.shape)) for k, blob in enumerate(layer.blobs)),
        ", ".join(f"{key} {value}" for key, value in pads.items()),
    )
