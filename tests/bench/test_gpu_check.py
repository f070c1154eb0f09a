"""The CUDA check on a fake device: order, shares of time, what is joined, and what was asked and reached.

No figure of a real GPU is here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.bench.cuda import measure_matrix
from pipeline.bench.cuda_child import needs_tf32_off
from pipeline.bench.cuda_libraries import why_no_gpu
from pipeline.bench.records import CudaRecord, CudaSettings
from tests.bench.test_cuda import FakeDevice

pytest.importorskip("onnx")
from benchmarks.gpu.check import NO_RUNTIME, RUNS, Models, content, run_parts
from benchmarks.gpu.networks import NETWORKS, Network
from benchmarks.gpu.plan import BATCHES, Part, plan, share_s
from benchmarks.gpu.reach import NOT_MEASURED, reach

ROOT = Path(__file__).parents[2]


def tiny(out: Path) -> Path:
    """A dense network of the same input name as the others."""
    net = Network()
    return net.save(out, net.dense(net.add("Flatten", "image"), (4, 3), act="relu"), (1, 2, 2), 3)


@dataclass
class FakeChildren:
    """Stands for ``measure_in_children``: measures on the fake device, and lets the clock go on."""

    seconds: float = 1.0
    name: str = "NVIDIA H200"
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[Part, dict[str, Any]]] = field(default_factory=list)
    now: float = 0.0

    def __call__(
        self, model: str, given: dict[int, Any], cells: Sequence[CudaSettings], **options: Any
    ) -> CudaRecord:
        assert Path(model).is_file()
        precision = cells[0].precision
        assert {a.dtype.name for f in given.values() for a in f.values()} == {
            "float16" if precision == "fp16" else "float32"
        }
        self.asked.append((Part(options["name"], precision, tuple(given), tuple(cells)), options))
        self.now += self.seconds
        device = FakeDevice(name=self.name)
        wanted = {"runs", "energy_window_s", "name"}
        kept = {k: v for k, v in options.items() if k in wanted}
        return measure_matrix(device, model, given, cells, **kept)

    def clock(self) -> float:
        return self.now


def checked(
    tmp_path: Path, networks: Sequence[str], children: FakeChildren, limit_s: float = 480.0
) -> tuple[dict[str, CudaRecord], list[str]]:
    pytest.importorskip("onnxruntime")
    models = Models(tmp_path, dict.fromkeys(networks, tiny))
    parts = plan(networks, tensorrt=False, torch=False)
    return run_parts(parts, models, limit_s, measure=children, clock=children.clock)


def test_the_parts_together_are_the_whole_matrix_and_the_reach_comes_first() -> None:
    parts = plan(["digits", "resnet50"], tensorrt=True, torch=True)
    assert {(p.network, p.batches) for p in parts[:3]} == {("resnet50", (1, 64))}
    matrix = [p for p in parts if not p.energy_window_s]
    for name in ("digits", "resnet50"):
        cells = [(b, c) for p in matrix if p.network == name for b in p.batches for c in p.cells]
        assert len(cells) == len(set(cells)) == len(BATCHES) * (12 + 3 + 6 + 2)  # and the baselines
        assert sum(c.stock for _batch, c in cells) == len(BATCHES)
    for part in matrix:  # a process is of one kind, and torch.compile may take all its time
        assert len({needs_tf32_off(c) for c in part.cells}) == 1
        assert len({c.runtime == "torch.compile" for c in part.cells}) == 1
    assert not any(
        c.runtime == "torch.compile" for p in plan(["digits"], tensorrt=False, torch=False) for c in p.cells
    )
    measured = {(p.network, c) for p in matrix for c in p.cells}
    energies = [(p.network, p.cells[0]) for p in parts if p.energy_window_s]
    assert len(energies) == 4
    assert set(energies) <= measured  # of cells that stand in the matrix


def test_shares_add_up_to_the_time() -> None:
    parts = plan(["resnet50", "digits"], tensorrt=False, torch=True)
    left = 480.0
    for k in range(len(parts)):
        left -= share_s(left, parts[k:])
    assert left == pytest.approx(0.0)
    assert share_s(480.0, parts) > share_s(480.0, parts[3:])


def test_a_network_is_one_record_and_fp16_has_its_ratio_to_session_run(tmp_path: Path) -> None:
    children = FakeChildren()
    records, not_reached = checked(tmp_path, ["resnet50"], children)
    assert (list(records), not_reached) == (["resnet50"], [])
    record = records["resnet50"]
    assert len(record.results) == len(BATCHES) * (12 + 1 + 6)
    assert {r.model for r in record.results} == {"resnet50"}
    compared = {(c.batch, c.settings.precision) for c in record.comparisons}
    assert compared == {(b, p) for b in BATCHES for p in ("fp32", "fp16")}
    energies = [r for r in record.results if r.energy_mj is not None]
    assert {(r.batch, r.settings.precision) for r in energies} == {(64, "fp32"), (64, "fp16")}
    assert all(options["runs"] == RUNS for _part, options in children.asked)
    assert min(r.host.samples for r in record.results) == RUNS
    assert not any(
        "samples" in reason for r in record.results for reason in (r.grade.reasons if r.grade else ())
    )
    expected = children.asked[0][1]["references"][1]
    assert [a.shape for a in expected.values()] == [(1, 3)]
    json.dumps(content(records, not_reached, 1.0, {"cpu_model": "x"}))


def test_what_was_asked_is_read_off_in_one_place(tmp_path: Path) -> None:
    """The fake's session.run takes 2 ms; a graph 0.5 ms on the host, 1.25 ms from NumPy arrays and back."""
    records, _ = checked(tmp_path, ["resnet50"], FakeChildren())
    first, second, latency = reach(records)
    assert [(a["batch"], a["reached"]) for a in (first, second)] == [(1, True), (64, True)]
    found = {(one["numbers"], one["figure"]): one for one in first["found"]}
    assert {numbers for numbers, _figure in found} == {"fp32, TF32 off", "fp32, TF32 on", "fp16"}
    on_device = found["fp16", "inputs on the device"]
    assert (on_device["value"], on_device["reached"]) == (pytest.approx(4.0), True)
    from_numpy = found["fp16", "from NumPy arrays"]
    assert (from_numpy["value"], from_numpy["reached"]) == (pytest.approx(1.6), False)
    assert latency["asked"] == "at most 0.5 ms"
    assert latency["reached"] is True
    elsewhere, _ = checked(tmp_path, ["resnet50"], FakeChildren(name="NVIDIA A10"))
    assert {a["reached"] for a in reach(elsewhere)} == {"not measured on an H200"}


def test_what_was_not_measured_is_not_reached(tmp_path: Path) -> None:
    assert [a["reached"] for a in reach({})] == [NOT_MEASURED] * 3
    none = CudaRecord(status="not measured", reason="no driver")
    assert {a["why"] for a in reach({"resnet50": none})} == {"no driver"}
    without = {
        "resnet50": measure_matrix(FakeDevice(), "m", {1: {"x": np.zeros(9, np.float32)}}, [CudaSettings()])
    }
    assert [a["reached"] for a in reach(without)][:2] == [NOT_MEASURED] * 2  # no session.run beside it


def test_what_the_time_does_not_allow_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    children = FakeChildren(seconds=100.0)
    records, not_reached = checked(tmp_path, ["digits", "resnet50"], children, limit_s=350.0)
    assert [part.network for part, _options in children.asked] == ["resnet50"] * 3 + ["digits"]
    assert list(records) == ["resnet50", "digits"]
    assert "digits fp16, the matrix, batch 1, 8, 64, 256" in not_reached
    assert "resnet50 fp32, energy, batch 64" in not_reached
    shares = [options["limit_s"] for _part, options in children.asked]
    assert all(share <= 350.0 - 100.0 * k for k, share in enumerate(shares))


def test_a_network_that_cannot_be_halved_keeps_its_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu.check.half", lambda _model, _out: "no float16 variant: no package")
    records, not_reached = checked(tmp_path, ["digits"], FakeChildren())
    assert {r.settings.precision for r in records["digits"].results} == {"fp32"}
    assert any(line.endswith("no float16 variant: no package") for line in not_reached)


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
