"""Arrays where TensorFlow takes them as they are: copied only when they lie elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.tf.alignment import aligned, aligned_empty


@given(
    shape=st.lists(st.integers(1, 9), max_size=3).map(tuple),
    dtype=st.sampled_from(["float16", "float32", "float64", "int8"]),
)
def test_new_arrays_are_aligned_and_writable(shape: tuple[int, ...], dtype: str) -> None:
    array = aligned_empty(shape, dtype)
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.ctypes.data % 64 == 0
    array[...] = 3
    assert np.all(array == 3)


@pytest.mark.parametrize("offset", range(0, 64, 12))
def test_only_what_lies_elsewhere_is_copied(offset: int) -> None:
    held = aligned_empty((4096,), "uint8")
    array = held[offset : offset + 400].view("float32").reshape(10, 10)
    array[...] = np.arange(100).reshape(10, 10)
    found = aligned(array)
    assert found.ctypes.data % 64 == 0
    assert (found is array) == (offset == 0)
    np.testing.assert_array_equal(found, array)


def test_a_view_across_rows_is_copied() -> None:
    array = aligned_empty((4, 4), "float32")
    array[...] = np.arange(16).reshape(4, 4)
    found = aligned(array.T)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, array.T)
