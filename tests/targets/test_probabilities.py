"""Probabilities are compared as logarithms, in the bundle and in its own script, where they say something."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from targets.closeness import APART, closeness

LOGITS = np.random.default_rng(0).normal(size=(2, 50))


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (e / e.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def script(repository: Path) -> ModuleType:
    path = repository / "targets" / "templates" / "scripts" / "verify.py"
    spec = importlib.util.spec_from_file_location("bundle_verify", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_saturated_softmax_hides_nothing(script: ModuleType) -> None:
    logits = np.array([[40.0, 0.0, -20.0]])
    a, b = softmax(logits), softmax(logits + np.array([[0, 0, 0.1]]))
    assert closeness(b, a).max_abs_over_range < 1e-8, "as plain numbers the two look the same"
    assert closeness(b, a, softmax=True).max_abs_over_range > 1e-3
    assert script.closeness(np, b, a, True)[0] > 1e-3


def test_the_figure_is_that_of_the_logits() -> None:
    shifted = LOGITS + np.random.default_rng(1).normal(size=LOGITS.shape) * 1e-4
    found = closeness(softmax(shifted), softmax(LOGITS), softmax=True)
    log_a, log_b = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (shifted, LOGITS))
    expected = np.abs(log_a - log_b).max() / (log_b.max() - log_b.min())
    assert math.isclose(found.max_abs_over_range, expected, rel_tol=1e-2)


def test_vanished_probabilities_are_compared_as_they_are(script: ModuleType) -> None:
    a, b = softmax(np.array([[0.0, -200.0]])), softmax(np.array([[0.0, -90.0]]))
    assert a[0, 1] == 0
    assert closeness(a, b, softmax=True) == closeness(a, b)
    assert script.closeness(np, a, b, True) == script.closeness(np, a, b)


def test_nan_is_apart() -> None:
    a = softmax(LOGITS)
    b = a.copy()
    b[0, 0] = np.nan
    assert closeness(b, a, softmax=True) == APART
