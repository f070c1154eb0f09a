"""``--recipe fast`` with the real timer: it measures, keeps what it measured, and keeps the outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optim.catalog import FORMS
from optim.model import load, save
from optim.verify import difference, probes_for
from pipeline.records import OptimizeRecord
from pipeline.stages.optimize import optimize_file, timings_file
from targets.reference import OrtOracle
from tests.optim.table import graph, normal

pytest.importorskip("onnxruntime")

_TEXT = (
    "g (float[N, 32, 14, 14] X) => (float[N, 32, 14, 14] Y)"
    " { A = Conv<pads = [1, 1, 1, 1]>(X, W) B = Relu(A) Y = LRN<size = 5, alpha = 0.5>(B) }"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert timings_file().is_relative_to(tmp_path)
    return timings_file()


def _rewritten(record: OptimizeRecord) -> dict[str, tuple[str, ...]]:
    return {line.name: line.site_names for line in record.ledger if line.name in FORMS}


def test_it_measures_once_and_decides_alike(tmp_path: Path, cache: Path) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "fast.onnx"
    save(graph(_TEXT, {"W": normal(32, 32, 3, 3, scale=0.1)}), source)
    first = optimize_file(source, out, recipe="fast", progress=lambda *_: None)
    (measured,) = json.loads(cache.read_text())["hosts"].values()
    at_least = 1 + len(FORMS["winograd_convolution"])  # each form of each site
    assert len(measured) >= at_least
    for line in first.ledger:
        if line.name in FORMS:  # rewritten where faster, and refused with the figure where not
            assert all(
                "measured to be faster" in r.reason or "whole graph" in r.reason for r in line.refusals
            )
    second = optimize_file(source, out, recipe="fast", progress=lambda *_: None)
    assert _rewritten(second) == _rewritten(first)
    assert list(json.loads(cache.read_text())["hosts"].values()) == [measured]
    oracle, original, model = OrtOracle(), load(source), load(out)
    for probe in probes_for(original):
        apart = difference(oracle(model, probe.feeds), oracle(original, probe.feeds))
        assert apart.max_abs_over_range < 2e-5, probe.name


def test_other_recipes_measure_nothing(tmp_path: Path, cache: Path) -> None:
    source = tmp_path / "model.onnx"
    save(graph(_TEXT, {"W": normal(32, 32, 3, 3, scale=0.1)}), source)
    optimize_file(source, tmp_path / "out.onnx", recipe="canonical", progress=lambda *_: None)
    assert not cache.exists()
