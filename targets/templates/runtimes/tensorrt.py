"""Builds this bundle's engine with TensorRT's ONNX parser, keeps it in a cache, and runs it on the GPU.

The cache is $XDG_CACHE_HOME/fairlead/tensorrt (by default under ~/.cache). An engine's name holds the digest
of the model and its options, the GPU, and TensorRT's version: another of these is another engine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt  # type: ignore[import-not-found, import-untyped, unused-ignore]
from cuda.bindings import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    runtime as cudart,
)

VERSION = f"tensorrt {trt.__version__}"
LOGGER = trt.Logger(trt.Logger.ERROR)


def checked(answer: Any) -> Any:
    """What a CUDA call returned beside its status."""
    status, *values = answer
    if int(status) != 0:
        raise RuntimeError(f"CUDA: {status}")
    return values[0] if len(values) == 1 else values


def device() -> str:
    """Name and compute capability of the GPU.

    Raises:
        ImportError: there is none; the word callers know for a missing runtime.
    """
    status, count = cudart.cudaGetDeviceCount()
    if int(status) != 0 or count == 0:
        raise ImportError("no NVIDIA GPU or driver on this machine")
    properties = checked(cudart.cudaGetDeviceProperties(0))
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return f"{name} sm{properties.major}{properties.minor}"


def engine_file(folder: Path, options: dict[str, Any]) -> Path:
    """Where the engine for this model, these options, this GPU and this TensorRT is kept."""
    digest = hashlib.sha256(json.dumps([options["precision"], options["profiles"]]).encode())
    for file in sorted(folder.glob("model.onnx*")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    name = re.sub(r"[^A-Za-z0-9.]+", "_", f"{device()} trt{trt.__version__}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fairlead" / "tensorrt"
    return cache / f"{digest.hexdigest()[:32]}-{name}.engine"


def build(folder: Path, options: dict[str, Any], file: Path) -> None:
    """Parse model.onnx and build the engine; timings are kept beside it for the next build."""
    builder = trt.Builder(LOGGER)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, LOGGER)
    if not parser.parse_from_file(str(folder / "model.onnx")):
        errors = "; ".join(str(parser.get_error(k)) for k in range(parser.num_errors))
        raise RuntimeError(f"TensorRT's parser refuses the model: {errors}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options["workspace_mib"] << 20)
    if options["precision"] == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    elif options["precision"] == "fp16":
        config.set_flag(trt.BuilderFlag.FP16)
    if options["profiles"]:
        profile = builder.create_optimization_profile()
        for name, shapes in options["profiles"].items():
            profile.set_shape(name, shapes["min"], shapes["opt"], shapes["max"])
        config.add_optimization_profile(profile)
    file.parent.mkdir(parents=True, exist_ok=True)
    timing = file.with_suffix(".timing")
    cache = config.create_timing_cache(timing.read_bytes() if timing.exists() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("TensorRT built no engine; run with a verbose logger for the reason")
    timing.write_bytes(config.get_timing_cache().serialize())
    aside = file.with_suffix(f".{os.getpid()}")
    aside.write_bytes(plan)
    aside.replace(file)


def load(folder: Path, manifest: dict[str, Any], _model: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from input name → array to output name → array.

    Raises:
        ImportError: no GPU.
    """
    options = manifest["artefact"]["options"]
    globals()["VERSION"] = f"tensorrt {trt.__version__} on {device()}"
    file = engine_file(folder, options)
    if not file.exists():
        build(folder, options, file)
    runtime = trt.Runtime(LOGGER)
    engine = runtime.deserialize_cuda_engine(file.read_bytes())
    if engine is None:
        raise RuntimeError(f"{file} is no engine for this machine; delete it")
    context = engine.create_execution_context()
    stream = checked(cudart.cudaStreamCreate())
    names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
    outputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT]

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        hosts = {name: np.asarray(array, order="C") for name, array in feeds.items()}
        for name, array in hosts.items():
            if not context.set_input_shape(name, array.shape):
                raise RuntimeError(f"{name}: shape {array.shape} is outside the engine's profile")
        for name in outputs:
            shape, dtype = tuple(context.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name))
            hosts[name] = np.empty(shape, dtype)
        kinds = cudart.cudaMemcpyKind
        pointers = {name: checked(cudart.cudaMalloc(max(a.nbytes, 1))) for name, a in hosts.items()}
        try:
            for name, array in hosts.items():
                if name in feeds:
                    up = kinds.cudaMemcpyHostToDevice
                    checked(cudart.cudaMemcpy(pointers[name], array.ctypes.data, array.nbytes, up))
                context.set_tensor_address(name, int(pointers[name]))
            if not context.execute_async_v3(int(stream)):
                raise RuntimeError("the engine did not run")
            checked(cudart.cudaStreamSynchronize(stream))
            for name in outputs:
                down = kinds.cudaMemcpyDeviceToHost
                checked(cudart.cudaMemcpy(hosts[name].ctypes.data, pointers[name], hosts[name].nbytes, down))
        finally:
            for pointer in pointers.values():
                cudart.cudaFree(pointer)
        return {name: hosts[name] for name in outputs}

    return run
