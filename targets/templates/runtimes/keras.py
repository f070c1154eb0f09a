"""Loads this bundle's model: the .keras file in Keras, or the SavedModel in TensorFlow."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

VERSION = f"keras {keras.__version__}, tensorflow {tf.__version__}"


def load(folder: Path, manifest: dict[str, Any], model: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from input name → array to output name → array."""
    signature = manifest["artefact"]["options"]["signature"]
    inputs = [entry["name"] for entry in signature["inputs"]]
    outputs = [entry["name"] for entry in signature["outputs"]]
    if model.endswith(".keras"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
        import keras_layers  # type: ignore[import-not-found] # noqa: F401  (registers the layers)

        loaded = keras.models.load_model(folder / model, compile=False)
    else:
        loaded = tf.saved_model.load(str((folder / model).parent))

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        tensors = [tf.constant(feeds[name]) for name in inputs]
        # The SavedModel's variables live as long as ``loaded`` does; hold on to it, not to its function.
        results = loaded(tensors) if model.endswith(".keras") else loaded.serve(tensors)
        results = results if isinstance(results, (list, tuple)) else [results]
        return {name: np.asarray(result) for name, result in zip(outputs, results, strict=True)}

    return run
