"""Check feeds against a model's inputs before a runtime sees them, and name both sides where they differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optim.contract import Feeds, TensorSpec
from optim.errors import UserError


def describe(name: str, dtype: str, shape: Sequence[int | str | None]) -> str:
    """``input float32[?, 28, 28, 1]``; a free dimension is shown by its name or as ``?``."""
    dims = ", ".join("?" if d is None else str(d) for d in shape)
    return f"{name} {dtype}[{dims}]"


def validate_feeds(specs: Sequence[TensorSpec], feeds: Feeds, *, where: str = "") -> None:
    """Raise UserError unless names, dtypes, ranks and fixed dimensions of ``feeds`` fit ``specs``.

    Dimensions with one symbolic name must have one size. An empty shape in a spec stands for an unknown rank
    too and fits anything.
    """
    wanted = "; ".join(describe(s.name, s.dtype, s.shape) for s in specs)
    names = {spec.name for spec in specs}
    if names != set(feeds):
        missing, extra = sorted(names - set(feeds)), sorted(set(feeds) - names)
        raise UserError(
            f"the given inputs are not the model's: missing {missing or 'none'}, unknown {extra or 'none'}",
            where=where,
            expected=wanted,
        )
    sizes: dict[str, tuple[int, str]] = {}
    for spec in specs:
        array = np.asarray(feeds[spec.name])
        given = describe(spec.name, array.dtype.name, array.shape)
        unknown_rank = spec.shape == ()  # runtimes report a scalar and an unknown rank alike
        fits = unknown_rank or (
            len(array.shape) == len(spec.shape)
            and all(
                not isinstance(want, int) or want == got
                for want, got in zip(spec.shape, array.shape, strict=True)
            )
        )
        if array.dtype.name != spec.dtype or not fits:
            raise UserError(
                f"an input does not fit the model: given {given}",
                where=where,
                expected=describe(spec.name, spec.dtype, spec.shape),
            )
        for want, got in zip(spec.shape, array.shape, strict=False):
            if isinstance(want, str):
                known, other = sizes.setdefault(want, (got, spec.name))
                if known != got:
                    raise UserError(
                        f"dimension {want!r} is {known} in {other} and {got} in {spec.name}",
                        where=where,
                        expected="one size for one symbolic dimension",
                    )
