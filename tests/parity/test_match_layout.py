"""Tensors of different axis orders are compared, and the words say how they were turned."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.parity.match_layout import align

X = np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype(np.float32)
CUBE = np.random.default_rng(1).normal(size=(4, 4, 4, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("got", "words"),
    [
        (X, ""),
        (X + np.float32(1e-6), ""),
        (X.transpose(0, 2, 3, 1), "axes 0, 3, 1, 2"),
        (X.transpose(0, 3, 1, 2), "axes 0, 2, 3, 1"),
        (X.transpose(0, 1, 3, 2), "axes 0, 1, 3, 2"),
    ],
)
def test_axes_are_turned_back(got, words):
    pair = align(X, got)
    assert pair is not None
    assert pair.words == words
    np.testing.assert_allclose(pair.got, pair.reference, atol=1e-5)


def test_of_equal_shapes_the_values_decide():
    pair = align(CUBE, CUBE.transpose(0, 3, 1, 2))
    assert pair is not None
    assert pair.words == "axes 0, 2, 3, 1"
    np.testing.assert_array_equal(pair.got, CUBE)


def test_a_flattened_picture_of_the_other_layout():
    pair = align(X.reshape(2, -1), X.transpose(0, 2, 3, 1).reshape(2, -1))
    assert pair is not None
    assert pair.words == "the elements stand in another order"
    np.testing.assert_array_equal(pair.reference, pair.got)


def test_a_different_tensor_stays_different():
    pair = align(X, -X)
    assert pair is not None
    assert pair.words == ""
    assert not np.array_equal(pair.reference, pair.got)


def test_axes_of_size_one_and_shapes_that_do_not_fit():
    pair = align(X[:, :, :1, :1], X[:, :, 0, 0])
    assert pair is not None
    assert pair.words == "axes of size 1 left out"
    assert align(X, X[:, :3]) is None
    assert align(np.arange(6), np.arange(6)).words == ""
