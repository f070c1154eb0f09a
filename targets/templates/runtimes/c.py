"""Compiles this bundle's C source with warnings as errors, loads it, and calls it."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def compiler() -> str:
    """A C compiler: $CC, or one of the usual names on PATH.

    Raises:
        ImportError: there is none; the word callers know for a missing runtime.
    """
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise ImportError("no C compiler on this machine (apt install gcc)")


CC = compiler()
VERSION = subprocess.run([CC, "--version"], capture_output=True, text=True, check=False).stdout.splitlines()[
    0
]


def unwritten(tensor: dict[str, Any]) -> float:
    """A value that no right answer is full of."""
    return float("nan") if np.dtype(tensor["dtype"]).kind == "f" else np.iinfo(tensor["dtype"]).max


def load(folder: Path, manifest: dict[str, Any], model: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from input name → array to output name → array; batches are run one by one."""
    options = manifest["artefact"]["options"]
    signature = options["signature"]
    work = tempfile.mkdtemp(prefix="model-c-")
    atexit.register(shutil.rmtree, work, True)
    library = Path(work) / "model.so"
    command = [CC, "-std=c11", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library)]
    done = subprocess.run([*command, str(folder / model), "-lm"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"it does not compile: {done.stderr[:1500]}")
    loaded = ctypes.CDLL(str(library))
    if options["loads_weights"]:
        loaded.model_load.restype = ctypes.c_bool
        if not loaded.model_load(os.fsencode(folder / "model.bin")):
            raise RuntimeError("model.bin cannot be read")
    loaded.model.restype = None

    def one(feeds: dict[str, Any]) -> dict[str, Any]:
        arrays = [np.ascontiguousarray(feeds[t["name"]]) for t in signature["inputs"]]
        results = {
            # What the function leaves unwritten, because memory ran out, must not pass for an answer.
            t["name"]: np.full([d if isinstance(d, int) else 1 for d in t["shape"]], unwritten(t), t["dtype"])
            for t in signature["outputs"]
        }
        loaded.model(*(a.ctypes.data_as(ctypes.c_void_p) for a in (*arrays, *results.values())))
        return results

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        fixed = [t["shape"] and isinstance(t["shape"][0], int) for t in signature["inputs"]]
        if all(fixed):
            return one(feeds)
        count = max(len(array) for array in feeds.values())
        parts = [one({name: array[k : k + 1] for name, array in feeds.items()}) for k in range(count)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return run
