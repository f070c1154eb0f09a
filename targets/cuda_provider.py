"""ONNX Runtime's CUDA provider: its options stated in full, and the environment that they need.

What is not stated follows the runtime's own defaults, and those change: TF32 is on, and a node without a CUDA
kernel runs on the CPU without a word.
"""

from __future__ import annotations

from typing import Final, Protocol

CUDA_PROVIDER: Final = "CUDAExecutionProvider"
CPU_PROVIDER: Final = "CPUExecutionProvider"
NO_FALLBACK: Final = "session.disable_cpu_ep_fallback"  # a node that only the CPU can run is then an error
TF32_OVERRIDE: Final = "NVIDIA_TF32_OVERRIDE"  # "0": no TF32 in the whole process; read once, by each library


class CudaChoice(Protocol):
    """What moves numbers or time on the GPU."""

    @property
    def tf32(self) -> bool: ...

    @property
    def layout(self) -> str:
        """``NCHW`` or ``NHWC``."""
        ...

    @property
    def graph(self) -> bool:
        """Replay a captured CUDA graph."""
        ...


def provider_options(settings: CudaChoice, stream: int | None = None) -> dict[str, str]:
    """Options of ONNX Runtime's CUDA provider; every one that moves numbers or time is stated."""
    options = {
        "device_id": "0",
        "use_tf32": "1" if settings.tf32 else "0",
        "prefer_nhwc": "1" if settings.layout == "NHWC" else "0",
        "enable_cuda_graph": "1" if settings.graph else "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",  # DEFAULT is a slow fallback
        "cudnn_conv_use_max_workspace": "1",
    }
    return options if stream is None else {**options, "user_compute_stream": str(stream)}


def session_entries(*, cpu_fallback: bool) -> dict[str, str]:
    """Entries of the session's configuration: unless ``cpu_fallback``, a node not on the GPU is an error."""
    return {} if cpu_fallback else {NO_FALLBACK: "1"}


def process_environment(*, tf32: bool) -> dict[str, str]:
    """Variables to set before a CUDA library is loaded.

    ``use_tf32=0`` alone is not enough: a plan that fails in float32 is retried with TF32, in silence.
    """
    return {} if tf32 else {TF32_OVERRIDE: "0"}
