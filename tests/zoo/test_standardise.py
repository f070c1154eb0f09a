"""Data-dependent initialisation gives the statistics it promises."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

Zoo = Callable[[str], ModuleType]


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(1, 30),
    channels=st.integers(1, 8),
    spread=st.floats(0.1, 100.0),
    offset=st.floats(-5.0, 5.0),
    seed=st.integers(0, 99),
)
def test_channels_get_the_wanted_spread(
    zoo: Zoo, inputs: int, channels: int, spread: float, offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((200, inputs)) + offset).astype(np.float32)
    weights, biases, y = zoo("standardise").standardise(
        lambda w, b: x @ w + b,
        zoo("standardise").he_normal((inputs, channels), rng),
        rng,
        spread=spread,
    )
    np.testing.assert_allclose(y, x @ weights + biases, rtol=1e-6)
    np.testing.assert_allclose(y.astype(np.float64).std(axis=0), spread, rtol=1e-3)
    assert np.abs(y.mean(axis=0)).max() < 2 * spread  # means are drawn with deviation 0.3 · spread
    assert np.abs(biases).min() > 0


def test_a_channel_that_does_not_vary_is_refused(zoo: Zoo) -> None:
    weights = np.asarray([[1.0, 0.0]], np.float32)
    x = np.asarray([[1.0], [2.0]], np.float32)
    with pytest.raises(ValueError, match="1 of 2 channels"):
        zoo("standardise").standardise(lambda w, b: x @ w + b, weights, np.random.default_rng(0))
