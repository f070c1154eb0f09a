"""The real GPU behind ``cuda.py``: ONNX Runtime's CUDA provider, CuPy's streams, events and buffers, NVML.

Not yet run on a GPU by this project's own tests: they use a fake device. ``find_device`` tries it and says
why not.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from optim.contract import Feeds
from optim.errors import MissingRuntimeError, UnsupportedModelError
from pipeline.bench.cuda import BoundModel, CudaSettings, Device, provider_options

CUDA = "CUDAExecutionProvider"


def find_device() -> tuple[Device | None, str]:
    """The first GPU, or None and the reason: no package, no driver, no provider."""
    try:
        return CupyDevice(), ""
    except MissingRuntimeError as error:
        return None, str(error)


class CupyDevice:
    """GPU 0.

    Raises:
        MissingRuntimeError: CuPy, onnxruntime-gpu or a working driver is absent.
    """

    def __init__(self) -> None:
        try:
            import cupy
            import onnxruntime as ort
        except ImportError as error:
            raise MissingRuntimeError(str(error), hint="pip install 'fairlead[gpu]'") from error
        if CUDA not in ort.get_available_providers():
            raise MissingRuntimeError(
                "this ONNX Runtime has no CUDA provider", hint="pip install 'fairlead[gpu]'"
            )
        try:
            self._properties = cupy.cuda.runtime.getDeviceProperties(0)
        except Exception as error:  # CuPy's own error classes need a driver to import
            raise MissingRuntimeError(f"no usable GPU: {error}") from error
        self._cupy = cupy
        self._nvml, self._handle = _nvml_handle()

    @property
    def name(self) -> str:
        return str(self._properties["name"].decode())

    @property
    def l2_bytes(self) -> int:
        return int(self._properties["l2CacheSize"])

    def open(self, model: str, settings: CudaSettings, feeds: Feeds, sets: int) -> BoundModel:
        """A session with ``sets`` copies of ``feeds`` on the device."""
        return CupyModel(self._cupy, Path(model), settings, feeds, sets)

    def synchronize(self) -> None:
        """Wait for all work on the device."""
        self._cupy.cuda.runtime.deviceSynchronize()

    def memory_used_mib(self) -> float:
        """Device memory in use, by everyone."""
        free, total = self._cupy.cuda.runtime.memGetInfo()
        return float(total - free) / 2**20

    def energy_mj(self) -> int | None:
        """NVML's energy counter, or None."""
        if self._handle is None:
            return None
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError:
            return None

    def clock_s(self) -> float:
        """The host's monotonic clock."""
        return time.monotonic()


class CupyModel:
    """One session on its own stream; input sets and outputs live on the device at fixed addresses.

    With CUDA graphs each input set has a graph of its own (``gpu_graph_id``), since a graph keeps
    addresses.
    """

    def __init__(self, cupy: Any, model: Path, settings: CudaSettings, feeds: Feeds, sets: int) -> None:
        import onnxruntime as ort

        if not settings.tf32:
            os.environ["NVIDIA_TF32_OVERRIDE"] = (
                "0"  # a plan that fails in fp32 is retried with TF32 silently
            )
        self._cupy = cupy
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._graph = settings.graph
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        begin = time.perf_counter()
        try:
            providers = [(CUDA, provider_options(settings, self._stream.ptr))]
            self._session = ort.InferenceSession(str(model), options, providers=providers)
        except Exception as error:  # the runtime's words are the finding
            raise UnsupportedModelError(f"the CUDA provider refuses it: {error}", where=str(model)) from error
        if self._session.get_providers()[0] != CUDA:
            raise MissingRuntimeError("the session fell back to the CPU", where=str(model))
        self._creation_ms = (time.perf_counter() - begin) * 1e3
        # Other values in each set, so that nothing is the same twice.
        self._hosts = [{n: np.roll(a, k) for n, a in feeds.items()} for k in range(sets)]
        self._pinned = [{n: _pinned(cupy, a) for n, a in host.items()} for host in self._hosts]
        self._inputs = [{n: cupy.asarray(a) for n, a in host.items()} for host in self._hosts]
        begin = time.perf_counter()
        shapes = self._session.run(None, self._hosts[0])
        self._first_run_ms = (time.perf_counter() - begin) * 1e3
        self._outputs = [cupy.empty(a.shape, a.dtype) for a in shapes]
        self._results = [_pinned(cupy, a) for a in shapes]
        self._bindings = [self._bind(inputs) for inputs in self._inputs]
        self._run_options = [self._options(ort, k) for k in range(sets)]
        self._begin, self._end = cupy.cuda.Event(), cupy.cuda.Event()
        cupy.cuda.runtime.deviceSynchronize()

    @property
    def session_creation_ms(self) -> float:
        return self._creation_ms

    @property
    def first_run_ms(self) -> float:
        return self._first_run_ms

    def enqueue(self, which: int) -> None:
        """Start a run on an input set."""
        self._session.run_with_iobinding(self._bindings[which], self._run_options[which])

    def timed_run(self, which: int) -> tuple[float, float]:
        """Milliseconds by events, and on the host until the stream is empty."""
        start = time.perf_counter()
        gpu_ms = self._by_events(lambda: self.enqueue(which))
        return gpu_ms, (time.perf_counter() - start) * 1e3

    def plain_run(self, which: int) -> float:
        """``session.run`` on NumPy arrays."""
        start = time.perf_counter()
        self._session.run(None, self._hosts[which])
        return (time.perf_counter() - start) * 1e3

    def copy_in(self, which: int, *, pinned: bool) -> float:
        """Host to device."""
        sources = self._pinned[which] if pinned else self._hosts[which]

        def copy() -> None:
            for name, array in sources.items():
                self._inputs[which][name].set(array, stream=self._stream)

        return self._by_events(copy)

    def copy_out(self) -> float:
        """Device to pinned host memory."""

        def copy() -> None:
            for array, result in zip(self._outputs, self._results, strict=True):
                array.get(stream=self._stream, out=result, blocking=False)

        return self._by_events(copy)

    def close(self) -> None:
        """Release session and buffers."""
        self._bindings.clear()
        del self._session
        self._inputs.clear()
        self._outputs.clear()
        self._cupy.get_default_memory_pool().free_all_blocks()

    def _by_events(self, work: Any) -> float:
        self._begin.record(self._stream)
        work()
        self._end.record(self._stream)
        self._end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(self._begin, self._end))

    def _bind(self, inputs: dict[str, Any]) -> Any:
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cuda", 0, array.dtype.type, array.shape, array.data.ptr)
        for spec, array in zip(self._session.get_outputs(), self._outputs, strict=True):
            binding.bind_output(spec.name, "cuda", 0, array.dtype.type, array.shape, array.data.ptr)
        return binding

    def _options(self, ort: Any, which: int) -> Any:
        options = ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._graph:
            options.add_run_config_entry("gpu_graph_id", str(which + 1))
        return options


def _pinned(cupy: Any, array: np.ndarray) -> np.ndarray:
    memory = cupy.cuda.alloc_pinned_memory(array.nbytes)
    view = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
    view[...] = array
    return view


def _nvml_handle() -> tuple[Any, Any]:
    try:
        import pynvml
    except ImportError:
        return None, None
    try:
        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError:
        return pynvml, None
