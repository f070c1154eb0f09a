"""The CUDA measurement on a fake device: order of work, arithmetic, refusals. No figure of a real GPU is
here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optim.contract import Feeds
from optim.errors import MissingRuntimeError, UnsupportedModelError, UserError
from pipeline.bench.cuda import (
    CudaRecord,
    CudaSettings,
    energy_per_run_mj,
    input_sets,
    matrix,
    measure_matrix,
    provider_options,
)
from pipeline.bench.cuda_child import measure_in_children
from pipeline.bench.cuda_device import TF32_OVERRIDE, GpuModel, _providers, find_device, require_tf32

FEEDS = {"x": np.zeros((1, 1000), np.float32)}  # 4000 bytes


@dataclass
class FakeModel:
    device: FakeDevice
    settings: CudaSettings
    session_creation_ms: float = 50.0
    first_run_ms: float = 9.0
    closed: bool = False

    def timed_run(self, which: int) -> tuple[float, float]:
        self.device.done.append(which)
        gpu = 0.4 if self.settings.graph else 1.0
        return gpu, gpu + 0.1

    def plain_run(self, which: int) -> float:
        self.device.done.append(which)
        return 2.0

    def enqueue(self, which: int) -> None:
        self.device.done.append(which)
        self.device.now += 0.01
        self.device.spent += 30

    def copy_in(self, which: int, *, pinned: bool) -> float:
        return 0.2 if pinned else 0.5

    def copy_out(self) -> float:
        return 0.05

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeDevice:
    name: str = "fake"
    l2_bytes: int = 10_000
    counter: bool = True
    refuses_nhwc: bool = False
    done: list[int] = field(default_factory=list)
    opened: list[FakeModel] = field(default_factory=list)
    now: float = 0.0
    spent: int = 0

    def open(self, model: str, settings: CudaSettings, feeds: Feeds, sets: int) -> FakeModel:
        if self.refuses_nhwc and settings.layout == "NHWC":
            raise UnsupportedModelError("the CUDA provider refuses it: no kernel", where=model)
        self.opened.append(FakeModel(self, settings))
        return self.opened[-1]

    def synchronize(self) -> None:
        pass

    def memory_used_mib(self) -> float:
        return 100.0 * (1 + sum(not m.closed for m in self.opened))

    def energy_mj(self) -> int | None:
        return self.spent if self.counter else None

    def clock_s(self) -> float:
        return self.now


def test_without_a_gpu_it_says_not_measured_and_holds_no_figure() -> None:
    record = measure_matrix(None, "m.onnx", {1: FEEDS}, matrix(), why_not="no driver")
    assert (record.status, record.reason) == ("not measured", "no driver")
    assert record.results == () == record.launch_gaps


def test_finding_the_device_gives_a_device_or_a_reason() -> None:
    device, reason = find_device()
    assert (device is None) == bool(reason)


def test_every_part_is_reported_separately_and_the_launch_gap_follows() -> None:
    device = FakeDevice()
    cells = [c for c in matrix() if c.runtime == "onnxruntime" and not c.stock]
    record = measure_matrix(device, "m.onnx", {1: FEEDS}, cells, runs=20, energy_window_s=6.0)
    assert record.status == "measured"
    assert len(record.results) == 12
    eager = next(r for r in record.results if r.settings == CudaSettings())
    assert eager.gpu is not None
    assert eager.gpu.median_ms == 1.0
    assert eager.host.median_ms == pytest.approx(1.1)
    assert eager.end_to_end_pageable_ms == pytest.approx(0.5 + 1.1 + 0.05)
    assert eager.end_to_end_pinned_ms == pytest.approx(0.2 + 1.1 + 0.05)
    assert eager.energy_mj == pytest.approx(30)
    assert eager.device_memory_mib == 100
    plain = next(r for r in record.results if not r.settings.bound)
    assert plain.gpu is None
    assert plain.host.median_ms == 2.0
    assert plain.end_to_end_pinned_ms is None
    assert [g.gap_ms for g in record.launch_gaps] == pytest.approx([0.6] * 4)
    assert all(m.closed for m in device.opened)
    assert CudaRecord.model_validate_json(record.model_dump_json()) == record


def test_input_sets_rotate_beyond_the_cache() -> None:
    device = FakeDevice()
    record = measure_matrix(device, "m.onnx", {1: FEEDS}, [CudaSettings()], runs=10)
    assert record.results[0].input_sets == 5  # 5 · 4000 bytes ≥ 2 · 10000
    assert set(device.done) == set(range(5))


@pytest.mark.parametrize(("l2", "sets"), [(1000, 2), (4000, 2), (20_000, 10), (10**9, 64)])
def test_number_of_input_sets(l2: int, sets: int) -> None:
    assert input_sets(FEEDS, l2) == sets


def test_a_cell_that_cannot_run_is_listed_with_its_reason() -> None:
    record = measure_matrix(
        FakeDevice(refuses_nhwc=True), "m.onnx", {1: FEEDS}, matrix(bound_only=True), runs=8
    )
    assert len(record.results) == 4
    assert len(record.failed) == 4
    assert "no kernel" in record.failed[0]
    nothing = measure_matrix(
        FakeDevice(refuses_nhwc=True), "m.onnx", {1: FEEDS}, [CudaSettings(layout="NHWC")], runs=8
    )
    assert (nothing.status, nothing.reason) == ("not measured", "no cell could run")


def test_energy_needs_a_window_and_a_counter() -> None:
    assert energy_per_run_mj(1000, 4000, 100, 6.0) == 30
    with pytest.raises(UserError, match="too short"):
        energy_per_run_mj(0, 10, 10, 1.0)
    with pytest.raises(UserError):
        energy_per_run_mj(10, 0, 10, 6.0)
    silent = measure_matrix(
        FakeDevice(counter=False), "m", {1: FEEDS}, [CudaSettings()], runs=8, energy_window_s=6.0
    )
    assert silent.results[0].energy_mj is None
    assert silent.results[0].energy_note == "this device has no energy counter"


def test_what_moves_numbers_is_stated_always() -> None:
    assert provider_options(CudaSettings())["use_tf32"] == "0"
    assert provider_options(CudaSettings(tf32=True, layout="NHWC", graph=True), 77) == {
        "device_id": "0", "use_tf32": "1", "prefer_nhwc": "1", "enable_cuda_graph": "1",
        "cudnn_conv_algo_search": "EXHAUSTIVE", "cudnn_conv_use_max_workspace": "1",
        "user_compute_stream": "77",
    }  # fmt: skip


def test_a_graph_needs_bound_buffers() -> None:
    assert all(c.bound for c in matrix() if c.graph)
    assert len(set(matrix())) == len(matrix())
    onnx = [c for c in matrix() if c.runtime == "onnxruntime" and not c.stock]
    assert len(onnx) == 12
    assert len([c for c in matrix(precision="fp16") if c.runtime == "onnxruntime"]) == 6
    assert [c.title for c in matrix() if c.stock] == ["fp32, session.run as installed"]
    assert any(c.runtime == "tensorrt" for c in matrix(tensorrt=True))


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


def test_children_without_a_gpu_say_not_measured(tmp_path: Path) -> None:
    if find_device()[0] is not None:
        pytest.skip("this machine has a GPU")
    record = measure_in_children(str(tmp_path / "m.onnx"), {1: FEEDS}, matrix())
    assert record.status == "not measured"
    assert record.reason
    assert record.results == ()


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

    name, l2_bytes, stream_pointer = "fake", 10_000, 77

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
    gpu_ms, host_ms = model.timed_run(1)
    assert gpu_ms == 0.25
    assert host_ms > 0
    assert bound.runs[-1] == {"disable_synchronize_execution_providers": "1", "gpu_graph_id": "2"}
    model.copy_out()
    np.testing.assert_array_equal(model._results[0], 2 * np.roll(given["x"], 1))
    assert model.copy_in(0, pinned=True) == 0.25
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
    assert _providers(CudaSettings(stock=True, bound=False, tf32=True), None) == ["CUDAExecutionProvider"]
