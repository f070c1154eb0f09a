"""A model's limit on a GPU: counted from shapes as from a run, and what bounds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from optim.errors import UnsupportedModelError
from pipeline.bench.contender import Contender
from pipeline.bench.cuda.contract import stock
from pipeline.bench.cuda.process import Stations
from pipeline.bench.cuda.roofline import (
    CACHED,
    COUNTED,
    FASTER,
    Work,
    _node_model,
    count_work,
    limit_of,
    measure_peaks,
    numbers_of,
    with_limits,
)
from pipeline.bench.records import CudaPeaks, CudaRecord, CudaResult, CudaSettings, Timing
from pipeline.bench.roofline import operations
from pipeline.bench.trace import trace
from tests.bench.fake_gpu import FakeGpu
from tests.bench.models import chain, feeds

onnx = pytest.importorskip("onnx")
from benchmarks.gpu.check import images  # noqa: E402
from benchmarks.gpu.networks import NETWORKS  # noqa: E402

PEAKS = CudaPeaks(
    fp32_tflop_per_s=50.0,
    tf32_tflop_per_s=400.0,
    fp16_tflop_per_s=800.0,
    gbyte_per_s=4000.0,
    l2_bytes=60 << 20,
)


@pytest.mark.parametrize(("name", "giga"), [("resnet50", 4.09), ("mobilenet_v2", 0.301)])
def test_operations_are_those_of_the_papers(name: str, giga: float, tmp_path: Path) -> None:
    """Multiply-adds of one image, as the papers count them."""
    model = NETWORKS[name](tmp_path / "m.onnx")
    one, many = (count_work(model, images(model, batch)) for batch in (1, 64))
    assert one.operations / 2e9 == pytest.approx(giga, rel=0.01)
    assert many.operations == 64 * one.operations
    image, answer = 3 * 224 * 224 * 4, 1000 * 4
    assert many.least_bytes - one.least_bytes == 63 * (image + answer)


def test_what_is_counted_from_shapes_is_what_a_run_executes(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = NETWORKS["digits"](tmp_path / "m.onnx")
    given = images(model, 3)
    contender = Contender(name="digits", kind="onnx", model=str(model), optimization="off")
    ran = trace(contender, given, runs=1)
    counted = sum(
        operations(event, ran.weight_shapes.get(event.node, ()))
        for event in ran.events[-1]
        if event.op in COUNTED
    )
    assert count_work(model, given).operations == counted > 0


def test_a_product_of_unknown_shape_is_refused(tmp_path: Path) -> None:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    values = [helper.make_tensor_value_info(n, kind, None) for n in ("a", "b", "y")]
    node = helper.make_node("MatMul", ["a", "b"], ["y"], name="product")
    graph = helper.make_graph([node], "g", values[:2], values[2:])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedModelError, match="product"):
        count_work(tmp_path / "m.onnx", {})


def result(ms: float, cell: CudaSettings, batch: int = 1) -> CudaResult:
    took = Timing(median_ms=ms, interval_ms=None, samples=1)
    return CudaResult(
        model="m", batch=batch, settings=cell, session_creation_ms=1.0, first_run_ms=1.0,
        gpu=took if cell.bound else None, host=took, input_sets=2, device_memory_mib=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "work", "limit_us", "bound", "note"),
    [
        (CudaSettings(), Work(10**9, 10**6), 20.0, "compute", ""),
        (CudaSettings(tf32=True), Work(10**9, 10**6), 2.5, "compute", ""),
        (CudaSettings(precision="fp16", tf32=True), Work(10**9, 10**6), 1.25, "compute", ""),
        (stock("fp32"), Work(10**9, 10**8), 25.0, "memory", ""),
        (CudaSettings(tf32=True), Work(10**9, 2 * 10**7), 5.0, "memory", CACHED),
        (CudaSettings(), Work(10**11, 10**6), 2000.0, "compute", FASTER),
    ],
)
def test_the_longer_of_computing_and_moving_is_the_limit(
    cell: CudaSettings, work: Work, limit_us: float, bound: str, note: str
) -> None:
    found = limit_of(work, PEAKS, result(0.1, cell))
    assert found is not None
    assert found.limit_us == pytest.approx(limit_us)
    assert found.share_of_limit == pytest.approx(limit_us / 100)
    assert (found.bound, found.note) == (bound, note)


def test_without_its_peak_a_cell_has_no_limit() -> None:
    peaks = PEAKS.model_copy(update={"fp16_tflop_per_s": None})
    half, single = CudaSettings(precision="fp16", tf32=True), CudaSettings(tf32=True)
    record = CudaRecord(status="measured", results=(result(1.0, half), result(1.0, single)), peaks=peaks)
    limits = with_limits(record, {("fp16", 1): Work(1, 1), ("fp32", 1): Work(1, 1)}).results
    assert limits[0].limit is None
    assert limits[1].limit is not None
    assert with_limits(record.model_copy(update={"peaks": None}), {}).results == record.results
    assert [numbers_of(c) for c in (half, single, stock("fp32"), CudaSettings())] == [
        "fp16", "TF32", "TF32", "fp32",
    ]  # fmt: skip


def test_peaks_are_the_best_of_several_sizes_and_each_fails_for_itself() -> None:
    gpu = FakeGpu(ms=lambda cell, batch: 1e-3 * batch, fails=lambda cell, _batch: cell.precision == "fp16")
    with gpu.stations() as stations:
        found = measure_peaks(stations, 7, products=(10, 20), copies=(100, 200))
    assert found.tf32_tflop_per_s == pytest.approx(2 * 20**3 / 1e12 / 20e-6)
    assert found.fp32_tflop_per_s == found.tf32_tflop_per_s
    assert found.gbyte_per_s == pytest.approx(8 / 1e9 / 1e-6)
    assert (found.fp16_tflop_per_s, found.l2_bytes) == (None, 7)
    assert len(found.failed) == 2
    assert all("fp16_tflop_per_s" in line and "no kernel" in line for line in found.failed)

    def refuse(_kind: str) -> FakeGpu:
        raise OSError("cannot fork")

    nothing = measure_peaks(Stations(refuse), 0)  # type: ignore[arg-type]
    assert len(nothing.failed) == 8
    assert nothing.gbyte_per_s is None


@pytest.mark.parametrize(("op", "dtype"), [("MatMul", "float32"), ("MatMul", "float16"), ("Neg", "float32")])
def test_the_peaks_models_run_in_the_runtime(op: str, dtype: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    model = _node_model(tmp_path / "m.onnx", op, dtype)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    a = np.arange(4, dtype=dtype).reshape((2, 2) if op == "MatMul" else 4)
    given = {"a": a, "b": a} if op == "MatMul" else {"a": a}
    np.testing.assert_array_equal(session.run(None, given)[0], a @ a if op == "MatMul" else -a)


def test_a_chain_is_counted_by_hand(tmp_path: Path) -> None:
    model = chain(tmp_path / "m.onnx", layers=3)
    found = count_work(model, feeds(5))
    assert found == Work(operations=3 * 2 * 5 * 64 * 64, least_bytes=4 * (3 * 64 * 64 + 2 * 5 * 64))
