"""Inputs on which a conversion is compared with its source: zeros, and seeded random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optim.contract import Array, TensorSpec

SEED = 0
# Free sizes that are tried in turn until the source itself runs. The batch is tried first at 2, since 1 hides
# mistakes in reshapes.
_BATCHES = (2, 1)
_SIZES = (64, 224, 32, 128, 256, 513, 7, 1)


@dataclass(frozen=True)
class FreeSizes:
    """What stands for the batch and for other free dimensions."""

    batch: int
    size: int


def candidates(specs: Sequence[TensorSpec]) -> Iterator[FreeSizes]:
    """Sizes worth trying for inputs like these; one where nothing is free."""
    free_batch = any(spec.shape and not isinstance(spec.shape[0], int) for spec in specs)
    free_size = any(not isinstance(dim, int) for spec in specs for dim in spec.shape[1:])
    for size in _SIZES if free_size else _SIZES[:1]:
        for batch in _BATCHES if free_batch else _BATCHES[:1]:
            yield FreeSizes(batch, size)


def zeros(specs: Sequence[TensorSpec], free: FreeSizes) -> dict[str, Array]:
    """Zeros of the inputs' dtypes."""
    return {spec.name: np.zeros(_shape(spec, free), dtype=_dtype(spec)) for spec in specs}


def random(specs: Sequence[TensorSpec], free: FreeSizes, seed: int = SEED) -> dict[str, Array]:
    """Standard normal floats; integers 0 and 1, which are valid indices nearly everywhere; bytes over
    their whole range, since they are pixels."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for spec in specs:
        dtype, shape = _dtype(spec), _shape(spec, free)
        if dtype.kind == "b":
            feeds[spec.name] = rng.integers(0, 2, shape).astype(bool)
        elif dtype.kind in "iu":
            low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.itemsize == 1 else (0, 1)
            feeds[spec.name] = rng.integers(low, high + 1, shape).astype(dtype)
        elif dtype.kind in "OU":
            feeds[spec.name] = np.full(shape, "a", dtype=object)
        else:
            feeds[spec.name] = rng.standard_normal(shape).astype(dtype)
    return feeds


def _dtype(spec: TensorSpec) -> Any:
    if spec.dtype == "str":
        return np.dtype(object)
    if spec.dtype == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(spec.dtype)


def _shape(spec: TensorSpec, free: FreeSizes) -> tuple[int, ...]:
    return tuple(
        dim if isinstance(dim, int) else (free.batch if axis == 0 else free.size)
        for axis, dim in enumerate(spec.shape)
    )
