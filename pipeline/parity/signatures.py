"""Whether two models' inputs and outputs can be paired at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from optim.contract import TensorSpec
from optim.errors import UserError
from targets.validate_feeds import describe


class HasSignature(Protocol):
    """A session, or what is left of one."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...


def check_signatures(
    name_a: str,
    a: HasSignature,
    name_b: str,
    b: HasSignature,
    outputs: Sequence[str] | None = None,
    *,
    dtypes: bool = False,
) -> None:
    """Refuse models whose inputs or outputs cannot be paired, naming both sides.

    ``outputs`` names those that count, where tensors were exposed beside them.

    Raises:
        UserError: names, counts, ranks, fixed dimensions or (with ``dtypes``) dtypes differ.
    """
    ends = [tuple(s for s in m.outputs if outputs is None or s.name in outputs) for m in (a, b)]
    sides = (("inputs", a.inputs, b.inputs), ("outputs", ends[0], ends[1]))
    for kind, left, right in sides:
        shown = [
            f"{n}: " + "; ".join(describe(s.name, s.dtype, s.shape) for s in side)
            for n, side in ((name_a, left), (name_b, right))
        ]
        other = {s.name: s for s in right}
        fits = {s.name for s in left} == set(other) and all(_pairs(s, other[s.name], dtypes) for s in left)
        if not fits:
            raise UserError(f"the {kind} of the two models differ", where=shown[0], expected=shown[1])


def _pairs(x: TensorSpec, y: TensorSpec, dtypes: bool) -> bool:
    if dtypes and x.dtype != y.dtype:
        return False
    if not x.shape or not y.shape:  # unknown rank
        return True
    return len(x.shape) == len(y.shape) and all(
        not isinstance(m, int) or not isinstance(n, int) or m == n
        for m, n in zip(x.shape, y.shape, strict=True)
    )
