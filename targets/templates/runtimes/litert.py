"""Loads this bundle's model in LiteRT's interpreter, one thread, reference-exact kernels."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

VERSION = f"ai-edge-litert {version('ai-edge-litert')}"


def load(folder: Path, manifest: dict[str, Any], model: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from input name → array to output name → array."""
    signature = manifest["artefact"]["options"]["signature"]
    interpreter = Interpreter(model_path=str(folder / model), num_threads=1)
    interpreter.allocate_tensors()
    # The converter names its arguments input0, input1, ... and output_0, output_1, ...; it may reorder them.
    inputs = sorted(interpreter.get_input_details(), key=_number)
    outputs = sorted(interpreter.get_output_details(), key=_number)

    def one(feeds: dict[str, Any]) -> dict[str, Any]:
        for entry, detail in zip(signature["inputs"], inputs, strict=True):
            interpreter.set_tensor(detail["index"], np.asarray(feeds[entry["name"]]))
        interpreter.invoke()
        return {
            entry["name"]: interpreter.get_tensor(detail["index"]).copy()
            for entry, detail in zip(signature["outputs"], outputs, strict=True)
        }

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        # The file's batch is fixed; a larger one is answered example by example.
        batches = {len(array) for array in feeds.values() if np.ndim(array)}
        fixed = {int(detail["shape"][0]) for detail in inputs}
        if batches == fixed or fixed != {1} or len(batches) != 1:
            return one(feeds)
        parts = [one({name: array[k : k + 1] for name, array in feeds.items()}) for k in range(batches.pop())]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return run


def _number(detail: dict[str, Any]) -> tuple[int, ...]:
    """The numbers in a tensor's name, the last first: StatefulPartitionedCall:1, serving_default_input2:0."""
    return tuple(int(digits) for digits in reversed(re.findall(r"\d+", detail["name"])))
