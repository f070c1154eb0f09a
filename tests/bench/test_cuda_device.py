"""The real device's code on a fake runtime, fake buffers and a fake NVML: no figure of a GPU is here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optim.contract import Feeds
from optim.errors import MissingRuntimeError, UserError
from pipeline.bench.cuda import CudaSettings
from pipeline.bench.cuda_device import GpuModel, _providers, _session, require_tf32
from pipeline.bench.cuda_libraries import TF32_OVERRIDE
from pipeline.bench.nvml import GpuCondition, Nvml

FEEDS = {"x": np.zeros((1, 1000), np.float32)}


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

    def InferenceSession(self, model: str, options: Entries, providers: list[Any]) -> FakeSession:
        self.sessions.append(FakeSession(self, options, providers))
        return self.sessions[-1]


class FakeSession:
    def __init__(self, ort: FakeOrt, options: Entries, providers: list[Any]) -> None:
        self.ort, self.options, self.providers = ort, options, providers
        self.runs: list[dict[str, str]] = []

    def get_providers(self) -> list[str]:
        return [self.ort.provider]

    def get_outputs(self) -> list[Any]:
        return [type("Output", (), {"name": "y"})]

    def run(self, _names: None, feeds: Feeds) -> list[np.ndarray]:
        return [2 * feeds["x"]]

    def io_binding(self) -> Any:
        class Binding:
            ends: dict[str, int] = {}  # noqa: RUF012 - one class a binding

            def bind(self, name: str, *rest: Any) -> None:
                self.ends[name] = rest[-1]

            bind_input = bind_output = bind

        return Binding()

    def run_with_iobinding(self, binding: Any, options: Entries) -> None:
        self.runs.append(options.entries)
        self.ort.memory[binding.ends["y"]][...] = 2 * self.ort.memory[binding.ends["x"]]


class FakeBuffers:
    """Device memory that is host memory under made-up addresses."""

    name, l2_bytes, stream_pointer, identity = "fake", 10_000, 77, ""

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.released = False

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

    def memory_used_mib(self) -> float:
        return 1.0

    def release(self) -> None:
        self.released = True


def test_bound_runs_read_and_write_the_buffers_on_our_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TF32_OVERRIDE, "0")
    buffers = FakeBuffers()
    ort = FakeOrt(buffers.memory)
    given = {"x": np.arange(4, dtype=np.float32)}
    model = GpuModel(ort, buffers, Path("m.onnx"), CudaSettings(graph=True, layout="NHWC"), given, 2)
    bound = ort.sessions[0]
    ((provider, options),) = bound.providers
    assert (provider, options["user_compute_stream"], options["enable_cuda_graph"]) == (
        "CUDAExecutionProvider", "77", "1",
    )  # fmt: skip
    assert bound.options.entries["session.disable_cpu_ep_fallback"] == "1"
    assert ort.sessions[1].providers[0][1]["enable_cuda_graph"] == "0"  # plain: for the outputs' shapes
    assert bound.runs[0]["gpu_graph_id"] == "1"  # its own first run, which captures
    gpu_ms, host_ms = model.timed_run(1)
    assert gpu_ms == 0.25
    assert host_ms > 0
    assert bound.runs[-1] == {"disable_synchronize_execution_providers": "1", "gpu_graph_id": "2"}
    model.copy_out()
    np.testing.assert_array_equal(model._results[0], 2 * np.roll(given["x"], 1))
    assert model.copy_in(0, pinned=True) == 0.25
    np.testing.assert_array_equal(model.outputs(1)["y"], 2 * np.roll(given["x"], 1))
    buffers.memory[model._inputs[0]["x"]][...] = 0
    assert model.end_to_end(0, pinned=False) > 0
    np.testing.assert_array_equal(model._landing[0], 2 * given["x"])  # in, run, and out again
    assert model.end_to_end(1, pinned=True) > 0
    np.testing.assert_array_equal(model._results[0], 2 * np.roll(given["x"], 1))
    model.close()
    assert buffers.released


def test_a_session_that_fell_back_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TF32_OVERRIDE, raising=False)
    ort = FakeOrt({}, provider="CPUExecutionProvider")
    with pytest.raises(MissingRuntimeError, match="fell back"):
        GpuModel(ort, FakeBuffers(), Path("m.onnx"), CudaSettings(tf32=True), FEEDS, 2)


def test_tensorrt_is_asked_first_and_the_stock_session_gets_no_options() -> None:
    tensorrt = _providers(CudaSettings(runtime="tensorrt", precision="fp16", graph=True), 5)
    assert tensorrt[0][0] == "TensorrtExecutionProvider"
    assert (tensorrt[0][1]["trt_fp16_enable"], tensorrt[0][1]["trt_cuda_graph_enable"]) == ("1", "1")
    assert tensorrt[1][0] == "CUDAExecutionProvider"
    fallback = FakeOrt({})
    _session(fallback, Path("m"), CudaSettings(cpu_fallback=True), None)
    assert fallback.sessions[0].options.entries == {}
    assert _providers(CudaSettings(stock=True, bound=False, tf32=True), None) == ["CUDAExecutionProvider"]


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
