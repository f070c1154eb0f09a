"""Pictures of layers: one scale for all sides, kept small, stored and read again."""

from __future__ import annotations

import numpy as np
import pytest

from optim.errors import UserError
from pipeline.parity.feature_maps import (
    MOST_CHANNELS,
    MOST_LAYERS,
    MOST_PIXELS,
    feature_maps,
    read_feature_maps,
    spread,
    write_feature_maps,
)

VALUE = np.random.default_rng(0).normal(size=(2, 9, 130, 100)).astype(np.float32)


def test_sides_share_a_scale_and_an_axis_order():
    maps = feature_maps("conv", {"a": VALUE, "source": VALUE.transpose(0, 2, 3, 1)}, "a")
    assert maps is not None
    shape = maps.sides["a"].shape
    assert shape[0] == MOST_CHANNELS
    assert max(shape[1:]) <= MOST_PIXELS
    np.testing.assert_array_equal(maps.sides["a"], maps.sides["source"])
    assert maps.sides["a"].min() == 0
    assert maps.sides["a"].max() == 255
    first = VALUE[0, :MOST_CHANNELS]
    assert first.min() <= maps.low < maps.high <= first.max()


def test_a_difference_is_seen():
    maps = feature_maps("conv", {"a": VALUE, "b": VALUE * 2}, "a")
    assert maps is not None
    assert not np.array_equal(maps.sides["a"], maps.sides["b"])


@pytest.mark.parametrize(
    "value",
    [np.zeros((2, 10), np.float32), np.zeros((1, 3, 2, 9), np.float32), np.full((1, 1, 8, 8), np.nan)],
)
def test_what_is_no_picture(value):
    assert feature_maps("x", {"a": value}, "a") is None


def test_stored_and_read(tmp_path):
    maps = [feature_maps(name, {"a": VALUE, "b": VALUE}, "a") for name in ("conv|1", "conv/2")]
    write_feature_maps(maps, tmp_path / "maps.npz")
    read = read_feature_maps(tmp_path / "maps.npz")
    assert [one.layer for one in read] == ["conv|1", "conv/2"]
    np.testing.assert_array_equal(read[1].sides["b"], maps[1].sides["b"])
    assert (read[0].low, read[0].high) == (maps[0].low, maps[0].high)


def test_nothing_stored_and_damaged(tmp_path):
    assert read_feature_maps(tmp_path / "none.npz") == ()
    write_feature_maps([], tmp_path / "empty.npz")
    assert read_feature_maps(tmp_path / "empty.npz") == ()
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(UserError):
        read_feature_maps(tmp_path / "bad.npz")


@pytest.mark.parametrize("count", [0, 1, 2, MOST_LAYERS, 3 * MOST_LAYERS])
def test_layers_drawn_are_spread(count):
    chosen = spread(count)
    assert len(chosen) == min(count, MOST_LAYERS)
    assert not count or {0, count - 1} <= chosen
