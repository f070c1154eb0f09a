"""Find a GPU and its libraries before a session is made: a session that cannot, falls back to the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

PROVIDER: Final = "CUDAExecutionProvider"
TF32_OVERRIDE: Final = "NVIDIA_TF32_OVERRIDE"  # "0": no TF32 in the whole process; read once, by each library
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


def preload(ort: Any) -> None:
    """Load the CUDA and cuDNN libraries that came as Python packages, where the system has none."""
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
