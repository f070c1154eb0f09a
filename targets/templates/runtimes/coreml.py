"""Loads this bundle's model in Core ML, on the CPU, whose arithmetic is the most exact."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

if platform.system() != "Darwin":
    raise ImportError("Core ML runs on macOS only")
import coremltools as ct

VERSION = f"coremltools {ct.__version__} on macOS"


def load(folder: Path, manifest: dict[str, Any], _model: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from input name → array to output name → array; batches are run one by one."""
    signature = manifest["artefact"]["options"]["signature"]
    loaded = ct.models.MLModel(str(folder / "model.mlpackage"), compute_units=ct.ComputeUnit.CPU_ONLY)

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        parts = [one({name: array[k : k + 1] for name, array in feeds.items()}) for k in range(batch(feeds))]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def one(feeds: dict[str, Any]) -> dict[str, Any]:
        found = loaded.predict({t["coreml_name"]: feeds[t["name"]] for t in signature["inputs"]})
        return {t["name"]: np.asarray(found[t["coreml_name"]], t["dtype"]) for t in signature["outputs"]}

    def batch(feeds: dict[str, Any]) -> int:
        return max(len(array) for array in feeds.values())

    return run
