"""The CUDA check on a fake GPU: order, shares of time, what is kept, and what was asked and reached.

No figure of a real GPU is here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pipeline.bench.cuda.contract import stock
from pipeline.bench.cuda.course import Course, Subject
from pipeline.bench.cuda.heat import Rounds
from pipeline.bench.cuda.libraries import why_no_gpu
from pipeline.bench.cuda.measure import hello
from pipeline.bench.records import CudaPeaks, CudaRecord, CudaSettings
from tests.bench.fake_gpu import FakeGpu

pytest.importorskip("onnx")
from benchmarks.gpu import check
from benchmarks.gpu.check import NO_RUNTIME, Keeper, Models, content, on_this_gpu, run_parts
from benchmarks.gpu.networks import NETWORKS, Network
from benchmarks.gpu.plan import BATCHES, Part, plan, share_s
from benchmarks.gpu.reach import NOT_MEASURED, reach

ROOT = Path(__file__).parents[2]


def tiny(out: Path) -> Path:
    """A dense network of the same input name as the others."""
    net = Network()
    return net.save(out, net.dense(net.add("Flatten", "image"), (4, 3), act="relu"), (1, 2, 2), 3)


def pays(cell: CudaSettings, batch: int) -> float:
    """Milliseconds: a bound float16 graph is eight times as fast as session.run on the GPU's clock."""
    share = 1.0 if cell.stock else 0.9 if not cell.bound else 0.25 if cell.graph else 0.5
    half = 0.5 if cell.precision == "fp16" else 1.0
    return 2.0 * share * half


@dataclass
class Measured:
    """Measures parts on the fake GPU, and remembers them."""

    gpu: FakeGpu = field(default_factory=lambda: FakeGpu(ms=pays))
    seconds: float = 1.0  # that go by beside, each part
    asked: list[tuple[Part, float]] = field(default_factory=list)
    fails: Callable[[Part], bool] = lambda _part: False

    def __call__(
        self, part: Part, subject: Subject, limit_s: float, keep: Callable[[CudaRecord], None]
    ) -> CudaRecord:
        assert all(Path(subject.files[p]).is_file() for p in part.precisions)
        self.asked.append((part, limit_s))
        self.gpu.now += self.seconds
        silent = replace(subject, references={})  # the fake computes no network
        with self.gpu.stations() as stations:
            course = Course(
                silent, part.cells, stations, hello(stations), rounds=Rounds(rounds=8, block_ms=1.0),
                energy=part.energy, keep=keep, clock=self.gpu.clock,
            )  # fmt: skip
            record = course.run(limit_s)
        if self.fails(part):
            raise RuntimeError("something nobody thought of")
        return record


def checked(
    tmp_path: Path, networks: Sequence[str], measure: Measured, limit_s: float = 480.0, *, torch: bool = False
) -> tuple[dict[str, CudaRecord], list[str]]:
    pytest.importorskip("onnxruntime")
    models = Models(tmp_path, dict.fromkeys(networks, tiny))
    parts = plan(networks, tensorrt=False, torch=torch)
    return run_parts(parts, models, limit_s, measure, clock=measure.gpu.clock)


def test_the_parts_together_are_the_whole_matrix_and_the_reach_comes_first() -> None:
    parts = plan(["digits", "resnet50"], tensorrt=True, torch=True)
    assert parts[0].network == "resnet50"
    for name in ("digits", "resnet50"):
        cells = [(b, c) for p in parts if p.network == name for b in p.batches for c in p.cells]
        assert (
            len(cells) == len(set(cells)) == len(BATCHES) * (12 + 2 + 6 + 2)
        )  # the baseline is in each heat
        assert not any(c.stock for _batch, c in cells)
    for part in parts:  # another compiler may take all its time
        assert len({c.runtime for c in part.cells}) == 1
    kinds = [part.cells[0].runtime for part in parts]
    assert kinds[:2] == ["onnxruntime"] * 2
    assert "onnxruntime" not in kinds[2:]
    assert not any(
        c.runtime == "torch.compile"
        for part in plan(["digits"], tensorrt=False, torch=False)
        for c in part.cells
    )
    for part in parts[:2]:
        assert set(part.energy.cells) <= set(part.cells)
        assert {c.precision for c in part.energy.cells} == {"fp32", "fp16"}


def test_shares_add_up_to_the_time() -> None:
    parts = plan(["resnet50", "digits"], tensorrt=False, torch=True)
    left = 480.0
    for k in range(len(parts)):
        left -= share_s(left, parts[k:])
    assert left == pytest.approx(0.0)
    weights = {part.network: part.weight for part in parts[:2]}
    assert weights["resnet50"] > weights["digits"]


def test_a_network_is_one_record_and_fp16_has_its_ratio_to_session_run(tmp_path: Path) -> None:
    measure = Measured()
    records, not_reached = checked(tmp_path, ["resnet50"], measure, torch=True)
    assert (list(records), not_reached) == (["resnet50"], [])
    record = records["resnet50"]
    assert {r.model for r in record.results} == {"resnet50"}
    assert len([r for r in record.results if r.settings.runtime == "onnxruntime"]) >= len(BATCHES) * (
        12 + 1 + 6
    )
    compared = {(c.batch, c.settings.precision) for c in record.comparisons}
    assert compared == {(b, p) for b in BATCHES for p in ("fp32", "fp16")}
    assert {c.baseline for c in record.comparisons} == {stock("fp32")}
    energies = [r for r in record.results if r.energy_mj is not None]
    assert {(r.batch, r.settings.precision) for r in energies} == {(64, "fp32"), (64, "fp16")}
    assert [part.cells[0].runtime for part, _limit in measure.asked] == ["onnxruntime"] + 2 * [
        "torch.compile"
    ]
    assert len({heat.name for heat in record.heats}) == len(record.heats)
    json.dumps(content(records, not_reached, 1.0, {"cpu_model": "x"}))


def test_what_was_asked_is_read_off_in_one_place(tmp_path: Path) -> None:
    """The fake's session.run takes 2 ms; a float16 graph 0.25 on the GPU, 0.1 more on the host."""
    records, _ = checked(tmp_path, ["resnet50"], Measured())
    first, second, latency = reach(records)
    assert [(a["batch"], a["reached"]) for a in (first, second)] == [(1, True), (64, True)]
    found = {(one["numbers"], one["figure"]): one for one in first["found"]}
    assert {numbers for numbers, _figure in found} == {"fp32, TF32 off", "fp32, TF32 on", "fp16"}
    on_device = found["fp16", "inputs on the device"]
    assert (on_device["value"], on_device["reached"]) == (pytest.approx(2 / 0.35), True)
    pageable = found["fp16", "from NumPy arrays"]
    assert (pageable["value"], pageable["reached"]) == (pytest.approx(2.0 / 0.9), False)
    assert found["fp16", "from page-locked NumPy arrays"]["value"] == pytest.approx(4.0)
    assert latency["asked"] == "at most 0.5 ms"
    assert latency["reached"] is True
    elsewhere, _ = checked(tmp_path, ["resnet50"], Measured(FakeGpu(name="NVIDIA A10", ms=pays)))
    assert {a["reached"] for a in reach(elsewhere)} == {"not measured on an H200"}


def test_a_baseline_that_is_unlike_itself_reaches_less(tmp_path: Path) -> None:
    """Sessions that differ by a third leave no room to claim a factor of 4 that measures 5.7."""
    gpu = FakeGpu(ms=pays, session_spread=0.3)
    records, _ = checked(tmp_path, ["resnet50"], Measured(gpu))
    assert [a["reached"] for a in reach(records)][:2] == [False, False]


def test_what_was_not_measured_is_not_reached(tmp_path: Path) -> None:
    assert [a["reached"] for a in reach({})] == [NOT_MEASURED] * 3
    none = CudaRecord(status="not measured", reason="no driver")
    assert {a["why"] for a in reach({"resnet50": none})} == {"no driver"}
    gpu = FakeGpu(ms=pays, fails=lambda cell, _batch: cell.stock)
    without, _ = checked(tmp_path, ["resnet50"], Measured(gpu))
    assert [a["reached"] for a in reach(without)][:2] == [NOT_MEASURED] * 2  # no session.run beside it


def test_what_the_time_does_not_allow_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    measure = Measured(seconds=100.0)
    records, not_reached = checked(tmp_path, ["digits", "vgg16", "resnet50"], measure, limit_s=210.0)
    assert [part.network for part, _limit in measure.asked] == ["resnet50", "digits"]
    assert list(records) == ["resnet50", "digits"]
    assert not_reached == ["vgg16, the matrix, batch 1, 8, 64, 256"]
    assert all(limit <= 210.0 for _part, limit in measure.asked)


def test_a_network_that_cannot_be_halved_keeps_its_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "in_half", lambda _model, _out: "no float16 variant: no package")
    records, not_reached = checked(tmp_path, ["digits"], Measured())
    assert {r.settings.precision for r in records["digits"].results} == {"fp32"}
    assert any(line.endswith("no float16 variant: no package") for line in not_reached)


def test_a_part_that_breaks_costs_itself_and_what_it_had_measured_stays(tmp_path: Path) -> None:
    measure = Measured(fails=lambda part: part.network == "resnet50")
    records, not_reached = checked(tmp_path, ["resnet50", "digits"], measure)
    assert "RuntimeError: something nobody thought of" in not_reached[0]
    assert {r.batch for r in records["resnet50"].results} == set(BATCHES)  # kept after each heat
    assert records["digits"].status == "measured"


def test_the_file_is_written_while_it_measures(tmp_path: Path) -> None:
    out = tmp_path / "results" / "cuda.json"
    keep = Keeper(out, lambda records, not_reached: content(records, not_reached, 1.0, {}))
    keep(lambda: {"a": CudaRecord(status="not measured", reason="none")}, [])
    assert not out.exists()
    records, _ = checked(tmp_path, ["digits"], Measured())
    keep(lambda: records, [])
    assert json.loads(out.read_text())["matrix"][0]["network"] == "digits"
    out.unlink()
    keep(lambda: records, [])  # just now
    assert not out.exists()
    keep.last(records, [])
    assert out.exists()


def test_the_whole_goes_through_the_processes(tmp_path: Path) -> None:
    """Peaks, cells and limits as the check asks for them, with the real parent and the fake GPU."""
    pytest.importorskip("onnxruntime")
    gpu = FakeGpu(ms=pays)
    with gpu.stations() as stations:
        peaks = CudaPeaks(
            fp32_tflop_per_s=50.0, tf32_tflop_per_s=400.0, fp16_tflop_per_s=800.0, gbyte_per_s=4000.0
        )
        measure = on_this_gpu(stations, hello(stations), peaks)
        (part, *_) = plan(["digits"], tensorrt=False, torch=False)
        part = Part("digits", (1,), part.cells[:3])
        models = Models(tmp_path, {"digits": tiny})
        models.answers["digits"] = {}
        records, not_reached = run_parts([part], models, 100.0, measure)
    assert not_reached == []
    record = records["digits"]
    assert record.peaks == peaks
    assert all(r.limit is not None and r.limit.operations == 2 * 4 * 3 for r in record.results)
    assert "CUPTI" in record.nodes


def test_the_default_networks_are_all() -> None:
    from benchmarks.gpu.check import QUICK_FIRST

    assert set(QUICK_FIRST) == set(NETWORKS)


@pytest.mark.skipif(why_no_gpu() == "", reason="this machine may have a GPU: the check would start")
def test_without_a_gpu_the_check_says_so_and_writes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.check", "--out", str(tmp_path / "cuda.json")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == NO_RUNTIME
    assert done.stderr.startswith("CUDA was not measured: no NVIDIA GPU on this machine")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(why_no_gpu() == "", reason="this machine may have a GPU: the target would install")
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_gpu_check_fails_with_the_line_before_it_installs_anything(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    done = subprocess.run(
        ["make", "gpu-check"], cwd=tmp_path, capture_output=True, text=True, check=False, env=clean
    )
    assert done.returncode == 2  # make's own status for any failed recipe
    assert done.stderr.startswith("CUDA was not measured: no NVIDIA GPU on this machine")
    assert "Error 4" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["Makefile"]
