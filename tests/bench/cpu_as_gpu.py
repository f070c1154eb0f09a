"""The worker of a GPU's process on the CPU: the real ONNX Runtime behind the real protocol, without a GPU.

``python -m tests.bench.cpu_as_gpu READ_FD WRITE_FD PARENT_PID``. Every call of the measurement is made for
true, on host memory by its address; only the provider is another, and its options are left out. Times are
those of this machine's CPU, and say nothing of a GPU.
"""

from __future__ import annotations

import sys
import time
import types
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import onnxruntime as ort

from pipeline.bench.cuda import device as cuda_device
from pipeline.bench.cuda.bench import CudaBench
from pipeline.bench.cuda.device import GpuDevice
from pipeline.bench.cuda.nvml import Nvml
from pipeline.bench.cuda.worker import serve


class OnCpu(ort.InferenceSession):  # type: ignore[misc]
    """A session that says it is on the GPU."""

    def __init__(self, model: str, _options: Any, providers: list[Any], **more: Any) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        super().__init__(model, options, providers=["CPUExecutionProvider"], **more)

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider"]


class HostBuffers:
    """Device memory that is host memory."""

    name, l2_bytes, stream_pointer, identity = "a CPU that stands for a GPU", 1 << 20, 0, ""

    def put(self, array: np.ndarray) -> np.ndarray:
        return np.array(array, order="C")

    def pointer(self, held: np.ndarray) -> int:
        return int(held.ctypes.data)

    def pinned(self, array: np.ndarray) -> np.ndarray:
        return np.array(array, order="C")

    def copy_in(self, held: np.ndarray, source: np.ndarray) -> None:
        held[...] = source

    def copy_out(self, held: np.ndarray, result: np.ndarray) -> None:
        result[...] = held

    def by_events_ms(self, work: Any) -> float:
        begin = time.perf_counter()
        work()
        return (time.perf_counter() - begin) * 1e3

    def synchronize(self) -> None:
        pass

    def memory_mib(self) -> tuple[float, float]:
        return 100_000.0, 100_000.0

    def release(self) -> None:
        pass


class CpuDevice(GpuDevice):
    def __init__(self) -> None:
        self._buffers = HostBuffers()
        self._nvml = Nvml(self._buffers.identity)
        self._ort = types.SimpleNamespace(
            InferenceSession=OnCpu,
            SessionOptions=ort.SessionOptions,
            RunOptions=ort.RunOptions,
            get_available_providers=lambda: ["CUDAExecutionProvider"],
        )


if __name__ == "__main__":
    cuda_device.PLACE = ("cpu", 0)  # type: ignore[misc]
    reads, writes = (int(a) for a in sys.argv[1:3])
    serve(CudaBench(CpuDevice()), Connection(reads, writable=False), Connection(writes, readable=False))
