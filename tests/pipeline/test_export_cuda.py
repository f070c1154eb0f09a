"""A run whose race a GPU wins ends in a bundle for that GPU; the user's word `device` comes before the race.

The race, its parity and its processes are real; the GPU is a stand-in, see ``fake_cuda_onnxruntime.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import run
from pipeline.bench.host import Gpu
from pipeline.bench.records import TunedChoice, TuneRecord
from pipeline.config import BenchmarkConfig
from pipeline.records import RunRecord
from pipeline.sources.contract import ConvertRequest
from pipeline.stages.benchmark import benchmark_files, bundle_contender
from targets.manifest import Manifest, read_manifest
from targets.onnxruntime import recorded_options
from tests.bench.models import chain
from tests.targets.conftest import FakeCuda

H200 = Gpu("NVIDIA H200", "570.1", 143771)
CONFIG = """
name: chain
model: {path: chain.onnx}
optimize: {shapes: {x: [1, 256]}}
parity: {batch_sizes: [1], layers: false, float64: false}
benchmark: BENCHMARK
targets: [{name: onnxruntime, options: OPTIONS}]
"""
RACE = """
  contenders: [optimized]
  min_duration_s: 0.05
  min_samples: 20
  max_duration_s: 1
  profile: false
  tune:
    {budget_s: 5, threads: [1], recipes: [], runtimes: [onnxruntime, cuda], optimization: [all],
     layout: [NHWC], tf32: [false]}
"""


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A machine with a GPU."""
    pytest.importorskip("onnxruntime")
    (tmp_path / "fake_cuda").mkdir()
    fake_cuda = FakeCuda(tmp_path / "fake_cuda")
    for name, value in fake_cuda.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pipeline.bench.tune_model.why_no_cuda", lambda: "")
    monkeypatch.setattr("pipeline.bench.host.gpus", lambda: (H200,))
    return fake_cuda


def config(folder: Path, options: str, benchmark: str) -> Path:
    if not (folder / "chain.onnx").exists():
        chain(folder / "chain.onnx", layers=12, width=256)
    path = folder / "chain.yaml"
    places = f"store: {folder / 'store'}\nout: {folder / 'runs'}\n"
    path.write_text(CONFIG.replace("OPTIONS", options).replace("BENCHMARK", benchmark) + places)
    return path


def made(record: RunRecord) -> Manifest:
    (bundle,) = record.bundles
    assert bundle.status == "ok", bundle.reasons
    return read_manifest(Path(bundle.path))


def raced(record: RunRecord) -> TuneRecord:
    assert record.benchmark is not None
    assert record.benchmark.tune is not None
    return record.benchmark.tune


def holds(manifest: Manifest, choice: TunedChoice) -> None:
    """The manifest's settings and expectation are the choice's."""
    one, options = choice.contender, recorded_options(manifest.artefact.options)
    assert (options.threads, options.optimization) == (one.threads, one.optimization)
    assert (options.allow_spinning, options.io_binding) == (one.allow_spinning, one.io_binding)
    expected = manifest.benchmark["expected"]
    assert (expected["latency_ms"], expected["device"]) == (choice.latency_ms, one.device)
    assert expected["interval_ms"] == list(choice.interval_ms)
    if one.cuda is not None:
        stated = (one.cuda.layout, one.cuda.tf32, one.cuda.graph, one.cuda.cpu_fallback)
        assert (options.layout, options.tf32, options.cuda_graph, options.cpu_fallback) == stated


@pytest.mark.slow
def test_the_winner_on_a_gpu_goes_into_the_bundle(tmp_path: Path, gpu: FakeCuda) -> None:
    record = run(config(tmp_path, "{}", RACE))
    tune, manifest = raced(record), made(record)
    assert tune.winner.runtime == "cuda", tune.winner
    assert manifest.artefact.options["device"] == "cuda"
    holds(manifest, tune.winner)
    expected = manifest.benchmark["expected"]
    assert expected["gpu"] == "NVIDIA H200, driver 570.1"
    assert manifest.state.value == "verified"  # on the stand-in, and on the CPU
    assert "CUDA provider" in manifest.detail
    page = Path(record.report).read_text(encoding="utf-8")
    assert "made for the CUDA provider: " in page
    assert "the onnxruntime bundle is made for the GPU" in page
    folder = Path(record.bundles[0].path)
    assert "Expect " in (folder / "README.md").read_text()
    text = json.loads((folder / "manifest.json").read_text())["benchmark"]["expected"]["settings"]
    assert text == tune.winner.contender.name

    quick = BenchmarkConfig(min_duration_s=0.05, min_samples=20, max_duration_s=2, profile=False)
    request = [ConvertRequest(model=str(folder))]
    measured = benchmark_files(request, quick, lambda _t, _f: None, store=tmp_path / "store")
    (found,) = measured.expectations  # measured on the CPU
    assert (found.verdict, found.reason) == ("not_comparable", "device cuda there, cpu here")

    on_cpu = run(config(tmp_path, "{device: cpu}", RACE))
    plain = made(on_cpu)
    assert raced(on_cpu) == tune  # the same race, from the store
    choice = tune.choice_for("onnxruntime")
    assert choice is not None
    assert (plain.artefact.options["device"], plain.state.value) == ("cpu", "verified")
    assert plain.artefact.options["providers"] == ["CPUExecutionProvider"]
    holds(plain, choice)


@pytest.mark.slow
def test_a_bundle_for_a_gpu_is_made_where_none_is(tmp_path: Path) -> None:
    """The user asks for it; nothing is raced there, and the manifest says what was not executed."""
    pytest.importorskip("onnxruntime")
    wanted = "{device: cuda, io_binding: true, cuda_graph: true, layout: NHWC}"
    record = run(config(tmp_path, wanted, "null"))
    manifest = made(record)
    assert manifest.state.value == "produced, not executed"
    assert manifest.verification is not None
    assert "not executed: model.onnx#cuda" in manifest.detail
    assert manifest.benchmark == {}
    level = record.parity_detail.runtime_settings["optimized.optimization"]
    assert manifest.artefact.options["cpu_optimization"] == level  # for which parity was shown
    (bundle,) = record.bundles
    assert bundle.max_abs_over_range is not None
    assert record.status == "ok"
    # The CPU's answers are no proof of the artefact where it will serve.
    assert not [one for one in record.parity if one.question.startswith("reference_vs_artefact")]


def manifest_of(**options: Any) -> Manifest:
    empty = ("licences", "versions", "provenance", "parity", "benchmark", "hardware", "files")
    facts: dict[str, Any] = {key: {} for key in empty}
    return Manifest.model_validate(
        {
            **facts, "name": "m", "target": "onnxruntime", "state": "verified", "detail": "", "created": "",
            "made_by": "", "artefact": {"files": ["model.onnx"], "options": options}, "inputs": [],
            "outputs": [], "gate": {"max_abs_over_range": 1, "snr_db": 1}, "verification": None,
            "references": [], "labels": None, "layers": [],
        }
    )  # fmt: skip


def test_a_bundle_is_measured_with_its_own_settings_on_the_device_asked_for() -> None:
    for_gpu = manifest_of(device="cuda", io_binding=True, cuda_graph=True, layout="NHWC", threads=1)
    on_gpu = bundle_contender("b", Path("b"), for_gpu, "cuda")
    assert (on_gpu.device, on_gpu.io_binding) == ("cuda", True)
    assert on_gpu.cuda is not None
    assert (on_gpu.cuda.layout, on_gpu.cuda.graph, on_gpu.cuda.tf32) == ("NHWC", True, False)
    on_cpu = bundle_contender("b", Path("b"), for_gpu)
    assert (on_cpu.device, on_cpu.cuda, on_cpu.io_binding) == ("cpu", None, True)
    plain = bundle_contender("b", Path("b"), manifest_of(device="cpu", threads=2), "cuda")
    assert (plain.device, plain.cuda, plain.threads) == ("cpu", None, 2)  # it is made for the CPU
