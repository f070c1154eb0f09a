"""The real GPU behind ``contract.py``: ONNX Runtime's CUDA or TensorRT provider on buffers of our own; NVML.

Not yet run on a GPU by this project's own tests: they use a fake runtime, and the real one on the CPU, with
fake buffers. ``find_device`` tries the real ones and says why not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from optim.contract import Array, Feeds, Outputs
from optim.errors import MissingRuntimeError, UnsupportedModelError, UserError
from pipeline.bench.cuda.buffers import Buffers, find_buffers
from pipeline.bench.cuda.contract import COPIES, FROM_NUMPY, PLAIN, RUN, Device, Figure, Loaded
from pipeline.bench.cuda.libraries import preload, why_no_tensorrt
from pipeline.bench.cuda.nvml import GpuCondition, Nvml
from pipeline.bench.ort_session import ort_spec
from pipeline.bench.records import CudaSettings
from targets.cuda_provider import NO_FALLBACK, TF32_OVERRIDE, provider_options

CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"
NO_CAPTURE: Final = -1  # a graph id: this run neither captures a graph nor replays one
PLACE: Final = ("cuda", 0)


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
        return TENSORRT in self._ort.get_available_providers() and not why_no_tensorrt()

    def place(self, feeds: Feeds, sets: int) -> GpuInputs:
        """``sets`` copies of ``feeds`` on the device and in page-locked memory."""
        return GpuInputs(self._buffers, feeds, sets)

    def load(self, model: str, settings: CudaSettings) -> Loaded:
        """A session, or the network as ``torch.compile`` makes it."""
        if settings.runtime == "torch.compile":
            from pipeline.bench.cuda.torch_baseline import CompiledNetwork

            return CompiledNetwork(Path(model), settings)
        return GpuSession(self._ort, self._buffers, Path(model), settings)

    def synchronize(self) -> None:
        """Wait for all work on the device."""
        self._buffers.synchronize()

    def memory_mib(self) -> tuple[float, float]:
        return self._buffers.memory_mib()

    @property
    def why_unwatched(self) -> str:
        return self._nvml.why_not

    def energy_mj(self) -> int | None:
        return self._nvml.energy_mj()

    def condition(self, own: Collection[int] = ()) -> GpuCondition | None:
        return self._nvml.condition(own)

    def clock_s(self) -> float:
        return time.perf_counter()


class GpuInputs:
    """Input sets of one batch size; all cells of a process read the same."""

    def __init__(self, buffers: Buffers, feeds: Feeds, sets: int) -> None:
        self.buffers = buffers
        # Other values in each set, so that nothing is the same twice.
        self.hosts = [{n: np.roll(a, k) for n, a in feeds.items()} for k in range(sets)]
        self.pinned = [{n: buffers.pinned(a) for n, a in host.items()} for host in self.hosts]
        self.held = [{n: buffers.put(a) for n, a in host.items()} for host in self.hosts]
        buffers.synchronize()

    @property
    def sets(self) -> int:
        return len(self.hosts)

    def copy_in(self, which: int, *, pinned: bool) -> None:
        """Host to device, on the stream."""
        for name, array in (self.pinned if pinned else self.hosts)[which].items():
            self.buffers.copy_in(self.held[which][name], array)

    def release(self) -> None:
        """Give the memory back; no session may be bound to it any more."""
        for kept in (self.held, self.pinned, self.hosts):
            kept.clear()
        self.buffers.release()


class GpuSession:
    """A session, and its stream.

    Raises:
        MissingRuntimeError: the session fell back to another provider.
        UserError: TF32 must be off for this cell in the whole process, and it was not started so.
        UnsupportedModelError: the provider refuses the model; in its own words.
    """

    def __init__(self, ort: Any, buffers: Buffers, model: Path, settings: CudaSettings) -> None:
        require_tf32(settings, os.environ)
        self.ort, self.buffers, self.settings = ort, buffers, settings
        begin = time.perf_counter()
        self.session = _session(ort, model, settings, buffers.stream_pointer)
        self.creation_ms = (time.perf_counter() - begin) * 1e3
        self._graphs = 0

    def bind(self, inputs: GpuInputs, *, bound: bool) -> PlainRuns | BoundRuns:
        """Runs on these inputs; the first is over when this returns."""
        return BoundRuns(self, inputs) if bound else PlainRuns(self, inputs)

    def next_graph(self) -> int:
        """An id for a graph of its own: a graph keeps the addresses and the shapes it was captured with."""
        self._graphs += 1
        return self._graphs

    def close(self) -> None:
        """Drop the session with all its memory."""
        self.session = None


class PlainRuns:
    """``session.run`` on NumPy arrays."""

    def __init__(self, session: GpuSession, inputs: GpuInputs) -> None:
        self._session, self._hosts = session.session, list(inputs.hosts)
        begin = time.perf_counter()
        self._session.run(None, self._hosts[0])
        self.first_run_ms = (time.perf_counter() - begin) * 1e3

    @property
    def figures(self) -> Mapping[str, Figure]:
        return {PLAIN: self._timed}

    def enqueue(self, which: int) -> None:
        """Run: this call waits."""
        self._session.run(None, self._hosts[which])

    def _timed(self, which: int) -> tuple[float]:
        start = time.perf_counter()
        self._session.run(None, self._hosts[which])
        return ((time.perf_counter() - start) * 1e3,)

    def outputs(self, which: int) -> Outputs:
        """By name, from the same call as is timed."""
        names = [spec.name for spec in self._session.get_outputs()]
        return dict(zip(names, self._session.run(None, self._hosts[which]), strict=True))

    def release(self) -> None:
        """Drop the arrays."""
        self._session = None
        self._hosts.clear()


class BoundRuns:
    """Runs on buffers that stay on the device.

    The first run lets the runtime place the outputs, which tells their shapes; no graph is captured in it.
    """

    def __init__(self, session: GpuSession, inputs: GpuInputs) -> None:
        self._owner, self._session, self._inputs = session, session.session, inputs
        self._buffers = session.buffers
        specs = [ort_spec(one) for one in self._session.get_outputs()]
        self._names = [spec.name for spec in specs]
        begin = time.perf_counter()
        shapes = self._shapes()
        self._buffers.synchronize()
        self.first_run_ms = (time.perf_counter() - begin) * 1e3
        likes = [np.empty(shape, spec.dtype) for shape, spec in zip(shapes, specs, strict=True)]
        self._landing = likes  # pageable
        self._results = [self._buffers.pinned(a) for a in likes]
        self._held = [self._buffers.put(a) for a in likes]
        self._bindings = [self._bind(k) for k in range(inputs.sets)]
        self._run_options = [
            self._options(session.next_graph() if session.settings.graph else None)
            for _ in range(inputs.sets)
        ]
        self._buffers.synchronize()
        if session.settings.graph:  # its own first run, which captures
            begin = time.perf_counter()
            self.enqueue(0)
            self._buffers.synchronize()
            self.first_run_ms += (time.perf_counter() - begin) * 1e3

    def enqueue(self, which: int) -> None:
        """Start a run on an input set."""
        self._session.run_with_iobinding(self._bindings[which], self._run_options[which])

    @property
    def figures(self) -> Mapping[str, Figure]:
        first, second = FROM_NUMPY
        pageable, pinned, out = COPIES
        return {
            RUN: self._timed_run,
            first: lambda which: self._end_to_end(which, pinned=False),
            second: lambda which: self._end_to_end(which, pinned=True),
            pageable: lambda which: self._by_events(lambda: self._inputs.copy_in(which, pinned=False)),
            pinned: lambda which: self._by_events(lambda: self._inputs.copy_in(which, pinned=True)),
            out: lambda _which: self._by_events(lambda: self._copy_out(self._results)),
        }

    def _timed_run(self, which: int) -> tuple[float, float]:
        """By events, and on the host until the stream is empty."""
        start = time.perf_counter()
        gpu_ms = self._buffers.by_events_ms(lambda: self.enqueue(which))
        return gpu_ms, (time.perf_counter() - start) * 1e3

    def _by_events(self, work: Callable[[], None]) -> tuple[float]:
        return (self._buffers.by_events_ms(work),)

    def _end_to_end(self, which: int, *, pinned: bool) -> tuple[float]:
        """From NumPy arrays to NumPy arrays, on the host's clock."""
        results = self._results if pinned else self._landing
        start = time.perf_counter()
        self._inputs.copy_in(which, pinned=pinned)
        self.enqueue(which)
        self._copy_out(results)
        self._buffers.synchronize()
        return ((time.perf_counter() - start) * 1e3,)

    def outputs(self, which: int) -> Outputs:
        """By name, from the same call as is timed."""
        for result in self._results:
            result.fill(0)
        self.enqueue(which)
        self._copy_out(self._results)
        self._buffers.synchronize()
        return {name: np.array(a) for name, a in zip(self._names, self._results, strict=True)}

    def release(self) -> None:
        """Give the outputs' buffers back."""
        self._buffers.synchronize()
        for kept in (self._bindings, self._held, self._results, self._landing):
            kept.clear()
        self._session = None
        self._buffers.release()

    def _copy_out(self, results: list[Array]) -> None:
        for held, result in zip(self._held, results, strict=True):
            self._buffers.copy_out(held, result)

    def _shapes(self) -> list[tuple[int, ...]]:
        """The outputs' shapes, from a run that captures nothing."""
        binding = self._session.io_binding()
        self._bind_inputs(binding, 0)
        for name in self._names:
            binding.bind_output(name, *PLACE)
        capture = NO_CAPTURE if self._owner.settings.graph else None
        self._session.run_with_iobinding(binding, self._options(capture))
        self._buffers.synchronize()
        return [tuple(value.shape()) for value in binding.get_outputs()]

    def _bind(self, which: int) -> Any:
        binding = self._session.io_binding()
        self._bind_inputs(binding, which)
        for name, held, like in zip(self._names, self._held, self._results, strict=True):
            address = self._buffers.pointer(held)
            binding.bind_output(name, *PLACE, like.dtype.type, list(like.shape), address)
        return binding

    def _bind_inputs(self, binding: Any, which: int) -> None:
        for name, array in self._inputs.hosts[which].items():
            address = self._buffers.pointer(self._inputs.held[which][name])
            binding.bind_input(name, *PLACE, array.dtype.type, list(array.shape), address)

    def _options(self, graph: int | None) -> Any:
        options = self._owner.ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if graph is not None:
            options.add_run_config_entry("gpu_graph_id", str(graph))
        return options


def require_tf32(settings: CudaSettings, environment: Mapping[str, str]) -> None:
    """Refuse fp32 figures that may be TF32's: a plan that fails in fp32 is retried with TF32, silently.

    The CUDA libraries read the override once, so that a process is of one kind: see ``process``.

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
        options.add_session_config_entry(NO_FALLBACK, "1")
    wanted = TENSORRT if settings.runtime == "tensorrt" else CUDA
    providers = _providers(settings, stream)
    try:
        # Left to itself, the package makes a second session on the CPU when the first fails, and says why
        # on stdout only; and a run that fails goes on there.
        session = ort.InferenceSession(str(model), options, providers=providers, enable_fallback=0)
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
