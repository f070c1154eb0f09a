"""The cells of the CUDA matrix, the arithmetic, and what a benchmark makes of them on a fake GPU."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from optim.errors import GateNotMetError, UserError
from pipeline.bench.cuda import libraries as cuda_libraries
from pipeline.bench.cuda.contract import (
    are_beyond_l2,
    energy_per_run_mj,
    input_sets,
    last_line,
    matrix,
    provider_options,
    require_same,
    stock,
)
from pipeline.bench.cuda.device import find_device
from pipeline.bench.cuda.grade import SeenOnGpu, grade_cuda
from pipeline.bench.cuda.models import measure_models
from pipeline.bench.cuda.nvml import GpuCondition
from pipeline.bench.cuda.precision import as_half, half
from pipeline.bench.cuda.sampling import blocks_of, settle, timing
from pipeline.bench.records import CudaRecord, CudaSettings
from tests.bench.fake_gpu import GOOD, FakeGpu
from tests.bench.models import chain, feeds

FEEDS = {"x": np.zeros((1, 1000), np.float32)}  # 4000 bytes


def test_finding_the_device_gives_a_device_or_a_reason() -> None:
    device, reason = find_device()
    assert (device is None) == bool(reason)


def test_a_machine_without_a_gpu_says_so_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_libraries, "DEVICE_FILES", ())
    monkeypatch.setattr("pipeline.bench.host.gpus", lambda: ())
    assert find_device()[0] is None
    assert find_device()[1].startswith("no NVIDIA GPU on this machine")


def test_the_package_alone_is_no_tensorrt() -> None:
    """ONNX Runtime lists the provider everywhere; its libraries are another matter."""
    pytest.importorskip("onnxruntime")
    why = cuda_libraries.why_no_tensorrt()
    assert why == "" or why.startswith("TensorRT's libraries are not here: libnvinfer.so.10")


@pytest.mark.parametrize(
    ("l2", "weights", "sets", "beyond"),
    [
        (1000, 0, 2, True), (4000, 0, 2, True), (20_000, 0, 10, True), (10**9, 0, 64, False),
        (20_000, 16_000, 2, True),  # the weights are read between two uses of a set
        (20_000, 4_000, 5, True),
    ],
)  # fmt: skip
def test_input_sets_rotate_beyond_the_cache(l2: int, weights: int, sets: int, beyond: bool) -> None:
    assert input_sets(FEEDS, l2, weights) == sets
    assert are_beyond_l2(FEEDS, sets, l2, weights) == beyond


def test_empty_inputs_are_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        input_sets({"x": np.zeros((0, 3), np.float32)}, 10)


def test_a_warm_up_lasts_until_latency_has_settled() -> None:
    runs, settled = settle(lambda k: 10.0 * 0.97 ** min(k, 60), least=6)  # clocks rise for 60 runs
    assert settled
    assert runs > 60
    assert not settle(lambda k: 1.02**k, least=6)[1]
    assert settle(lambda _k: 300.0, least=3) == (7, True)  # a slow run is not repeated for nothing


def test_blocks_come_back_as_they_were_taken() -> None:
    blocks = [np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.array([5.0, 6.5])]
    found = timing(blocks)
    assert (found.samples, found.rounds, found.median_ms) == (6, 3, 3.5)
    np.testing.assert_array_equal(blocks_of(found), blocks)
    assert blocks_of(found.model_copy(update={"rounds": 0})) == []


@pytest.mark.parametrize(
    ("before", "after", "letter", "word"),
    [
        (GOOD, replace(GOOD, sm_mhz=1500), "B", "1980 to 1500 MHz"),
        (GOOD, replace(GOOD, held_back=("power limit",)), "B", "power limit"),
        (GOOD, replace(GOOD, held_back=("temperature (hardware)",)), "C", "temperature"),
        (GOOD, replace(GOOD, others=2), "C", "2 other processes"),
        (GOOD, replace(GOOD, others=None), "A", ""),
        (None, None, "B", "not watched: no pynvml"),
    ],
)
def test_what_disturbs_a_gpu_costs_the_grade(
    before: GpuCondition | None, after: GpuCondition | None, letter: str, word: str
) -> None:
    seen = SeenOnGpu(
        timing=timing([np.ones(120)]), settled=True, beyond_l2=True, before=before, after=after,
        why_unwatched="no pynvml",
    )  # fmt: skip
    found = grade_cuda(seen)
    assert found.letter == letter
    assert len(found.reasons) == (letter != "A")
    assert word in "".join(found.reasons)
    restless = grade_cuda(replace(seen, settled=False, beyond_l2=False))
    assert any("had not settled" in reason for reason in restless.reasons)
    assert any("fit the L2 cache" in reason for reason in restless.reasons)


def test_a_cell_that_computes_something_else_is_no_result() -> None:
    answer = {"y": np.array([1.0, 2.0, 3.0], np.float32)}
    near = {"y": np.array([1.0, 2.0, 3.02], np.float32)}
    assert require_same(answer, answer, CudaSettings()) == 0
    with pytest.raises(GateNotMetError, match=r"max\|Δ\|/range 0.01"):
        require_same(near, answer, CudaSettings())
    assert require_same(near, answer, CudaSettings(tf32=True)) == pytest.approx(0.01, rel=1e-3)
    for wrong in ({"z": answer["y"]}, {"y": np.full(3, np.nan, np.float32)}, {"y": answer["y"][:2]}):
        with pytest.raises(GateNotMetError):
            require_same(wrong, answer, CudaSettings(tf32=True))


def test_energy_needs_a_window_and_a_counter() -> None:
    assert energy_per_run_mj(1000, 4000, 100, 6.0) == 30
    with pytest.raises(UserError, match="too short"):
        energy_per_run_mj(0, 10, 10, 1.0)
    with pytest.raises(UserError):
        energy_per_run_mj(10, 0, 10, 6.0)


def test_what_moves_numbers_is_stated_always() -> None:
    assert provider_options(CudaSettings())["use_tf32"] == "0"
    assert provider_options(CudaSettings(tf32=True, layout="NHWC", graph=True), 77) == {
        "device_id": "0", "use_tf32": "1", "prefer_nhwc": "1", "enable_cuda_graph": "1",
        "cudnn_conv_algo_search": "EXHAUSTIVE", "cudnn_conv_use_max_workspace": "1",
        "user_compute_stream": "77",
    }  # fmt: skip


def test_float16_keeps_its_tensor_cores() -> None:
    """With ``use_tf32`` off, ONNX Runtime passes over every convolution plan that uses them."""
    for cell in matrix(precision="fp16", tensorrt=True):
        assert cell.tf32
        assert "TF32" not in cell.title


def test_the_matrix_is_whole_and_what_is_deployed_comes_first() -> None:
    assert all(c.bound for c in matrix() if c.graph)
    assert len(set(matrix())) == len(matrix())
    onnx = [c for c in matrix() if c.runtime == "onnxruntime" and not c.stock]
    assert len(onnx) == 12
    assert {(c.tf32, c.layout, c.graph, c.bound) for c in onnx} == {
        (t, lay, g, b) for t in (False, True) for lay in ("NCHW", "NHWC")
        for g, b in ((True, True), (False, True), (False, False))
    }  # fmt: skip
    assert matrix()[0] == CudaSettings(tf32=True, layout="NHWC", graph=True)
    assert len([c for c in matrix(precision="fp16") if c.runtime == "onnxruntime"]) == 6
    assert len(matrix(bound_only=True)) == 8
    assert [c for c in matrix() if c.stock] == [stock("fp32")]
    assert stock("fp32").title == "fp32, session.run as installed"
    assert any(c.runtime == "tensorrt" for c in matrix(tensorrt=True))
    titles = [c.title for p in ("fp32", "fp16") for c in matrix(precision=p, tensorrt=True)]
    assert len(set(titles)) == len(titles)


def test_a_runtimes_last_line_is_its_words() -> None:
    assert last_line(RuntimeError("Error in execution\n  CUDA failure 2: out of memory\n\n")) == (
        "CUDA failure 2: out of memory"
    )
    assert last_line(RuntimeError("")) == "no words"


def measured(model: Path, given: dict[int, dict[str, np.ndarray]], gpu: FakeGpu) -> CudaRecord:
    return measure_models([str(model)], given, cpu_fallback=True, stations=gpu.stations())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rounds, peaks of small matrices, and no comparison with a network that the fake does not run."""
    from pipeline.bench.cuda import models as cuda_models
    from pipeline.bench.cuda.heat import Rounds
    from pipeline.bench.cuda.roofline import measure_peaks

    monkeypatch.setattr(cuda_models, "ROUNDS", Rounds(rounds=8))
    monkeypatch.setattr(cuda_models, "_references", lambda _model, _feeds: ({}, ""))
    monkeypatch.setattr(cuda_models, "measure_peaks", partial(measure_peaks, products=(8,), copies=(8,)))


@pytest.mark.usefixtures("quick")
def test_a_model_is_measured_as_it_is_and_in_float16(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = chain(tmp_path / "m.onnx", layers=2)
    gpu = FakeGpu(fails=lambda cell, _batch: cell.runtime == "torch.compile")
    record = measured(model, {4: feeds(4), 2: feeds(2)}, gpu)
    assert record.status == "measured"
    assert {r.model for r in record.results} == {str(model)}
    assert {r.settings.precision for r in record.results} == {"fp32", "fp16"}
    assert all(r.settings.cpu_fallback for r in record.results if not r.settings.stock)
    assert {c.baseline for c in record.comparisons} == {stock("fp32")}  # of float16 too
    energies = {(r.batch, r.settings.precision) for r in record.results if r.energy_mj is not None}
    assert energies == {(2, "fp32"), (2, "fp16")}
    assert record.peaks is not None
    assert record.peaks.fp16_tflop_per_s
    limits = {(r.settings.precision, r.batch): r.limit for r in record.results}
    single, halved = limits["fp32", 4], limits["fp16", 4]
    assert single is not None
    assert halved is not None
    assert single.operations == halved.operations == 2 * 2 * 4 * 64 * 64
    assert single.least_bytes == 2 * halved.least_bytes
    assert any("torch.compile" in line for line in record.failed)


@pytest.mark.usefixtures("quick")
def test_a_model_that_comes_in_float16_is_its_own_baseline(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    single, model = chain(tmp_path / "m.onnx", layers=2), tmp_path / "half.onnx"
    if reason := half(single, model):
        pytest.skip(reason)
    record = measured(model, {1: as_half(feeds())}, FakeGpu())
    assert {r.settings.precision for r in record.results} == {"fp16"}
    assert {c.baseline for c in record.comparisons} == {stock("fp16")}


def test_children_without_a_gpu_say_not_measured(tmp_path: Path) -> None:
    if find_device()[0] is not None:
        pytest.skip("this machine has a GPU")
    record = measure_models([str(tmp_path / "m.onnx")], {1: FEEDS}, cpu_fallback=False)
    assert record.status == "not measured"
    assert record.reason
    assert record.results == ()
