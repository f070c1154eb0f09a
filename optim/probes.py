"""Inputs on which rewrites are checked: zeros, random, and what the user supplied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Feeds, TensorSpec
from optim.errors import UserError
from optim.model import signature

_MOST_EXAMPLES = 16
# Free sizes other than the batch: one that halves evenly six times, and an odd one for every odd edge.
_EVEN_SIZE, _ODD_SIZE, _SMALL_SIZE = 64, 65, 7


@dataclass(frozen=True)
class Probe:
    """One input set under a name such as ``zeros/batch=1``."""

    name: str
    feeds: Feeds


def probes_for(
    model: ir.Model, supplied: Feeds | None = None, batches: Sequence[int] = (1, 2, 7), seed: int = 0
) -> tuple[Probe, ...]:
    """Zeros and random inputs at every batch size (and, where other dimensions are free, at even, odd and
    small sizes), and the supplied arrays.

    Args:
        model: the model; only its inputs are read.
        supplied: arrays by input name; of more than 16 examples the first 16 are used.
        batches: batch sizes tried where the first dimension is free.
        seed: of the random inputs.

    Raises:
        UserError: a supplied array names no input, or an input is missing among them.
    """
    inputs, _ = signature(model)
    probes = [] if supplied is None else [_supplied(inputs, supplied)]
    free_batch = any(spec.shape and _is_free(spec.shape[0]) for spec in inputs)
    free_size = any(_is_free(dim) for spec in inputs for dim in spec.shape[1:])
    if any(spec.dtype in ("", "str") for spec in inputs):
        return tuple(probes)
    tried = tuple(batches) if free_batch else (1,)
    sizes: tuple[int | None, ...] = (_EVEN_SIZE, _ODD_SIZE, _SMALL_SIZE) if free_size else (None,)
    rng = np.random.default_rng(seed)
    for number, size in enumerate(sizes):
        tail = "" if size is None else f",size={size}"
        if number == 0:
            probes.append(Probe(f"zeros/batch={tried[0]}{tail}", _zeros(inputs, tried[0], size)))
        # Each size with one batch; all batches with the first size.
        for batch in tried if number == 0 else tried[number % len(tried) : number % len(tried) + 1]:
            name = f"random(seed={seed})/batch={batch}{tail}"
            probes.append(Probe(name, {s.name: _random(s, _shape(s, batch, size), rng) for s in inputs}))
    return tuple(probes)


def _is_free(dim: int | str | None) -> bool:
    """Some old exporters write -1 for a free dimension."""
    return not isinstance(dim, int) or dim < 0


def _supplied(inputs: Sequence[TensorSpec], supplied: Feeds) -> Probe:
    names = {spec.name for spec in inputs}
    if set(supplied) != names:
        raise UserError(
            f"supplied arrays are named {sorted(supplied)}",
            expected=f"one array for each input: {sorted(names)}",
            hint="name the arrays after the model's inputs",
        )
    return Probe("supplied", {s.name: _first_examples(s, np.asarray(supplied[s.name])) for s in inputs})


def _first_examples(spec: TensorSpec, array: Array) -> Array:
    if spec.shape and _is_free(spec.shape[0]) and array.ndim == len(spec.shape):
        return array[:_MOST_EXAMPLES]
    return array


def _shape(spec: TensorSpec, batch: int, size: int | None) -> tuple[int, ...]:
    known: Mapping[int, int] = {0: batch}
    return tuple(
        dim if isinstance(dim, int) and dim >= 0 else known.get(axis, size or 1)
        for axis, dim in enumerate(spec.shape)
    )


def _zeros(inputs: Sequence[TensorSpec], batch: int, size: int | None) -> dict[str, Array]:
    return {s.name: np.zeros(_shape(s, batch, size), dtype=np.dtype(s.dtype)) for s in inputs}


def _random(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        # Bytes are pixels; wider integers are mostly indices, and 0 and 1 are valid nearly everywhere.
        span = np.iinfo(dtype) if dtype.itemsize == 1 else None
        low, high = (0, 1) if span is None else (int(span.min), int(span.max))
        return rng.integers(low, high + 1, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)
