"""Layers compared as a stream."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx_ir as ir
import pytest

from pipeline.parity.compare_layers import as_study_row, compare_layers
from pipeline.parity.feature_maps import FeatureMaps
from pipeline.parity.moments import moments
from pipeline.parity.runtime_values import grouped, runtime_values
from targets.reference import OrtSession

from .networks import Builder, classifier, mobile

FEED = {"x": np.random.default_rng(0).random((2, 3, 12, 12), dtype=np.float32)}


@pytest.fixture
def pair(tmp_path):
    model = mobile(size=12, blocks=1)
    ir.save(model, tmp_path / "a.onnx")
    weight = model.graph.initializers["weight_8"]
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.01), name="weight_8")
    ir.save(model, tmp_path / "b.onnx")
    return tmp_path / "a.onnx", tmp_path / "b.onnx"


def test_each_tensor_has_a_row_and_errors_start_at_the_change(pair):
    rows = list(compare_layers(*pair, FEED))
    names = [v.name for node in ir.load(pair[0]).graph for v in node.outputs]
    assert [r.tensor for r in rows] == names
    assert np.median([r.error_a for r in rows]) < 2e-5
    wrong = [r.tensor for r in rows if r.error_b > 1e-4 + 2 * r.error_a]
    reader = next(n for n in ir.load(pair[0]).graph if any(v.name == "weight_8" for v in n.inputs))
    assert wrong[0] == reader.outputs[0].name
    assert rows[0].metrics.max_abs == 0


def test_mean_and_variance_are_those_of_the_tensors(pair):
    row = next(r for r in compare_layers(*pair, FEED) if r.op == "Clip")
    value = OrtSession(pair[0], optimization="off", expose=[row.tensor]).run(FEED)[row.tensor]
    assert row.mean_a == pytest.approx(value.mean(dtype=np.float64))
    assert row.variance_a == pytest.approx(value.var(dtype=np.float64))
    assert row.shape == value.shape


@pytest.mark.parametrize("budget", [1, 8_000, 1 << 30])
def test_the_memory_budget_changes_nothing(pair, budget):
    assert list(compare_layers(*pair, FEED, budget_bytes=budget)) == list(compare_layers(*pair, FEED))


def test_groups_fit_the_budget():
    sizes = {"a": 5, "b": 5, "c": 100, "d": 1, "e": 9}
    assert list(grouped(sizes, 10)) == [("a", "b"), ("c",), ("d", "e")]
    assert list(grouped({}, 10)) == []


def test_runtime_values_of_a_model_in_memory():
    model = classifier()
    feed = {"x": np.zeros((1, 3, 16, 16), np.float32)}
    values = dict(runtime_values(model, feed, {"logits:0": 40, "y": 40}))
    assert values["logits:0"].shape == values["y"].shape == (1, 10)


def test_moments_of_little_and_nothing():
    assert moments(np.array([1.0, 3.0])) == (2.0, 1.0)
    assert np.isnan(moments(np.zeros(0))).all()


def test_pictures_are_collected_on_the_way(pair):
    pictures: list[FeatureMaps] = []
    rows = list(compare_layers(*pair, FEED, pictures=pictures))
    assert 0 < len(pictures) < len(rows)
    assert set(pictures[0].sides) == {"a", "b"}


def test_a_tensor_in_another_layout_is_compared_and_said_to_be(tmp_path, pair):
    """A pass may keep a name and turn the axes; the next reader turns them back."""
    model = ir.load(pair[0])
    conv = next(n for n in model.graph if n.op_type == "Conv")
    name = conv.outputs[0].name
    conv.outputs[0].name = "inner"
    users = list(conv.outputs[0].uses())
    turned = ir.node("Transpose", [conv.outputs[0]], {"perm": (0, 2, 3, 1)}, outputs=[ir.Value(name=name)])
    back = ir.node("Transpose", [turned.outputs[0]], {"perm": (0, 3, 1, 2)}, outputs=[ir.Value(name="back")])
    model.graph.insert_after(conv, [turned, back])
    for node, index in users:
        node.replace_input_with(index, back.outputs[0])
    ir.save(model, tmp_path / "turned.onnx")
    row = next(r for r in compare_layers(pair[0], tmp_path / "turned.onnx", FEED) if r.tensor == name)
    assert row.note == "axes 0, 3, 1, 2"
    assert row.metrics is not None
    assert row.metrics.max_abs == 0
    assert row.error_b == row.error_a


def test_rows_for_the_report(pair):
    rows = [as_study_row(row) for row in compare_layers(*pair, FEED)]
    assert set(rows[0].moments) == {"a", "b"}
    assert any(row.digits for row in rows)  # a weight is off by one percent


def chain(depth: int = 48, channels: int = 4, size: int = 128) -> ir.Model:
    """Depthwise convolutions close to the identity: each tensor takes 256 KiB."""
    b = Builder(0, (1, channels, size, size))
    x = "x"
    for _ in range(depth):
        w = b.rng.normal(size=(channels, 1, 3, 3)) * 0.02
        w[:, :, 1, 1] += 1
        x = b.node("Conv", x, b.weight(w.astype(np.float32)), group=channels, pads=[1] * 4)
        x = b.node("Relu", x)
    return b.model(x)


def test_only_a_group_of_tensors_is_held(tmp_path):
    """`python -m benchmarks.parity --memory` shows it with a limit on the whole process."""
    ir.save(chain(), tmp_path / "m.onnx")
    feed = {"x": np.random.default_rng(0).random((1, 4, 128, 128), dtype=np.float32)}
    total = 0
    tracemalloc.start()
    try:
        for row in compare_layers(tmp_path / "m.onnx", tmp_path / "m.onnx", feed, budget_bytes=1 << 20):
            total += 4 * int(np.prod(row.shape))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total > 24 << 20
    assert peak < 12 << 20  # two groups, and one tensor at a time in float64
