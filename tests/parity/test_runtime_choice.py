"""The runtime's optimisation level is chosen by its distance from the truth."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from pipeline.config import GateConfig
from pipeline.parity.metrics import max_abs_over_range
from pipeline.parity.runtime_choice import choose_optimization
from targets.reference import Float64Session, OrtSession

from .networks import upscaler

FEEDS = {"random": {"x": np.random.default_rng(0).random((1, 2, 12, 12), dtype=np.float32)}}


@pytest.fixture
def path(tmp_path):
    ir.save(upscaler(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def outputs(path, level):
    with OrtSession(path, optimization=level) as session:
        return {label: session.run(feed) for label, feed in FEEDS.items()}


def test_the_fastest_level_is_kept_where_it_is_near_enough(path):
    truth = {label: Float64Session(path).run(feed) for label, feed in FEEDS.items()}
    choice = choose_optimization(path, FEEDS, truth, GateConfig(max_abs_over_range=1), source_error=1.0)
    assert choice.level == "all"
    assert choice.notice == ""
    error = max_abs_over_range(truth["random"]["y"], outputs(path, "all")["random"]["y"])
    assert [(e.level, e.error, e.passed) for e in choice.levels] == [("all", error, True)]


def test_a_level_that_loses_accuracy_is_passed_over_with_a_notice(tmp_path, path):
    """The truth is set beside the unoptimised result: the runtime's own rewrites are the farther ones."""
    plain, fast = outputs(path, "off"), outputs(path, "all")
    distance = max_abs_over_range(plain["random"]["y"], fast["random"]["y"])
    if distance <= 1e-6:
        pytest.skip(f"this ONNX Runtime computes nearly the same at both levels ({distance:.2g})")
    choice = choose_optimization(path, FEEDS, plain, GateConfig())
    assert choice.level != "all"
    assert choice.bound == pytest.approx(1e-6)
    assert choice.levels[0].level == "all"
    assert not choice.levels[0].passed
    assert choice.levels[-1].passed
    assert "is used instead" in choice.notice
    assert "'random'" in choice.notice


def test_the_nearest_level_is_taken_where_none_passes(path):
    far = {"random": {"y": outputs(path, "off")["random"]["y"][:, :, ::-1].copy()}}
    choice = choose_optimization(path, FEEDS, far, GateConfig())
    assert [e.level for e in choice.levels] == ["all", "extended", "basic", "off"]
    assert not any(e.passed for e in choice.levels)
    assert choice.level == min(choice.levels, key=lambda e: e.error).level
    assert "no level passes" in choice.notice or choice.level == "all"
