"""Loads this bundle's model in ONNX Runtime, with the session options that its manifest records.

A bundle for CUDA runs there and nowhere else: where that cannot be, `load` raises, and never goes on with the
CPU in silence. `model.onnx#cpu` asks for the CPU; `model.onnx` alone for the device of the manifest.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import threading
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
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
NEEDED = "expected: onnxruntime-gpu with CUDA and cuDNN, and an NVIDIA GPU with its driver"
NUMPY_NAMES = {"float": "float32", "double": "float64"}  # the runtime's other names are NumPy's own
MOST_SHAPES = 8  # of inputs that keep their buffers on the device
Run = Callable[[dict[str, Any]], dict[str, Any]]


def processor() -> str:
    """Name of this machine's CPU, as its kernel says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def load(folder: Path, manifest: dict[str, Any], model: str) -> Run:
    """A function from input name → array to output name → array.

    Raises:
        ImportError: a runtime is missing: this machine has no CUDA, or another CPU than a file was made for.
    """
    chosen = manifest["artefact"]["options"]
    file, _, device = model.partition("#")
    made_for = chosen.get("device", "cpu")
    if (device or made_for) == "cuda":
        return on_cuda(folder / file, chosen)
    ahead = file == "model.host.onnx"
    if ahead and chosen["host"] != processor():
        raise ImportError(f"it was optimised for {chosen['host']}, this is {processor()}")
    if made_for != "cpu":
        globals()["VERSION"] = f"onnxruntime {ort.__version__} on the CPU"
    level = "off" if ahead else chosen.get("cpu_optimization", chosen["optimization"])
    options = session_options({**chosen, "optimization": level})
    session = ort.InferenceSession(str(folder / file), options, providers=[CPU])
    return bound_on_cpu(session) if chosen.get("io_binding") else plain(session)


def session_options(chosen: dict[str, Any]) -> Any:
    """What the manifest records for any device."""
    options = ort.SessionOptions()
    level = "ORT_" + LEVELS[chosen["optimization"]]
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.intra_op_num_threads = chosen["threads"]
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(chosen["allow_spinning"])))
    return options


def plain(session: Any) -> Run:
    """`session.run` on NumPy arrays."""
    names = [output.name for output in session.get_outputs()]

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        arrays = [np.asarray(array) for array in session.run(names, feeds)]
        return dict(zip(names, arrays))  # noqa: B905  (also for Python 3.9)

    return run


def bound_on_cpu(session: Any) -> Run:
    """Inputs and outputs bound where they are."""
    names = [output.name for output in session.get_outputs()]

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name in names:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        return dict(zip(names, binding.copy_outputs_to_cpu()))  # noqa: B905

    return run


# --- CUDA ----------------------------------------------------------------------------------------


def on_cuda(file: Path, chosen: dict[str, Any]) -> Run:
    """A session on the GPU with exactly the recorded options, its buffers on the device where they say so.

    The environment must be set before a CUDA library is loaded, here or elsewhere in the process: a program
    that uses CUDA before it loads this bundle sets `environment` of the manifest's options by itself.
    """
    os.environ.update(chosen["environment"])
    if CUDA not in ort.get_available_providers():
        held = ", ".join(ort.get_available_providers())
        raise ImportError(f"onnxruntime {ort.__version__} has no CUDA provider, only {held}; {NEEDED}")
    if hasattr(ort, "preload_dlls"):  # CUDA's and cuDNN's libraries, as far as pip brought them
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; the session says
            ort.preload_dlls()
    session = cuda_session(file, chosen)
    globals()["VERSION"] = f"onnxruntime {ort.__version__}, {described(chosen)}"
    return bound_on_device(session, file, chosen) if chosen["io_binding"] else plain(session)


def described(chosen: dict[str, Any]) -> str:
    """The recorded settings in words."""
    tf32 = "TF32" if chosen["tf32"] else "TF32 off"
    if chosen["tf32"] and os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        tf32 = "TF32 off by NVIDIA_TF32_OVERRIDE"
    words = ["CUDA provider", chosen["layout"], tf32]
    words += ["bound buffers"] if chosen["io_binding"] else []
    words += ["CUDA graph"] if chosen["cuda_graph"] else []
    words += ["nodes on the CPU allowed"] if chosen["cpu_fallback"] else []
    return ", ".join(words)


def cuda_session(file: Path, chosen: dict[str, Any], **changed: str) -> Any:
    """A session on the recorded provider, `changed` among its options; it never goes over to the CPU.

    Raises:
        ImportError: CUDA does not start on this machine.
        RuntimeError: it does, but not with these options.
    """
    options = session_options(chosen)
    for key, value in chosen["session_config"].items():
        options.add_session_config_entry(key, value)
    providers = [(name, {**stated, **changed}) for name, stated in chosen["providers"]]
    try:
        session = ort.InferenceSession(str(file), options, providers=providers, enable_fallback=0)
    except Exception as error:  # the runtime's words are the finding
        why = why_not_on_cuda(file, chosen, error)
        if why is error:
            raise
        raise why from error
    if session.get_providers()[0] != CUDA:
        raise ImportError(f"the session fell back to {session.get_providers()[0]}; {NEEDED}")
    return session


def why_not_on_cuda(file: Path, chosen: dict[str, Any], error: Exception) -> Exception:
    """What a refused session means: no CUDA here, a damaged file, or options that do not fit the model."""
    said = " ".join(str(error).split())
    try:
        started = ort.InferenceSession(
            str(file), session_options(chosen), providers=[CUDA], enable_fallback=0
        ).get_providers()[0]
    except Exception as second:
        started, said = CPU, " ".join(str(second).split())
    if started == CUDA:
        return RuntimeError(f"CUDA starts, but not with the recorded options: {said}")
    try:
        ort.InferenceSession(str(file), session_options(chosen), providers=[CPU])
    except Exception:  # nor does the CPU read it
        return error
    return ImportError(f"the CUDA provider does not start: {said}; {NEEDED}")


def bound_on_device(session: Any, file: Path, chosen: dict[str, Any]) -> Run:
    """Copy in, run, copy out; buffers of each shape of inputs stay on the device, and so does its graph."""
    number = int(chosen["providers"][0][1]["device_id"])
    names = [output.name for output in session.get_outputs()]
    kept: dict[Any, tuple[dict[str, Any], list[Any], Callable[[], None]]] = {}
    lock = threading.Lock()  # the buffers are one caller's at a time
    captured = 0

    def bind(feeds: dict[str, Any]) -> tuple[dict[str, Any], list[Any], Callable[[], None]]:
        nonlocal captured
        held = {n: ort.OrtValue.ortvalue_from_numpy(array, "cuda", number) for n, array in feeds.items()}
        landing = [
            ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cuda", number)
            for shape, dtype in output_types(session, file, chosen, feeds)
        ]
        binding = session.io_binding()
        for name, value in held.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(names, landing):  # noqa: B905
            binding.bind_ortvalue_output(name, value)
        options = ort.RunOptions()

        def call() -> None:
            session.run_with_iobinding(binding, options)

        if chosen["cuda_graph"]:
            captured += 1
            options.add_run_config_entry("gpu_graph_id", str(captured))  # a graph keeps its addresses
            call()  # captures; what follows replays
        return held, landing, call

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        arrays = {name: np.asarray(array, order="C") for name, array in feeds.items()}
        key = tuple((name, array.shape, array.dtype.str) for name, array in sorted(arrays.items()))
        with lock:
            if key not in kept:
                while len(kept) >= MOST_SHAPES:
                    del kept[next(iter(kept))]
                kept[key] = bind(arrays)
            held, landing, call = kept[key]
            for name, array in arrays.items():
                held[name].update_inplace(array)
            call()
            return dict(zip(names, [value.numpy() for value in landing]))  # noqa: B905

    return run


def output_types(session: Any, file: Path, chosen: dict[str, Any], feeds: dict[str, Any]) -> list[Any]:
    """Shape and dtype of each output: as the model states them, else as a run gives them."""
    stated = [(output.shape, output.type) for output in session.get_outputs()]
    if all(isinstance(size, int) for shape, _ in stated for size in shape):
        kinds = [kind[len("tensor(") : -1] for _, kind in stated]
        dtypes = [np.dtype(NUMPY_NAMES.get(kind, kind)).type for kind in kinds]
        return list(zip([list(shape) for shape, _ in stated], dtypes))  # noqa: B905
    if chosen["cuda_graph"]:  # such a session runs on buffers only
        session = cuda_session(file, chosen, enable_cuda_graph="0")
    return [(list(np.shape(array)), np.asarray(array).dtype.type) for array in session.run(None, feeds)]
