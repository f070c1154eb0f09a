"""A run that tunes: the settings that won are in the bundle, with the latency to expect there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import run
from pipeline.config import BenchmarkConfig
from pipeline.sources.contract import ConvertRequest
from pipeline.stages.benchmark import benchmark_files
from tests.pipeline.conftest import write_config


@pytest.fixture
def tuned_config_file(tmp_path: Path, net: Path) -> Path:
    tune = "{budget_s: 6, threads: [1], recipes: [cleanup], runtimes: [onnxruntime], optimization: [all]}"
    short = "contenders: [raw, optimized], min_duration_s: 0.05, min_samples: 20, max_duration_s: 2"
    return write_config(tmp_path, f"{{{short}, roofline: false, tune: {tune}}}")


@pytest.mark.slow
def test_settings_that_won_go_into_the_bundle(tuned_config_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    record = run(tuned_config_file)
    assert record.benchmark is not None
    tune = record.benchmark.tune
    assert tune is not None
    choice = tune.choice_for("onnxruntime")
    assert choice is not None
    assert {one.error is not None for one in tune.raced} == {True}  # each was held to the source's answers
    folder = Path(record.bundles[0].path)
    manifest = json.loads((folder / "manifest.json").read_text())
    options = manifest["artefact"]["options"]
    chosen = choice.contender
    for name in ("threads", "optimization", "allow_spinning", "io_binding"):
        assert options[name] == getattr(chosen, name)
    expected = manifest["benchmark"]["expected"]
    assert expected["interval_ms"][0] <= expected["latency_ms"] <= expected["interval_ms"][1]
    assert expected["host"] == tune.host
    assert not list((tmp_path / "store" / "races").glob("race_*"))
    page = Path(record.report).read_text()
    assert "Tuned for this machine" in page
    assert "Error against latency" in page

    quick = BenchmarkConfig(min_duration_s=0.05, min_samples=20, max_duration_s=2, profile=False)
    measured = benchmark_files(
        [ConvertRequest(model=str(folder))], quick, lambda _t, _f: None, store=tmp_path / "store"
    )
    (found,) = measured.expectations
    assert found.expected_ms == expected["latency_ms"]
    assert found.verdict in ("as_expected", "faster", "slower")
