"""Loads this bundle's model in ONNX Runtime, with the session options that its manifest records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

VERSION = f"onnxruntime {ort.__version__}"
LEVELS = {
    "off": "DISABLE_ALL",
    "basic": "ENABLE_BASIC",
    "extended": "ENABLE_EXTENDED",
    "all": "ENABLE_ALL",
}


def load(folder: Path, manifest: dict[str, Any], model: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from input name → array to output name → array."""
    chosen = manifest["artefact"]["options"]
    options = ort.SessionOptions()
    level = "ORT_" + LEVELS[chosen["optimization"]]
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.intra_op_num_threads = chosen["threads"]
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(chosen["allow_spinning"])))
    session = ort.InferenceSession(str(folder / model), options, providers=chosen["providers"])
    names = [output.name for output in session.get_outputs()]

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        arrays = [np.asarray(array) for array in session.run(names, feeds)]
        return dict(zip(names, arrays, strict=True))

    return run
