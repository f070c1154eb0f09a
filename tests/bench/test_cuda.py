"""The CUDA measurement on a fake device: order of work, arithmetic, refusals. No figure of a real GPU is
here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optim.contract import Feeds
from optim.errors import UnsupportedModelError, UserError
from pipeline.bench import cuda_libraries
from pipeline.bench.cuda import (
    CudaRecord,
    CudaSettings,
    energy_per_run_mj,
    input_sets,
    matrix,
    measure_matrix,
    provider_options,
)
from pipeline.bench.cuda_child import joined, measure_in_children
from pipeline.bench.cuda_device import (
    find_device,
)
from pipeline.bench.cuda_models import measure_models
from pipeline.bench.cuda_precision import as_half, half
from pipeline.bench.nvml import GpuCondition
from pipeline.bench.sampling import LEAST_SAMPLES, collect, settle
from tests.bench.models import chain, feeds

GOOD_GPU = GpuCondition(sm_mhz=1980, held_back=(), others=0)
FEEDS = {"x": np.zeros((1, 1000), np.float32)}  # 4000 bytes


@dataclass
class FakeModel:
    device: FakeDevice
    settings: CudaSettings
    session_creation_ms: float = 50.0
    first_run_ms: float = 9.0
    closed: bool = False
    slowness: float = 1.0

    def timed_run(self, which: int) -> tuple[float, float]:
        self.device.done.append(which)
        self.slowness *= self.device.drift
        gpu = (0.4 if self.settings.graph else 1.0) * self.slowness
        return gpu, gpu + 0.1

    def plain_run(self, which: int) -> float:
        if self.device.no_memory:
            raise RuntimeError("Error in execution\n  CUDA failure 2: out of memory\n")
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

    def end_to_end(self, which: int, *, pinned: bool) -> float:
        return 1.25 if pinned else 1.75

    def outputs(self, which: int) -> dict[str, np.ndarray]:
        return {"y": np.array([1.0, 2.0, 3.0 + (self.settings.layout == "NHWC") * self.device.nhwc_error])}

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeDevice:
    name: str = "fake"
    l2_bytes: int = 10_000
    counter: bool = True
    refuses_nhwc: bool = False
    nhwc_error: float = 0.0
    no_memory: bool = False
    has_tensorrt: bool = False
    why_unwatched: str = ""
    drift: float = 1.0  # of a run's time, from each to the next
    conditions: list[GpuCondition | None] = field(default_factory=lambda: [GOOD_GPU])
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

    def condition(self) -> GpuCondition | None:
        return self.conditions.pop(0) if len(self.conditions) > 1 else self.conditions[0]

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
    assert eager.end_to_end_pageable_ms == 1.75  # measured as a whole, not put together
    assert eager.end_to_end_pinned_ms == 1.25
    assert eager.host_to_device_pageable is not None
    assert eager.host_to_device_pageable.median_ms == 0.5
    assert eager.gpu.raw_ms == (1.0,) * 20  # every sample is kept
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
    assert record.results[0].beyond_l2
    assert set(device.done) == set(range(5))


def test_inputs_that_the_cache_holds_in_spite_of_rotation_are_told() -> None:
    small = measure_matrix(FakeDevice(l2_bytes=10**6), "m.onnx", {1: FEEDS}, [CudaSettings()], runs=120)
    assert small.results[0].input_sets == 64  # · 4000 bytes < 2 · 10^6
    assert not small.results[0].beyond_l2
    assert small.results[0].grade is not None
    assert small.results[0].grade.reasons == ("all input sets together fit the L2 cache",)


def test_a_warm_up_lasts_until_latency_has_settled() -> None:
    steady = measure_matrix(FakeDevice(), "m.onnx", {1: FEEDS}, [CudaSettings()], runs=120).results[0]
    assert steady.grade is not None
    assert (steady.grade.letter, steady.grade.reasons) == ("A", ())
    runs, settled = settle(lambda k: 10.0 * 0.97 ** min(k, 60), least=6)  # clocks rise for 60 runs
    assert settled
    assert runs > 60
    restless = measure_matrix(FakeDevice(drift=1.02), "m.onnx", {1: FEEDS}, [CudaSettings()], runs=120)
    assert restless.results[0].grade is not None
    assert any("had not settled" in reason for reason in restless.results[0].grade.reasons)


def test_slow_runs_are_sampled_less_often_and_say_so() -> None:
    assert len(collect(lambda _k: 1.0, 100)) == 100
    assert len(collect(lambda _k: 10.0, 100)) == 50  # in half a second
    assert len(collect(lambda _k: 900.0, 100)) == LEAST_SAMPLES


def test_what_the_time_does_not_allow_is_named() -> None:
    device = FakeDevice()
    cells = matrix(bound_only=True)
    record = measure_matrix(device, "m", {1: FEEDS}, cells, runs=10, energy_window_s=6.0, limit_s=15.0)
    assert len(record.results) == 3  # each takes 6 s of the fake clock
    assert len(record.failed) == len(cells) - 3
    assert all("not reached within 15 s" in line for line in record.failed)


@pytest.mark.parametrize(
    ("before", "after", "letter", "word"),
    [
        (GOOD_GPU, replace(GOOD_GPU, sm_mhz=1500), "B", "1980 to 1500 MHz"),
        (GOOD_GPU, replace(GOOD_GPU, held_back=("power limit",)), "B", "power limit"),
        (GOOD_GPU, replace(GOOD_GPU, held_back=("temperature (hardware)",)), "C", "temperature"),
        (GOOD_GPU, replace(GOOD_GPU, others=2), "C", "2 other processes"),
        (GOOD_GPU, replace(GOOD_GPU, others=None), "A", ""),
        (None, None, "B", "not watched: no pynvml"),
    ],
)
def test_what_disturbs_a_gpu_costs_the_grade(
    before: GpuCondition | None, after: GpuCondition | None, letter: str, word: str
) -> None:
    device = FakeDevice(conditions=[before, after], why_unwatched="no pynvml")
    (one,) = measure_matrix(device, "m.onnx", {1: FEEDS}, [CudaSettings()], runs=120).results
    assert one.grade is not None
    assert one.grade.letter == letter
    assert len(one.grade.reasons) == (letter != "A")
    assert word in "".join(one.grade.reasons)


def test_a_cell_that_computes_something_else_is_no_result() -> None:
    answers = {1: {"y": np.array([1.0, 2.0, 3.0])}}
    cells = [c for c in matrix(bound_only=True) if not c.tf32]
    wrong = measure_matrix(FakeDevice(nhwc_error=0.1), "m", {1: FEEDS}, cells, runs=12, references=answers)
    assert {r.settings.layout for r in wrong.results} == {"NCHW"}
    assert all(r.error == 0 for r in wrong.results)
    assert len(wrong.failed) == 2
    assert "not those on the CPU: max|Δ|/range 0.05" in wrong.failed[0]
    other_batch = measure_matrix(
        FakeDevice(nhwc_error=0.1), "m", {2: FEEDS}, cells, runs=12, references=answers
    )
    assert [r.error for r in other_batch.results] == [None] * 4


def test_cells_run_in_a_random_order_that_the_seed_sets() -> None:
    orders = []
    for seed in (0, 0, 1):
        device = FakeDevice()
        measure_matrix(device, "m", {1: FEEDS, 2: FEEDS}, matrix(bound_only=True), runs=12, seed=seed)
        orders.append([m.settings for m in device.opened])
    assert orders[0] == orders[1] != orders[2]


def test_cells_are_compared_with_session_run_as_installed() -> None:
    cells = [c for c in matrix() if c.runtime == "onnxruntime"]
    record = joined([measure_matrix(FakeDevice(), "m", {1: FEEDS}, cells, runs=20)])
    found = {(c.settings, c.figure): c for c in record.comparisons}
    graph = CudaSettings(graph=True)
    assert found[graph, "inputs on the device"].ratio == pytest.approx(0.5 / 2.0)
    assert found[graph, "from NumPy arrays"].ratio == pytest.approx(1.25 / 2.0)
    assert found[graph, "from NumPy arrays"].verdict == "faster"
    plain = found[CudaSettings(bound=False), "from NumPy arrays"]
    assert (plain.ratio, plain.verdict, plain.interval) == (1.0, "no_difference_shown", (1.0, 1.0))
    assert not any(c.settings.stock for c in record.comparisons)


@dataclass
class Asked:
    """Stands for the children: remembers what they were asked for."""

    calls: list[tuple[str, str, dict[int, Feeds], Any, dict[str, Any]]] = field(default_factory=list)

    def __call__(self, model: str, given: dict[int, Feeds], cells: Any, **options: Any) -> CudaRecord:
        self.calls.append((model, options["name"], given, cells, options))
        return measure_matrix(FakeDevice(), model, given, cells[:1], runs=12, name=options["name"])


def test_a_model_is_measured_as_it_is_and_in_float16(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = str(chain(tmp_path / "m.onnx", layers=2))
    asked = Asked()
    record = measure_models(
        [model], {4: feeds(4), 2: feeds(2)}, tensorrt=True, cpu_fallback=True, measure=asked
    )
    (single, halved) = asked.calls
    assert single[0] == single[1] == halved[1] == model != halved[0]
    assert {c.precision for c in single[3]} == {"fp32"}
    assert {c.precision for c in halved[3]} == {"fp16"}
    assert {c.runtime for c in halved[3]} == {"onnxruntime", "tensorrt", "torch.compile"}
    assert all(c.cpu_fallback for c in single[3] if c.runtime == "onnxruntime" and not c.stock)
    assert halved[2][2]["x"].dtype == np.float16
    assert list(single[4]["references"]) == [2]
    assert single[4]["references"][2]["y"].shape == (2, 64)
    assert single[4]["energy_window_s"] >= 5
    assert {r.model for r in record.results} == {model}


def test_a_model_that_comes_in_float16_is_not_called_fp32(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    single, model = chain(tmp_path / "m.onnx", layers=2), tmp_path / "half.onnx"
    if reason := half(single, model):
        pytest.skip(reason)
    asked = Asked()
    measure_models([str(model)], {1: as_half(feeds())}, tensorrt=False, cpu_fallback=False, measure=asked)
    ((_model, _name, _feeds, cells, _options),) = asked.calls
    assert {c.precision for c in cells} == {"fp16"}
    assert any(c.stock for c in cells)


def test_a_machine_without_a_gpu_says_so_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_libraries, "DEVICE_FILES", ())
    monkeypatch.setattr("pipeline.bench.host.gpus", lambda: ())
    assert find_device()[0] is None
    assert find_device()[1].startswith("no NVIDIA GPU on this machine")


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
    assert nothing.status == "not measured"
    assert nothing.reason.startswith("no cell could run; the first: batch 1, fp32, TF32 off, NHWC")
    assert joined([nothing, nothing]).failed == 2 * nothing.failed


def test_what_a_runtime_raises_ends_its_own_cell_only() -> None:
    cells = [CudaSettings(), CudaSettings(bound=False)]
    device = FakeDevice(no_memory=True)
    record = measure_matrix(device, "m.onnx", {1: FEEDS}, cells, runs=10)
    assert [r.settings for r in record.results] == [CudaSettings()]
    assert record.failed[0].endswith("RuntimeError: CUDA failure 2: out of memory")
    assert all(m.closed for m in device.opened)


def test_energy_needs_a_window_and_a_counter() -> None:
    assert energy_per_run_mj(1000, 4000, 100, 6.0) == 30
    with pytest.raises(UserError, match="too short"):
        energy_per_run_mj(0, 10, 10, 1.0)
    with pytest.raises(UserError):
        energy_per_run_mj(10, 0, 10, 6.0)
    blind = FakeDevice(counter=False, why_unwatched="NVML cannot be asked: no pynvml")
    note = measure_matrix(blind, "m", {1: FEEDS}, [CudaSettings()], runs=8, energy_window_s=6.0)
    assert note.results[0].energy_note == "NVML cannot be asked: no pynvml"
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


def test_children_without_a_gpu_say_not_measured(tmp_path: Path) -> None:
    if find_device()[0] is not None:
        pytest.skip("this machine has a GPU")
    record = measure_in_children(str(tmp_path / "m.onnx"), {1: FEEDS}, matrix())
    assert record.status == "not measured"
    assert record.reason
    assert record.results == ()
