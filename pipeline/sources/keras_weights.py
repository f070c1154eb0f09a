"""Stored weights into Keras variables by reference: each is held once when it is read, not three times.

Keras reads a weight to an array, converts that to a tensor by way of a copy, and TensorFlow copies it again
where it is not aligned. Here HDF5 reads into aligned memory, which the variable then takes over by DLPack.
Assigning slices instead would save as much, but TensorFlow copies a variable that was ever changed in part
with every read (``copy_on_read_mode``, tensorflow/core/framework/resource_var.h).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pipeline.sources.tf.alignment import aligned, aligned_empty

LARGE_BYTES = 1 << 20
_DTYPES = frozenset({"float16", "float32", "float64"})


@contextmanager
def weights_by_reference() -> Iterator[None]:
    """While active, large weights that are read from HDF5 and assigned to variables are not copied."""
    import h5py
    import tensorflow as tf
    from keras import Variable

    read, assign = h5py.Dataset.__array__, Variable.assign

    def read_aligned(self: Any, dtype: Any = None, copy: bool | None = None) -> Any:
        if copy is False or not _is_large(self) or (dtype is not None and dtype != self.dtype):
            return read(self, dtype, copy)
        array = aligned_empty(self.shape, self.dtype)
        self.read_direct(array)
        return array

    def assign_by_reference(self: Any, value: Any) -> Any:
        if (
            isinstance(value, np.ndarray)
            and _is_large(value)
            and value.dtype == self.dtype
            and value.dtype.isnative
            and tuple(value.shape) == tuple(self.shape)
        ):
            value = tf.experimental.dlpack.from_dlpack(aligned(value).__dlpack__())
        return assign(self, value)

    h5py.Dataset.__array__, Variable.assign = read_aligned, assign_by_reference
    try:
        yield
    finally:
        h5py.Dataset.__array__, Variable.assign = read, assign


def _is_large(array: Any) -> bool:
    return bool(array.nbytes >= LARGE_BYTES and array.dtype.name in _DTYPES)
