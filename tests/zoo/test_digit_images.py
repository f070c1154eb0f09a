"""Enlarging, splitting and jittering the digit images."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

Zoo = Callable[[str], ModuleType]
Floats = npt.NDArray[np.float64]


def bilinear(image: Floats, size: int) -> Floats:
    """Half-pixel bilinear resize of [8, 8] by linear interpolation along one axis after the other."""
    places = (np.arange(size) + 0.5) * len(image) / size - 0.5
    known = np.arange(len(image))
    rows = np.stack([np.interp(places, known, column) for column in image.T], axis=1)
    return np.stack([np.interp(places, known, row) for row in rows])


@settings(max_examples=25, deadline=None)
@given(size=st.integers(8, 70), seed=st.integers(0, 999))
def test_enlarge_is_bilinear_with_half_pixel_centres(zoo: Zoo, size: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 17, (1, 8, 8)).astype(float)
    large = zoo("digit_images").enlarge(image, size)
    assert large.shape == (1, size, size, 1)
    assert large.dtype == np.uint8
    np.testing.assert_allclose(large[0, ..., 0], bilinear(image[0], size) * 255 / 16, atol=0.5 + 1e-6)


def test_every_size_holds_out_the_same_images(zoo: Zoo) -> None:
    load = zoo("digit_images").load_digit_images
    small, large = load(8), load(64)
    np.testing.assert_array_equal(small.test_y, large.test_y)
    assert large.test_x.shape == (450, 64, 64, 1)
    assert large.train_x.shape == (1347, 64, 64, 1)


def test_training_and_held_out_images_make_up_the_whole_set(zoo: Zoo) -> None:
    from sklearn.datasets import load_digits

    data = zoo("digit_images").load_digit_images(8)
    parts = np.concatenate([data.train_x, data.test_x])[..., 0]
    whole = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, parts)) == sorted(map(bytes, whole))


def test_jitter_of_nothing_changes_nothing(zoo: Zoo) -> None:
    images = zoo("digit_images").load_digit_images(28).train_x[:5]
    still = zoo("digit_images").jitter(images, np.random.default_rng(0), degrees=0.0, shift=0.0)
    np.testing.assert_array_equal(still, images)


def test_jitter_moves_but_keeps_shape_and_seed_decides(zoo: Zoo) -> None:
    images = zoo("digit_images").load_digit_images(28).train_x[:5]
    first, second, other = (
        zoo("digit_images").jitter(images, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == images.shape
    assert first.dtype == images.dtype
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    assert first.mean() == pytest.approx(images.mean(), rel=0.2)


def test_floats_are_in_the_unit_interval(zoo: Zoo) -> None:
    floats = zoo("digit_images").as_floats(np.asarray([0, 128, 255], np.uint8))
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, [0, 128 / 255, 1], rtol=1e-6)
