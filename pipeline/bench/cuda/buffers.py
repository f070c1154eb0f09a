"""Device memory, streams and events behind ``device.py``: by CuPy, or by PyTorch where that is what the
host has.

Not yet run on a GPU by this project's own tests: they use fake buffers of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from optim.contract import Array
from optim.errors import MissingRuntimeError
from pipeline.bench.cuda.libraries import why_no_gpu


class Buffers(Protocol):
    """What a session needs of the device. What lies there is opaque; ``pointer`` gives its address."""

    @property
    def name(self) -> str: ...

    @property
    def l2_bytes(self) -> int: ...

    @property
    def stream_pointer(self) -> int: ...

    @property
    def identity(self) -> str:
        """What NVML finds this GPU by: its UUID or PCI bus id; empty where it is not told."""
        ...

    def put(self, array: Array) -> Any:
        """A copy on the device."""
        ...

    def pointer(self, held: Any) -> int: ...

    def pinned(self, array: Array) -> Array:
        """A copy in page-locked host memory."""
        ...

    def copy_in(self, held: Any, source: Array) -> None:
        """Host to device, on the stream."""
        ...

    def copy_out(self, held: Any, result: Array) -> None:
        """Device to host, on the stream."""
        ...

    def by_events_ms(self, work: Callable[[], None]) -> float:
        """Milliseconds between two events on the stream round ``work``; waits for the second."""
        ...

    def synchronize(self) -> None: ...

    def memory_mib(self) -> tuple[float, float]:
        """Free on the device, and in all; whoever holds the rest."""
        ...

    def release(self) -> None:
        """Give cached memory back."""
        ...


def find_buffers() -> Buffers:
    """CuPy's, else PyTorch's.

    Raises:
        MissingRuntimeError: there is no GPU, neither package is here, or no driver works.
    """
    if none := why_no_gpu():
        raise MissingRuntimeError(none)
    why = []
    for make in (CupyBuffers, TorchBuffers):
        try:
            found = make()
            require_copies(found)
        except MissingRuntimeError as error:
            why.append(error.what)
        except Exception as error:  # a package that is there and does not fit the driver
            why.append(f"{make.__name__}: {type(error).__name__}: {error}")
        else:
            return found
    raise MissingRuntimeError(
        f"neither CuPy nor PyTorch can use the GPU: {'; '.join(why)}", hint="pip install 'fairlead[gpu]'"
    )


def require_copies(buffers: Buffers) -> None:
    """Bring an array to the device and back, both ways of memory, and time it.

    Raises:
        MissingRuntimeError: something else came back.
    """
    sent = np.arange(1000, dtype=np.float32).reshape(10, 100)
    held = buffers.put(np.zeros_like(sent))
    buffers.synchronize()  # what is put goes by another stream than what is copied in
    for landing in (np.empty_like(sent), buffers.pinned(np.zeros_like(sent))):
        buffers.by_events_ms(lambda: buffers.copy_in(held, sent))
        buffers.copy_out(held, landing)
        buffers.synchronize()
        if not np.array_equal(landing, sent):
            raise MissingRuntimeError(f"{type(buffers).__name__}: an array came back changed")


class CupyBuffers:
    """GPU 0 through CuPy."""

    def __init__(self) -> None:
        try:
            import cupy
        except Exception as error:  # a CUDA library that is not found raises other classes too
            raise MissingRuntimeError(str(error), hint="pip install 'fairlead[gpu]'") from error
        try:
            self._properties = cupy.cuda.runtime.getDeviceProperties(0)
        except Exception as error:  # CuPy's own error classes need a driver to import
            raise MissingRuntimeError(f"no usable GPU: {error}") from error
        self._cupy = cupy
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._begin, self._end = cupy.cuda.Event(), cupy.cuda.Event()

    @property
    def name(self) -> str:
        return str(self._properties["name"].decode())

    @property
    def l2_bytes(self) -> int:
        size = self._properties.get("l2CacheSize")
        return int(self._cupy.cuda.Device(0).attributes["L2CacheSize"] if size is None else size)

    @property
    def stream_pointer(self) -> int:
        return int(self._stream.ptr)

    @property
    def identity(self) -> str:
        return str(self._cupy.cuda.runtime.deviceGetPCIBusId(0))

    def put(self, array: Array) -> Any:
        return self._cupy.asarray(array)

    def pointer(self, held: Any) -> int:
        return int(held.data.ptr)

    def pinned(self, array: Array) -> Array:
        memory = self._cupy.cuda.alloc_pinned_memory(array.nbytes)
        view = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
        view[...] = array
        return view

    def copy_in(self, held: Any, source: Array) -> None:
        held.set(source, stream=self._stream)

    def copy_out(self, held: Any, result: Array) -> None:
        held.get(stream=self._stream, out=result, blocking=False)

    def by_events_ms(self, work: Callable[[], None]) -> float:
        self._begin.record(self._stream)
        work()
        self._end.record(self._stream)
        self._end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(self._begin, self._end))

    def synchronize(self) -> None:
        self._cupy.cuda.runtime.deviceSynchronize()

    def memory_mib(self) -> tuple[float, float]:
        free, total = self._cupy.cuda.runtime.memGetInfo()
        return free / 2**20, total / 2**20

    def release(self) -> None:
        self._cupy.get_default_memory_pool().free_all_blocks()


class TorchBuffers:
    """GPU 0 through PyTorch, which a bare GPU host often has and CuPy not."""

    def __init__(self) -> None:
        try:
            import torch
        except ImportError as error:
            raise MissingRuntimeError(str(error), hint="pip install torch") from error
        if not torch.cuda.is_available():
            raise MissingRuntimeError("PyTorch finds no usable GPU")
        self._torch = torch
        self._stream = torch.cuda.Stream()
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    @property
    def name(self) -> str:
        return str(self._torch.cuda.get_device_name(0))

    @property
    def l2_bytes(self) -> int:
        return int(self._torch.cuda.get_device_properties(0).L2_cache_size)

    @property
    def stream_pointer(self) -> int:
        return int(self._stream.cuda_stream)

    @property
    def identity(self) -> str:
        uuid = getattr(self._torch.cuda.get_device_properties(0), "uuid", None)
        return "" if uuid is None else f"GPU-{uuid}"

    def put(self, array: Array) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(array)).cuda()

    def pointer(self, held: Any) -> int:
        return int(held.data_ptr())

    def pinned(self, array: Array) -> Array:
        held = self._torch.from_numpy(np.ascontiguousarray(array)).pin_memory()
        return np.asarray(held.numpy())  # shares the page-locked memory, and keeps it

    def copy_in(self, held: Any, source: Array) -> None:
        with self._torch.cuda.stream(self._stream):
            held.copy_(self._torch.from_numpy(source), non_blocking=True)

    def copy_out(self, held: Any, result: Array) -> None:
        with self._torch.cuda.stream(self._stream):
            self._torch.from_numpy(result).copy_(held, non_blocking=True)

    def by_events_ms(self, work: Callable[[], None]) -> float:
        self._begin.record(self._stream)
        work()
        self._end.record(self._stream)
        self._end.synchronize()
        return float(self._begin.elapsed_time(self._end))

    def synchronize(self) -> None:
        self._torch.cuda.synchronize()

    def memory_mib(self) -> tuple[float, float]:
        free, total = self._torch.cuda.mem_get_info()
        return free / 2**20, total / 2**20

    def release(self) -> None:
        self._torch.cuda.empty_cache()
