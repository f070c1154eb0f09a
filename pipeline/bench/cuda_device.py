"""The real GPU behind ``cuda.py``: ONNX Runtime's CUDA or TensorRT provider on buffers of our own; NVML.

Not yet run on a GPU by this project's own tests: they use a fake runtime and fake buffers. ``find_device``
tries the real ones and says why not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from optim.contract import Array, Feeds, Outputs
from optim.errors import MissingRuntimeError, UnsupportedModelError, UserError
from pipeline.bench.cuda import BoundModel, Device, provider_options
from pipeline.bench.cuda_buffers import Buffers, find_buffers
from pipeline.bench.cuda_libraries import TF32_OVERRIDE, preload
from pipeline.bench.nvml import GpuCondition, Nvml
from pipeline.bench.records import CudaSettings

CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"


def find_device() -> tuple[Device | None, str]:
    """The first GPU, or None and the reason: no package, no driver, no provider."""
    try:
        return GpuDevice(find_buffers()), ""
    except MissingRuntimeError as error:
        return None, error.what


class GpuDevice:
    """GPU 0.

    Raises:
        MissingRuntimeError: onnxruntime-gpu is absent.
    """

    def __init__(self, buffers: Buffers) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MissingRuntimeError(str(error), hint="pip install 'fairlead[gpu]'") from error
        if CUDA not in ort.get_available_providers():
            raise MissingRuntimeError(
                "this ONNX Runtime has no CUDA provider", hint="pip install 'fairlead[gpu]'"
            )
        preload(ort)
        self._ort = ort
        self._buffers = buffers
        self._nvml = Nvml(buffers.identity)

    @property
    def name(self) -> str:
        return self._buffers.name

    @property
    def l2_bytes(self) -> int:
        return self._buffers.l2_bytes

    @property
    def has_tensorrt(self) -> bool:
        return TENSORRT in self._ort.get_available_providers()

    def open(self, model: str, settings: CudaSettings, feeds: Feeds, sets: int) -> BoundModel:
        """A session with ``sets`` copies of ``feeds`` on the device."""
        return GpuModel(self._ort, self._buffers, Path(model), settings, feeds, sets)

    def synchronize(self) -> None:
        """Wait for all work on the device."""
        self._buffers.synchronize()

    def memory_used_mib(self) -> float:
        """Device memory in use, by everyone."""
        return self._buffers.memory_used_mib()

    def energy_mj(self) -> int | None:
        """NVML's energy counter, or None."""
        return self._nvml.energy_mj()

    def condition(self) -> GpuCondition | None:
        """Clock, what holds it down, and who else computes."""
        return self._nvml.condition()

    @property
    def why_unwatched(self) -> str:
        """Why NVML answers nothing."""
        return self._nvml.why_not

    def clock_s(self) -> float:
        """The host's monotonic clock."""
        return time.monotonic()


class GpuModel:
    """One session on its own stream; input sets and outputs live on the device at fixed addresses.

    With CUDA graphs each input set has a graph of its own (``gpu_graph_id``), since a graph keeps
    addresses.

    Raises:
        UserError: TF32 shall be off and the process was not started so.
        UnsupportedModelError: the provider refuses the model; in its own words.
    """

    def __init__(
        self, ort: Any, buffers: Buffers, model: Path, settings: CudaSettings, feeds: Feeds, sets: int
    ) -> None:
        require_tf32(settings, os.environ)
        self._buffers = buffers
        self._graph = settings.graph
        begin = time.perf_counter()
        self._session = _session(ort, model, settings, buffers.stream_pointer)
        self._creation_ms = (time.perf_counter() - begin) * 1e3
        # Other values in each set, so that nothing is the same twice.
        self._hosts = [{n: np.roll(a, k) for n, a in feeds.items()} for k in range(sets)]
        # A session that captures graphs runs on bound buffers only: its outputs' shapes come from another.
        plain = settings.model_copy(update={"graph": False})
        first = _session(ort, model, plain, None) if self._graph else self._session
        begin = time.perf_counter()
        results = first.run(None, self._hosts[0])
        self._first_run_ms = (time.perf_counter() - begin) * 1e3
        del first
        self._landing = [np.empty_like(a) for a in results]  # pageable
        self._results = [buffers.pinned(np.asarray(a)) for a in results]
        self._pinned: list[dict[str, Array]] = []
        self._inputs: list[dict[str, Any]] = []
        self._outputs: list[Any] = []
        self._bindings: list[Any] = []
        if settings.bound:
            self._pinned = [{n: buffers.pinned(a) for n, a in host.items()} for host in self._hosts]
            self._inputs = [{n: buffers.put(a) for n, a in host.items()} for host in self._hosts]
            self._outputs = [buffers.put(np.empty_like(a)) for a in self._results]
            self._bindings = [self._bind(k) for k in range(sets)]
        self._run_options = [self._options(ort, k) for k in range(sets)]
        buffers.synchronize()
        if self._graph:  # its own first run, which captures; the other session's says nothing of it
            begin = time.perf_counter()
            self.enqueue(0)
            buffers.synchronize()
            self._first_run_ms = (time.perf_counter() - begin) * 1e3

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
        gpu_ms = self._buffers.by_events_ms(lambda: self.enqueue(which))
        return gpu_ms, (time.perf_counter() - start) * 1e3

    def plain_run(self, which: int) -> float:
        """``session.run`` on NumPy arrays."""
        start = time.perf_counter()
        self._session.run(None, self._hosts[which])
        return (time.perf_counter() - start) * 1e3

    def copy_in(self, which: int, *, pinned: bool) -> float:
        """Host to device."""
        return self._buffers.by_events_ms(lambda: self._copy_in(which, pinned=pinned))

    def copy_out(self) -> float:
        """Device to pinned host memory."""

        return self._buffers.by_events_ms(lambda: self._copy_out(self._results))

    def end_to_end(self, which: int, *, pinned: bool) -> float:
        """From NumPy arrays to NumPy arrays, on the host's clock."""
        results = self._results if pinned else self._landing
        start = time.perf_counter()
        self._copy_in(which, pinned=pinned)
        self.enqueue(which)
        self._copy_out(results)
        self._buffers.synchronize()
        return (time.perf_counter() - start) * 1e3

    def outputs(self, which: int) -> Outputs:
        """By name, from the same call as is timed."""
        names = [spec.name for spec in self._session.get_outputs()]
        if not self._bindings:
            return dict(zip(names, self._session.run(None, self._hosts[which]), strict=True))
        self.enqueue(which)
        self._copy_out(self._results)
        self._buffers.synchronize()
        return {name: np.array(a) for name, a in zip(names, self._results, strict=True)}

    def close(self) -> None:
        """Release session and buffers."""
        self._bindings.clear()
        del self._session
        self._inputs.clear()
        self._outputs.clear()
        self._buffers.release()

    def _copy_in(self, which: int, *, pinned: bool) -> None:
        sources = self._pinned[which] if pinned else self._hosts[which]
        for name, array in sources.items():
            self._buffers.copy_in(self._inputs[which][name], array)

    def _copy_out(self, results: Sequence[Array]) -> None:
        for held, result in zip(self._outputs, results, strict=True):
            self._buffers.copy_out(held, result)

    def _bind(self, which: int) -> Any:
        binding = self._session.io_binding()
        for name, array in self._hosts[which].items():
            pointer = self._buffers.pointer(self._inputs[which][name])
            binding.bind_input(name, "cuda", 0, array.dtype.type, array.shape, pointer)
        for spec, held, like in zip(self._session.get_outputs(), self._outputs, self._results, strict=True):
            binding.bind_output(
                spec.name, "cuda", 0, like.dtype.type, like.shape, self._buffers.pointer(held)
            )
        return binding

    def _options(self, ort: Any, which: int) -> Any:
        options = ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._graph:
            options.add_run_config_entry("gpu_graph_id", str(which + 1))
        return options


def require_tf32(settings: CudaSettings, environment: Mapping[str, str]) -> None:
    """Refuse fp32 figures that may be TF32's: a plan that fails in fp32 is retried with TF32, silently.

    The CUDA libraries read the override once, so that a process is of one kind: see ``cuda_child``.

    Raises:
        UserError: the override is not set as the settings need it.
    """
    off = environment.get(TF32_OVERRIDE) == "0"
    wanted = not settings.tf32 and not settings.stock and settings.precision == "fp32"
    if wanted and not off:
        raise UserError("TF32 must be off for the whole process", expected=f"{TF32_OVERRIDE}=0 at its start")
    if (settings.tf32 or settings.stock) and off:
        raise UserError("TF32 is off for the whole process", expected=f"no {TF32_OVERRIDE} at its start")


def _session(ort: Any, model: Path, settings: CudaSettings, stream: int | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not settings.stock and not settings.cpu_fallback:  # as installed, nothing is stated
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    wanted = TENSORRT if settings.runtime == "tensorrt" else CUDA
    try:
        session = ort.InferenceSession(str(model), options, providers=_providers(settings, stream))
    except Exception as error:  # the runtime's words are the finding
        raise UnsupportedModelError(f"{wanted} refuses it: {error}", where=str(model)) from error
    if session.get_providers()[0] != wanted:
        raise MissingRuntimeError(f"the session fell back from {wanted}", where=str(model))
    return session


def _providers(settings: CudaSettings, stream: int | None) -> list[Any]:
    if settings.stock:
        return [CUDA]
    cuda = (CUDA, provider_options(settings, stream))
    if settings.runtime != "tensorrt":
        return [cuda]
    tensorrt = {
        "device_id": "0",
        "trt_fp16_enable": "1" if settings.precision == "fp16" else "0",
        "trt_cuda_graph_enable": "1" if settings.graph else "0",
    }
    if stream is not None:
        tensorrt["user_compute_stream"] = str(stream)
    return [(TENSORRT, tensorrt), cuda]
