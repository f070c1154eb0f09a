"""Crops of the sample photographs."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

Zoo = Callable[[str], ModuleType]


@pytest.mark.parametrize("size", [(224, 224), (270, 480), (64, 32)])
def test_crops_have_the_wanted_size_and_show_something(zoo: Zoo, size: tuple[int, int]) -> None:
    crops = zoo("photos").crop_photos(4, *size, seed=3)
    assert crops.shape == (4, *size, 3)
    assert crops.dtype == np.uint8
    assert crops.std(axis=(1, 2, 3)).min() > 10


def test_the_seed_decides(zoo: Zoo) -> None:
    crop = zoo("photos").crop_photos
    np.testing.assert_array_equal(crop(3, 32, 48, seed=1), crop(3, 32, 48, seed=1))
    assert (crop(3, 32, 48, seed=1) != crop(3, 32, 48, seed=2)).any()


def test_crops_of_one_photograph_differ(zoo: Zoo) -> None:
    crops = zoo("photos").crop_photos(6, 32, 32, seed=0)
    assert len({bytes(crop) for crop in crops}) == 6
