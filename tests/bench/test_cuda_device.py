"""The real device's code on a fake runtime, fake buffers and a fake NVML: no figure of a GPU is here."""

from __future__ import annotations

import os
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optim.contract import Feeds
from optim.errors import MissingRuntimeError, UserError
from pipeline.bench.cuda import device as cuda_device
from pipeline.bench.cuda.buffers import require_copies
from pipeline.bench.cuda.contract import stock
from pipeline.bench.cuda.device import (
    BoundRuns,
    GpuInputs,
    GpuSession,
    _providers,
    _session,
    require_tf32,
)
from pipeline.bench.cuda.nvml import GpuCondition, Nvml
from pipeline.bench.records import CudaSettings
from targets.cuda_provider import TF32_OVERRIDE
from tests.bench.models import chain, feeds


def test_figures_of_fp32_are_refused_where_tf32_may_slip_in() -> None:
    """The CUDA libraries read the override once, so a process is of one kind."""
    require_tf32(CudaSettings(), {TF32_OVERRIDE: "0"})
    require_tf32(CudaSettings(tf32=True), {})
    require_tf32(CudaSettings(precision="fp16"), {})
    with pytest.raises(UserError, match="must be off"):
        require_tf32(CudaSettings(), {})
    for cell in (CudaSettings(tf32=True), CudaSettings(stock=True, bound=False)):
        with pytest.raises(UserError, match="off for the whole process"):
            require_tf32(cell, {TF32_OVERRIDE: "0"})


class Entries:
    """Session or run options: what was set."""

    log_severity_level = 0

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add(self, key: str, value: str) -> None:
        self.entries[key] = value

    add_session_config_entry = add_run_config_entry = add


class FakeOrt:
    """ONNX Runtime as far as a bound session needs it; the network doubles its input."""

    SessionOptions = RunOptions = Entries

    def __init__(self, memory: dict[int, np.ndarray], provider: str = "CUDAExecutionProvider") -> None:
        self.memory, self.provider = memory, provider
        self.sessions: list[FakeSession] = []

    def InferenceSession(
        self, _model: str, options: Entries, providers: list[Any], enable_fallback: int
    ) -> FakeSession:
        assert enable_fallback == 0
        self.sessions.append(FakeSession(self, options, providers))
        return self.sessions[-1]


class FakeSession:
    def __init__(self, ort: FakeOrt, options: Entries, providers: list[Any]) -> None:
        self.ort, self.options, self.providers = ort, options, providers
        self.runs: list[dict[str, str]] = []

    def get_providers(self) -> list[str]:
        return [self.ort.provider]

    def get_outputs(self) -> list[Any]:
        return [types.SimpleNamespace(name="y", type="tensor(float)", shape=[4])]

    def run(self, _names: None, feeds: Feeds) -> list[np.ndarray]:
        return [2 * feeds["x"]]

    def io_binding(self) -> Any:
        session = self

        class Binding:
            def __init__(self) -> None:
                self.ends: dict[str, Any] = {}

            def bind_input(self, name: str, *rest: Any) -> None:
                self.ends[name] = rest[-1]

            def bind_output(self, name: str, *rest: Any) -> None:
                self.ends[name] = rest[-1] if len(rest) > 2 else None

            def get_outputs(self) -> list[Any]:
                read = session.ort.memory[self.ends["x"]]
                return [types.SimpleNamespace(shape=lambda: list(read.shape))]

        return Binding()

    def run_with_iobinding(self, binding: Any, options: Entries) -> None:
        self.runs.append(options.entries)
        if binding.ends["y"] is not None:
            self.ort.memory[binding.ends["y"]][...] = 2 * self.ort.memory[binding.ends["x"]]


class FakeBuffers:
    """Device memory that is host memory under made-up addresses."""

    name, l2_bytes, stream_pointer, identity = "fake", 10_000, 77, ""

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.released = 0

    def put(self, array: np.ndarray) -> int:
        self.memory[len(self.memory)] = array.copy()
        return len(self.memory) - 1

    def pointer(self, held: int) -> int:
        return held

    def pinned(self, array: np.ndarray) -> np.ndarray:
        return array.copy()

    def copy_in(self, held: int, source: np.ndarray) -> None:
        self.memory[held][...] = source

    def copy_out(self, held: int, result: np.ndarray) -> None:
        result[...] = self.memory[held]

    def by_events_ms(self, work: Any) -> float:
        work()
        return 0.25

    def synchronize(self) -> None:
        pass

    def memory_mib(self) -> tuple[float, float]:
        return 1.0, 2.0

    def release(self) -> None:
        self.released += 1


class HostBuffers(FakeBuffers):
    """The same with true addresses, for the real ONNX Runtime on the CPU."""

    def put(self, array: np.ndarray) -> Any:
        return np.ascontiguousarray(array).copy()

    def pointer(self, held: Any) -> int:
        return int(held.ctypes.data)

    def copy_in(self, held: Any, source: np.ndarray) -> None:
        held[...] = source

    def copy_out(self, held: Any, result: np.ndarray) -> None:
        result[...] = held


def test_bound_runs_read_and_write_the_buffers_on_our_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TF32_OVERRIDE, "0")
    buffers = FakeBuffers()
    ort = FakeOrt(buffers.memory)
    given = {"x": np.arange(4, dtype=np.float32)}
    session = GpuSession(ort, buffers, Path("m.onnx"), CudaSettings(graph=True, layout="NHWC"))
    inputs = GpuInputs(buffers, given, 2)
    runs = session.bind(inputs, bound=True)
    assert isinstance(runs, BoundRuns)
    (made,) = ort.sessions  # no other is needed to learn the outputs' shapes
    ((provider, options),) = made.providers
    assert (provider, options["user_compute_stream"], options["enable_cuda_graph"]) == (
        "CUDAExecutionProvider", "77", "1",
    )  # fmt: skip
    assert made.options.entries["session.disable_cpu_ep_fallback"] == "1"
    assert [run["gpu_graph_id"] for run in made.runs] == ["-1", "1"]  # shapes; its own first run captures
    assert runs.figures["run"](1)[0] == 0.25
    assert runs.figures["run"](1)[1] > 0
    assert made.runs[-1] == {"disable_synchronize_execution_providers": "1", "gpu_graph_id": "2"}
    runs.figures["copy_out"](0)
    np.testing.assert_array_equal(runs._results[0], 2 * np.roll(given["x"], 1))
    assert runs.figures["copy_in_pinned"](0) == (0.25,)
    np.testing.assert_array_equal(runs.outputs(1)["y"], 2 * np.roll(given["x"], 1))
    buffers.memory[inputs.held[0]["x"]][...] = 0
    assert runs.figures["end_to_end_pageable"](0)[0] > 0
    np.testing.assert_array_equal(runs._landing[0], 2 * given["x"])  # in, run, and out again
    assert runs.figures["end_to_end_pinned"](1)[0] > 0
    np.testing.assert_array_equal(runs._results[0], 2 * np.roll(given["x"], 1))
    runs.release()
    larger = GpuInputs(buffers, {"x": np.arange(8, dtype=np.float32)}, 2)
    session.bind(larger, bound=True)  # the next batch size, in the same session
    assert [run["gpu_graph_id"] for run in made.runs][-2:] == ["-1", "3"]  # graphs of its own
    session.close()
    assert buffers.released


def test_plain_runs_are_session_run_on_numpy_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TF32_OVERRIDE, raising=False)
    buffers = FakeBuffers()
    ort = FakeOrt(buffers.memory)
    session = GpuSession(ort, buffers, Path("m.onnx"), stock("fp32"))
    runs = session.bind(GpuInputs(buffers, {"x": np.ones(3, np.float32)}, 2), bound=False)
    assert ort.sessions[0].providers == ["CUDAExecutionProvider"]  # as installed: no options
    assert ort.sessions[0].options.entries == {}
    assert list(runs.figures) == ["plain"]
    assert runs.figures["plain"](1)[0] > 0
    np.testing.assert_array_equal(runs.outputs(0)["y"], [2, 2, 2])


@pytest.mark.parametrize("graph", [False, True])
def test_the_real_runtime_takes_the_calls(
    graph: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime itself on the CPU, on host memory by its address: every call, option and type."""
    ort = pytest.importorskip("onnxruntime")
    monkeypatch.setenv(TF32_OVERRIDE, "0")
    monkeypatch.setattr(cuda_device, "PLACE", ("cpu", 0))

    class OnCpu(ort.InferenceSession):  # type: ignore[misc]
        def __init__(self, model: str, _options: Any, providers: list[Any], **more: Any) -> None:
            assert providers[0][0] == "CUDAExecutionProvider"
            super().__init__(model, ort.SessionOptions(), providers=["CPUExecutionProvider"], **more)

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider"]

    module = types.SimpleNamespace(
        InferenceSession=OnCpu, SessionOptions=ort.SessionOptions, RunOptions=ort.RunOptions
    )
    model = chain(tmp_path / "m.onnx", layers=2)
    expected = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    buffers = HostBuffers()
    session = GpuSession(module, buffers, model, CudaSettings(graph=graph))
    for batch in (1, 3):
        given = feeds(batch)
        inputs = GpuInputs(buffers, given, 3)
        for bound in (True, False):
            if bound is False and graph:
                continue
            runs = session.bind(inputs, bound=bound)
            for k in range(3):
                (wanted,) = expected.run(None, inputs.hosts[k])
                np.testing.assert_allclose(runs.outputs(k)["y"], wanted, atol=1e-6)
                for figure in runs.figures.values():
                    assert all(ms > 0 for ms in figure(k))
            runs.release()
        inputs.release()
    session.close()


def test_a_session_that_fell_back_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TF32_OVERRIDE, raising=False)
    ort = FakeOrt({}, provider="CPUExecutionProvider")
    with pytest.raises(MissingRuntimeError, match="fell back"):
        GpuSession(ort, FakeBuffers(), Path("m.onnx"), CudaSettings(tf32=True))


def test_tensorrt_is_asked_first_and_the_stock_session_gets_no_options() -> None:
    tensorrt = _providers(CudaSettings(runtime="tensorrt", precision="fp16", graph=True), 5)
    assert tensorrt[0][0] == "TensorrtExecutionProvider"
    assert (tensorrt[0][1]["trt_fp16_enable"], tensorrt[0][1]["trt_cuda_graph_enable"]) == ("1", "1")
    assert tensorrt[1][0] == "CUDAExecutionProvider"
    fallback = FakeOrt({})
    _session(fallback, Path("m"), CudaSettings(cpu_fallback=True), None)
    assert fallback.sessions[0].options.entries == {}
    assert _providers(stock("fp32"), None) == ["CUDAExecutionProvider"]


def test_buffers_that_bring_back_something_else_are_not_used() -> None:
    require_copies(HostBuffers())

    class Broken(HostBuffers):
        def copy_out(self, held: Any, result: np.ndarray) -> None:
            result[...] = held + 1

    with pytest.raises(MissingRuntimeError, match="Broken: an array came back changed"):
        require_copies(Broken())


class FakeNvml:
    """pynvml as far as a benchmark asks it: GPU 1 is the one that is named."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self, others: tuple[int, ...] = ()) -> None:
        self.pids = (os.getpid(), *others)

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return self._handle(uuid)

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> str:
        return self._handle(bus)

    def _handle(self, name: str) -> str:
        if name not in {"GPU-1", "0000:01:00.0"}:
            raise self.NVMLError("Not Found")
        return "one"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        assert handle == "one"
        return 1234

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _handle: str) -> int:
        return 0x04 | 0x40 | 0x01  # the last: idle, no fault

    def nvmlDeviceGetClockInfo(self, _handle: str, _kind: int) -> int:
        return 1200

    def nvmlDeviceGetComputeRunningProcesses(self, _handle: str) -> list[Any]:
        return [type("Process", (), {"pid": pid}) for pid in self.pids]


@pytest.mark.parametrize("identity", ["GPU-1", "0000:01:00.0"])
def test_nvml_is_asked_about_the_gpu_that_is_measured(identity: str) -> None:
    found = Nvml(identity, FakeNvml(others=(1, os.getppid())))
    assert (found.why_not, found.energy_mj()) == ("", 1234)
    condition = found.condition()
    assert condition == GpuCondition(1200, ("power limit", "temperature (hardware)"), others=1)


@pytest.mark.parametrize(("identity", "said"), [("", "identity is not known"), ("GPU-2", "Not Found")])
def test_without_nvml_the_reason_stands_there(identity: str, said: str) -> None:
    found = Nvml(identity, FakeNvml())
    assert said in found.why_not
    assert found.energy_mj() is None
    assert found.condition() is None


def test_a_driver_that_tells_less_is_asked_for_the_rest() -> None:
    class Less(FakeNvml):
        def nvmlDeviceGetComputeRunningProcesses(self, _handle: str) -> list[Any]:
            raise self.NVMLError("Not Supported")

    class Newer(FakeNvml):
        nvmlDeviceGetCurrentClocksThrottleReasons = None  # type: ignore[assignment]  # noqa: N815

        def nvmlDeviceGetCurrentClocksEventReasons(self, _handle: str) -> int:
            return 0x80

    assert Nvml("GPU-1", Less()).condition() == GpuCondition(
        1200, ("power limit", "temperature (hardware)"), others=None
    )
    newer = Nvml("GPU-1", Newer(others=(7, 8))).condition(own=[7])
    assert newer == GpuCondition(1200, ("power brake",), others=1)
