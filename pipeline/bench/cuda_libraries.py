"""Find a GPU and its libraries before a session is made: a session that cannot, falls back to the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pipeline.bench.host import gpus

DEVICE_FILES: Final = (Path("/dev/nvidia0"), Path("/dev/nvidiactl"), Path("/dev/dxg"))  # the last: WSL


def why_no_gpu() -> str:
    """In words, why this machine has no NVIDIA GPU that could be used; empty where it may have one."""
    if any(file.exists() for file in DEVICE_FILES) or gpus():
        return ""
    return "no NVIDIA GPU on this machine: no device file of its driver, and nvidia-smi lists none"


def preload(ort: Any) -> None:
    """Load the CUDA and cuDNN libraries that came as Python packages, where the system has none."""
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
