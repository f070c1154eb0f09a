"""What the numbers themselves say about a cause."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.parity.cause import affine_factors, another_epsilon, channel_factors

RNG = np.random.default_rng(0)
VARIANCE = RNG.uniform(1e-3, 1.0, 16)


def epsilon_factors(before, after):
    return np.sqrt((VARIANCE + before) / (VARIANCE + after))


@pytest.mark.parametrize(("before", "after"), [(1e-3, 1e-5), (1e-5, 1e-3), (1e-3, 1e-2)])
def test_another_epsilon_scales_all_channels_to_one_side(before, after):
    assert another_epsilon(epsilon_factors(before, after))


@pytest.mark.parametrize(
    "factors",
    [
        np.full(16, 1.01),  # one scale for all
        1 + 0.01 * RNG.normal(size=16),  # to both sides
        -epsilon_factors(1e-3, 1e-2),
        np.ones(16),
    ],
)
def test_other_scalings_are_no_epsilon(factors):
    assert not another_epsilon(factors)


@pytest.mark.parametrize("shape", [(16, 3, 3, 3), (16, 1, 3, 3), (1, 16, 1, 1), (16,)])
def test_channel_factors_of_kernels_and_scales(shape):
    left = RNG.normal(size=shape).astype(np.float32)
    factors = epsilon_factors(1e-3, 1e-2)
    along = [1] * len(shape)
    along[int(np.argmax([n == 16 for n in shape]))] = 16
    right = left * factors.reshape(along)
    np.testing.assert_allclose(channel_factors(left, right), factors, rtol=1e-6)
    if left.size > 16:
        assert channel_factors(left, right + RNG.normal(size=shape)) is None


def test_affine_factors_of_activations():
    x = RNG.normal(size=(2, 16, 5, 5))
    factors, shift = epsilon_factors(1e-3, 1e-2), RNG.normal(size=16)
    y = x * factors[:, None, None] + shift[:, None, None]
    np.testing.assert_allclose(affine_factors(x, y), factors, rtol=1e-9)
    assert affine_factors(x, y**3) is None
    assert affine_factors(x[:, :, :1, :1], y[:, :, :1, :1]) is None  # too few cells to tell
