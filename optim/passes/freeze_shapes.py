"""Free input dimension → number, for targets that know no free ones.

Allowed: a free first dimension becomes ``batch``; ``shapes`` names whole input shapes. Another free
dimension stays and is listed. Numbers: exact on inputs of the frozen shape; others no longer fit.
https://onnx.ai/onnx/repo-docs/IR.html#static-tensor-shapes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.errors import UserError
from optim.facts import dims
from optim.passes.infer_shapes import annotate
from optim.rewrite import Rewrite


@dataclass(frozen=True)
class FreezeShapes:
    """Inputs get fixed shapes; inner and output shapes follow."""

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    batch: int | None = 1  # None: leave a free batch free

    @property
    def info(self) -> PassInfo:
        return PassInfo("freeze_shapes", Numerics.EXACT, "free input dimensions → numbers")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        inputs = {v.name: v for v in model.graph.inputs if v.name not in model.graph.initializers}
        for given in self.shapes:
            if given not in inputs:
                known = ", ".join(str(n) for n in inputs)
                raise UserError(
                    f"the model has no input '{given}'", where="optimize.shapes", expected=f"one of {known}"
                )
        named: dict[str, int] = {}
        for name, value in inputs.items():
            shape = dims(value)
            wanted = self.shapes.get(name or "")
            if not rw.allows(name or "") or (shape is None and wanted is None):
                continue
            new = _frozen(name or "", shape, wanted, self.batch)
            left = [d for d in new if not isinstance(d, int)]
            if left:
                rw.refuse(
                    f"{name}[{new.index(left[0])}]",
                    f"dimension {left[0]} is free and no shape is given for it",
                )
            if new == shape:
                continue
            named |= {
                o: n
                for o, n in zip(shape or (), new, strict=False)
                if isinstance(o, str) and isinstance(n, int)
            }
            value.shape = ir.Shape(list(new))
            rw.done(name or "")
        outcome = rw.outcome()
        if outcome.modified:
            _forget_shapes(model, named)
            annotate(model)
        return outcome


def _frozen(
    name: str,
    shape: tuple[int | str | None, ...] | None,
    wanted: tuple[int, ...] | None,
    batch: int | None,
) -> tuple[int | str | None, ...]:
    if wanted is None:
        first = shape[:1] if shape else ()
        free = bool(first) and (not isinstance(first[0], int) or first[0] < 0)
        return (batch, *(shape or ())[1:]) if free and batch is not None else shape or ()
    if shape is not None and (
        len(shape) != len(wanted)
        or any(isinstance(d, int) and d >= 0 and d != w for d, w in zip(shape, wanted, strict=True))
    ):
        raise UserError(f"input '{name}' has shape {shape}, not {wanted}", where="optimize.shapes")
    return wanted


def _forget_shapes(model: ir.Model, named: Mapping[str, int]) -> None:
    """Drop inner shapes with free dimensions, so that inference finds them anew; outputs keep their rank."""
    for node in model.graph:
        for value in node.outputs:
            shape = dims(value)
            if shape is None or all(isinstance(d, int) for d in shape):
                continue
            if value.is_graph_output():
                value.shape = ir.Shape([named.get(d, d) if isinstance(d, str) else d for d in shape])
            else:
                value.shape = None
