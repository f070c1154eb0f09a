"""Sizes of inputs that one of several models fixes, so that all can be fed alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optim.contract import TensorSpec


def fixed_by(specs: Sequence[TensorSpec], other: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Specs with the sizes that they leave free and ``other`` of the same name and rank fixes."""
    by_name = {spec.name: spec.shape for spec in other}
    found = []
    for spec in specs:
        sizes = by_name.get(spec.name, ())
        if len(sizes) == len(spec.shape):
            pairs = zip(spec.shape, sizes, strict=True)
            shape = tuple(b if isinstance(b, int) and not isinstance(a, int) else a for a, b in pairs)
            found.append(replace(spec, shape=shape))
        else:
            found.append(spec)
    return tuple(found)
