"""Loads this bundle's model in OpenVINO's CPU plugin, with the configuration that its manifest records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

VERSION = f"openvino {ov.get_version()}"


def load(folder: Path, manifest: dict[str, Any], model: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from input name → array to output name → array."""
    options = manifest["artefact"]["options"]
    compiled = ov.Core().compile_model(str(folder / model), "CPU", options["config"])
    inputs = [entry["name"] for entry in options["signature"]["inputs"]]
    outputs = [entry["name"] for entry in options["signature"]["outputs"]]

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        results = compiled([np.asarray(feeds[name], order="C") for name in inputs])
        return {name: np.array(results[index]) for index, name in enumerate(outputs)}

    return run
