"""Arrays at addresses that TensorFlow takes as they are; any other it copies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from optim.contract import Array

_ALIGNMENT = 64  # EIGEN_MAX_ALIGN_BYTES, tensorflow/c/tf_tensor.cc


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """An aligned C-contiguous array, its content undefined; memory is taken when it is written."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    held = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -held.ctypes.data % _ALIGNMENT
    array: Array = held[start : start + nbytes].view(dtype).reshape(shape)
    return array


def aligned(array: Array) -> Array:
    """``array`` itself where it is aligned and contiguous already, else such a copy."""
    if array.ctypes.data % _ALIGNMENT == 0 and array.flags.c_contiguous:
        return array
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy
