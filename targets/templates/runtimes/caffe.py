"""Loads this bundle's net in OpenCV's dnn module on the CPU.

The net works channels first. Where the model takes or gives its channels last, the array is turned here, as
the manifest's ports say.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

VERSION = f"opencv {cv2.__version__}"


def read(folder: Path, manifest: dict[str, Any], model: str) -> Any:
    """The net, as OpenCV imports it.

    Raises:
        ImportError: this OpenCV has no Caffe importer.
    """
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise ImportError(f"OpenCV {cv2.__version__} has no Caffe importer; OpenCV 4.14 has")
    net = cv2.dnn.readNetFromCaffe(str((folder / model).with_suffix(".prototxt")), str(folder / model))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
    net.enableFusion(bool(manifest["artefact"]["options"]["fusion"]))
    net.enableWinograd(False)  # it computes convolutions by other sums
    return net


def feed(net: Any, ports: list[dict[str, Any]], feeds: dict[str, Any]) -> None:
    """Set every input of the net."""
    for port in ports:
        turned = np.ascontiguousarray(np.transpose(feeds[port["tensor"]], port["perm"]))
        net.setInput(turned, port["blob"])


def load(folder: Path, manifest: dict[str, Any], model: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from input name → array to output name → array."""
    ports = manifest["artefact"]["options"]["ports"]
    net = read(folder, manifest, model)

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        feed(net, ports["inputs"], feeds)
        results = net.forward([port["blob"] for port in ports["outputs"]])
        return {
            port["tensor"]: np.ascontiguousarray(np.transpose(result, np.argsort(port["perm"])))
            for port, result in zip(ports["outputs"], results, strict=True)
        }

    return run
