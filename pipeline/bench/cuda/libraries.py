"""Find a GPU and its libraries before a session is made: a session that cannot, falls back to the CPU."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Final

PROVIDER: Final = "CUDAExecutionProvider"
TENSORRT_LIBRARIES: Final = ("libnvinfer.so.10", "libnvonnxparser.so.10")  # that the provider is linked to
DEVICE_FILES: Final = (Path("/dev/nvidia0"), Path("/dev/nvidiactl"), Path("/dev/dxg"))  # the last: WSL


def why_no_gpu() -> str:
    """In words, why this machine has no NVIDIA GPU that could be used; empty where it may have one."""
    from pipeline.bench.host import gpus  # psutil with it, which a process that times a model has no use for

    if any(file.exists() for file in DEVICE_FILES) or gpus():
        return ""
    return "no NVIDIA GPU on this machine: no device file of its driver, and nvidia-smi lists none"


def why_no_cuda() -> str:
    """In words, why ONNX Runtime cannot be asked for CUDA here; empty where it may have it."""
    if none := why_no_gpu():
        return none
    try:
        import onnxruntime as ort
    except ImportError as error:
        return f"onnxruntime is not installed: {error}"
    if PROVIDER not in ort.get_available_providers():
        return "this ONNX Runtime has no CUDA provider; fairlead[gpu] brings one that has"
    return ""


def why_no_tensorrt() -> str:
    """In words, why ONNX Runtime's TensorRT provider cannot be loaded; empty where it can.

    The package brings the provider and lists it everywhere; TensorRT itself it does not bring.
    """
    try:
        for library in TENSORRT_LIBRARIES:
            ctypes.CDLL(library)
    except OSError as error:
        return f"TensorRT's libraries are not here: {error}"
    return ""


def preload(ort: Any) -> None:
    """Load the CUDA and cuDNN libraries that came as Python packages, where the system has none."""
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
