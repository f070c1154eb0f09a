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

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        for entry, detail in zip(signature["inputs"], inputs, strict=True):
            array = np.asarray(feeds[entry["name"]])
            if tuple(detail["shape"]) != array.shape:
                interpreter.resize_tensor_input(detail["index"], array.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        return {
            entry["name"]: interpreter.get_tensor(detail["index"]).copy()
            for entry, detail in zip(signature["outputs"], outputs, strict=True)
        }

    return run


def _number(detail: dict[str, Any]) -> tuple[int, ...]:
    """The numbers in a tensor's name, the last first: StatefulPartitionedCall:1, serving_default_input2:0."""
    return tuple(int(digits) for digits in reversed(re.findall(r"\d+", detail["name"])))
