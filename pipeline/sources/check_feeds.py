"""Inputs on which a conversion is compared with its source: zeros, and seeded random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optim.contract import Array, TensorSpec

SEED = 0
# Free sizes that are tried in turn until the source itself runs. The batch is tried first at 2, since 1 hides
# mistakes in reshapes.
_BATCHES = (2, 1)
_ONE_SIZE = 3  # for all free dimensions, where nothing else runs
_SIZES = (64, 224, 32, 128, 256, 513, 7, 1)


@dataclass(frozen=True)
class FreeSizes:
    """What stands for the batch and for other free dimensions."""

    batch: int
    size: int
    least: int = 0  # of whole numbers: some models take lengths, which may not be 0


def candidates(specs: Sequence[TensorSpec]) -> Iterator[FreeSizes]:
    """Sizes worth trying for inputs like these; one where nothing is free."""
    free_batch = any(spec.shape and not isinstance(spec.shape[0], int) for spec in specs)
    free_size = any(not isinstance(dim, int) for spec in specs for dim in spec.shape[1:])
    whole = any(spec.dtype.startswith(("int", "uint")) for spec in specs)
    for least in (0, 1) if whole else (0,):
        for size in _SIZES if free_size else _SIZES[:1]:
            for batch in _BATCHES if free_batch else _BATCHES[:1]:
                if size == 1 and batch == 2 and free_batch:
                    yield FreeSizes(_ONE_SIZE, _ONE_SIZE, least)
                yield FreeSizes(batch, size, least)


def in_one_size(references: Sequence[Mapping[str, Array]], specs: Sequence[TensorSpec]) -> bool:
    """Whether the source ran only with all free sizes alike, so that the first dimension of one input may be
    another dimension of the next: [time, batch, …] beside [batch]."""
    free = [
        (axis, feeds[spec.name].shape[axis])
        for feeds in references
        for spec in specs
        for axis, dim in enumerate(spec.shape)
        if not isinstance(dim, int)
    ]
    both = {axis == 0 for axis, _ in free} == {True, False}
    return both and len({size for _, size in free}) == 1


def zeros(specs: Sequence[TensorSpec], free: FreeSizes) -> dict[str, Array]:
    """Zeros of the inputs' dtypes; empty text."""
    return {spec.name: _zeros(_shape(spec, free), _dtype(spec), free.least) for spec in specs}


def _zeros(shape: tuple[int, ...], dtype: Any, least: int) -> Array:
    return np.full(shape, "" if dtype.kind == "O" else least if dtype.kind in "iu" else 0, dtype)


def random(specs: Sequence[TensorSpec], free: FreeSizes, seed: int = SEED) -> dict[str, Array]:
    """Standard normal floats; integers 0 and 1, or ``free.least`` and one more, which are valid indices
    nearly everywhere; bytes over their whole range, since they are pixels."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for spec in specs:
        dtype, shape = _dtype(spec), _shape(spec, free)
        if dtype.kind == "b":
            feeds[spec.name] = rng.integers(0, 2, shape).astype(bool)
        elif dtype.kind in "iu":
            low, high = (
                (np.iinfo(dtype).min, np.iinfo(dtype).max)
                if dtype.itemsize == 1
                else (free.least, free.least + 1)
            )
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
