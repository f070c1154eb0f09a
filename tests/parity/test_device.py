"""The same code on another array module, as on a GPU: a stand-in that refuses to mix with NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.parity import metrics
from targets.reference import Float64Session

from .device_arrays import XP, DeviceArray
from .networks import NETWORKS

RNG = np.random.default_rng(0)
A = RNG.normal(size=(4, 10)).astype(np.float32)
B = A + np.float32(1e-3) * RNG.normal(size=A.shape).astype(np.float32)


def test_the_stand_in_refuses_what_cupy_refuses():
    with pytest.raises(TypeError):
        np.asarray(XP.asarray(A))
    with pytest.raises(TypeError):
        XP.asarray(A) + B
    with pytest.raises(TypeError):
        XP.add(XP.asarray(A), B)
    assert isinstance(XP.asarray(A) * 2 + XP.asarray(B), DeviceArray)


@pytest.mark.parametrize("network", NETWORKS)
def test_float64_evaluation_is_the_same(network):
    model = network(0)
    dims = [d if isinstance(d, int) else 2 for d in model.graph.inputs[0].shape]
    feed = {"x": RNG.random(dims).astype(np.float32)}
    host, device = Float64Session(model), Float64Session(model, xp=XP)
    np.testing.assert_array_equal(host.run(feed)["y"], device.run(feed)["y"])
    values = {name: value for _, name, value in device.evaluator.trace(feed)}
    assert all(isinstance(v, DeviceArray) for v in values.values() if v.dtype.kind == "f")


@pytest.mark.parametrize(
    "name",
    ["max_abs", "max_abs_over_range", "rms", "snr_db", "cosine", "median_ulp", "max_relative_clipped"],
)
def test_metrics_are_the_same(name):
    function = getattr(metrics, name)
    assert function(XP.asarray(A), XP.asarray(B)) == function(A, B)


def test_all_metrics_at_once_classes_and_worst_elements():
    assert metrics.compare(XP.asarray(A), XP.asarray(B)) == metrics.compare(A, B)
    labels = RNG.integers(0, 10, 4)
    assert metrics.accuracy(XP.asarray(A), labels) == metrics.accuracy(A, labels)
    assert metrics.topk_agreement(XP.asarray(A), XP.asarray(B)) == metrics.topk_agreement(A, B)
    assert metrics.worst_elements(XP.asarray(A), XP.asarray(B)) == metrics.worst_elements(A, B)


def test_non_finite_values_are_counted_on_the_device():
    bad = B.copy()
    bad[0, :3] = np.nan, np.inf, -np.inf
    found = metrics.compare(XP.asarray(A), XP.asarray(bad))
    assert (found.nan_count, found.inf_count, found.max_abs) == (1, 2, np.inf)
