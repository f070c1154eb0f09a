"""Stands in for ``onnxruntime`` in child processes: the real package, and a CUDA provider that is not there.

The fixture ``fake_cuda`` puts it on PYTHONPATH under that name. What the "GPU" computes comes from a real
session on the CPU; what it was asked for is logged beside this file in ``log.jsonl``, a JSON object a line.
The file ``kind`` says what the machine is like: "works", "absent" (no such provider), "falls back" (no
driver: the session is on the CPU), "raises" (an old driver), "cpu node" (a node without a CUDA kernel),
"wrong" (answers off). For the same inputs once more the "GPU" computes nothing, so that it wins races.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
del sys.modules["onnxruntime"]
import onnxruntime as real  # noqa: E402  (the installed one, now that this file is out of the way)

CUDA = "CUDAExecutionProvider"
MOST_NOTED = 20
NO_FALLBACK = "session.disable_cpu_ep_fallback"
Kept = real.InferenceSession
kind = (HERE / "kind").read_text()


def log(**facts: Any) -> None:
    with (HERE / "log.jsonl").open("a") as file:
        file.write(json.dumps(facts) + "\n")


def entry(options: Any, key: str) -> str:
    try:
        return str(options.get_session_config_entry(key))
    except Exception:  # not set
        return ""


class Held:
    """An array on the device."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @staticmethod
    def ortvalue_from_numpy(array: np.ndarray, device: str, number: int) -> Held:
        assert (device, number) == ("cuda", 0)
        return Held(array.copy())

    @staticmethod
    def ortvalue_from_shape_and_type(shape: list[int], dtype: type, device: str, number: int) -> Held:
        assert (device, number) == ("cuda", 0)
        return Held(np.full(shape, 77, dtype))

    def update_inplace(self, array: np.ndarray) -> None:
        assert array.shape == self.array.shape
        self.array[...] = array

    def numpy(self) -> np.ndarray:
        return self.array.copy()


class RunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


class Binding:
    def __init__(self) -> None:
        self.inputs: dict[str, Held] = {}
        self.outputs: dict[str, Held] = {}

    def bind_ortvalue_input(self, name: str, value: Held) -> None:
        self.inputs[name] = value

    def bind_ortvalue_output(self, name: str, value: Held) -> None:
        self.outputs[name] = value


class OnGpu:
    """A session that says it is on the GPU."""

    def __init__(self, path: str, given: Any, options: dict[str, str]) -> None:
        plain = real.SessionOptions()
        plain.graph_optimization_level = given.graph_optimization_level
        self._inner = Kept(path, plain, providers=["CPUExecutionProvider"])
        self._graph = options.get("enable_cuda_graph") == "1"
        self.get_inputs, self.get_outputs = self._inner.get_inputs, self._inner.get_outputs
        self._given: dict[str, np.ndarray] = {}
        self._found: list[np.ndarray] = []
        self._runs: list[dict[str, str]] = []

    def get_providers(self) -> list[str]:
        return [CUDA, "CPUExecutionProvider"]

    def run(self, names: list[str] | None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert not self._graph, "such a session runs on bound buffers only"
        self._note(run="plain")
        return self._computed(names, feeds)

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: RunOptions) -> None:
        self._note(run="bound", **options.entries)
        names = list(binding.outputs)
        found = self._computed(names, {n: held.array for n, held in binding.inputs.items()})
        for name, array in zip(names, found, strict=True):
            binding.outputs[name].array[...] = array

    def _computed(self, names: list[str] | None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        same = self._given.keys() == feeds.keys()
        if not same or any(not np.array_equal(self._given[n], a) for n, a in feeds.items()):
            self._found = self._inner.run(names, feeds)
            self._given = {name: array.copy() for name, array in feeds.items()}
        return [array + 1 for array in self._found] if kind == "wrong" else [a.copy() for a in self._found]

    def _note(self, **facts: str) -> None:
        self._runs.append(facts)
        if len(self._runs) < MOST_NOTED:  # a race would be all log
            log(**facts)


def inference_session(path: Any, sess_options: Any = None, providers: Any = None, **more: Any) -> Any:
    wanted = [one if isinstance(one, str) else one[0] for one in providers]
    if CUDA not in wanted:
        log(session=wanted, level=sess_options.graph_optimization_level.name)
        return Kept(path, sess_options, providers=providers, **more)
    options = {} if isinstance(providers[0], str) else dict(providers[0][1])
    strict = entry(sess_options, NO_FALLBACK) == "1"
    log(
        session=wanted,
        options=options,
        no_fallback=strict,
        enable_fallback=more.get("enable_fallback"),
        tf32_override=os.environ.get("NVIDIA_TF32_OVERRIDE"),
        threads=sess_options.intra_op_num_threads,
        preloaded=len(preloads),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )
    if kind == "raises":
        raise RuntimeError("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version")
    if strict and kind in ("falls back", "cpu node"):
        raise RuntimeError(
            "This session contains graph nodes that are assigned to the default CPU EP, but "
            "fallback to CPU EP has been explicitly disabled by the user."
        )
    if kind == "falls back":
        return Kept(path, sess_options, providers=["CPUExecutionProvider"])
    return OnGpu(str(path), sess_options, options)


preloads: list[str] = []


def preload_dlls() -> None:
    preloads.append("cuda")
    sys.stdout.write("Failed to load a library\n")  # as the real one does


if kind != "absent":
    real.get_available_providers = lambda: [CUDA, "CPUExecutionProvider"]
real.InferenceSession = inference_session
real.OrtValue = Held
real.RunOptions = RunOptions
real.preload_dlls = preload_dlls
