"""The runtime's optimisation level is chosen by its distance from the truth."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest

from pipeline.config import GateConfig, ParityConfig
from pipeline.parity.metrics import max_abs_over_range
from pipeline.parity.runtime_choice import choose_optimization
from pipeline.parity.study import study
from targets.reference import Float64Session, OrtSession

from .networks import Builder, mobile, upscaler

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


def test_a_loss_on_a_zero_input_is_noticed_said_and_avoided(tmp_path):
    """A small MobileNet whose rounding ONNX Runtime's rewrites make worse, most of all on zeros."""
    path = tmp_path / "m.onnx"
    ir.save(mobile(2, size=32), path)
    config = ParityConfig(batch_sizes=(1,))
    with OrtSession(path, optimization="off") as source:
        record = study(source, path, path, None, config)
    worst = float(record.runtime_settings["optimized.error_at_all"])
    if "optimized.error_at_off" not in record.runtime_settings:
        pytest.skip(f"this ONNX Runtime loses too little when it optimises: {worst:.2g}")
    plain = float(record.runtime_settings["optimized.error_at_off"])
    assert worst > 2 * plain + 1e-6
    assert record.runtime_settings["optimized.optimization"] == "off"
    (notice,) = (text for text in record.notices if text.startswith("ONNX Runtime at 'all'"))
    told = re.search(r"is (\d+\.\d) × as far from the float64 truth as unoptimised", notice)
    assert told is not None
    assert float(told[1]) == pytest.approx(worst / plain, abs=0.15)  # settings keep three digits
    assert "'zeros/batch=1'" in notice
    assert "'off' is used instead" in notice
    assert all(c.passed for c in record.comparisons if c.question == "before_vs_after")


def test_a_pool_that_the_runtime_pads_wrongly_is_noticed_and_avoided(tmp_path):
    """ONNX Runtime 1.31 merges a Pad of zeros into MaxPool, whose own padding is minus infinity.

    Below zero that is another function; ResNet50V2, whose first pool has no ReLU before it, is such a model.
    """
    b = Builder(0, (1, 3, 17, 17))
    x = b.node("Pad", b.conv("x", 3, 8), b.weight(np.array([0, 0, 1, 1, 0, 0, 1, 1])))
    x = b.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    path = tmp_path / "m.onnx"
    ir.save(b.model(b.conv(x, 8, 4)), path)
    with OrtSession(path, optimization="off") as source:
        record = study(source, path, path, None, ParityConfig(batch_sizes=(1,)))
    if record.runtime_settings["optimized.optimization"] == "all":
        pytest.skip("this ONNX Runtime pads as the graph says")
    assert float(record.runtime_settings["optimized.error_at_all"]) > 1e-3
    assert record.runtime_settings["optimized.optimization"] == "off"
    assert any("is used instead" in notice for notice in record.notices)
    assert all(c.passed for c in record.comparisons)
