"""Loads this bundle's model in ONNX Runtime, with the session options that its manifest records."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at the import: no device id, no usage events
import onnxruntime as ort

VERSION = f"onnxruntime {ort.__version__}"
LEVELS = {
    "off": "DISABLE_ALL",
    "basic": "ENABLE_BASIC",
    "extended": "ENABLE_EXTENDED",
    "all": "ENABLE_ALL",
}


def processor() -> str:
    """Name of this machine's CPU, as its kernel says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def load(folder: Path, manifest: dict[str, Any], model: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from input name → array to output name → array."""
    chosen = manifest["artefact"]["options"]
    ahead = model == "model.host.onnx"
    if ahead and chosen["host"] != processor():
        raise ImportError(f"it was optimised for {chosen['host']}, this is {processor()}")
    options = ort.SessionOptions()
    level = "ORT_" + LEVELS["off" if ahead else chosen["optimization"]]
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.intra_op_num_threads = chosen["threads"]
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(chosen["allow_spinning"])))
    session = ort.InferenceSession(str(folder / model), options, providers=chosen["providers"])
    names = [output.name for output in session.get_outputs()]

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        arrays = [np.asarray(array) for array in session.run(names, feeds)]
        return dict(zip(names, arrays, strict=True))

    def run_bound(feeds: dict[str, Any]) -> dict[str, Any]:
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name in names:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        return dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))

    return run_bound if chosen.get("io_binding") else run
