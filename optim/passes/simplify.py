"""Whole graph → what onnxsim makes of it, as one site.

Allowed: onnxsim is installed, the model fits into one protobuf message, and onnxsim keeps inputs and
outputs. Held to the same certificate as every other pass. Numbers: reassociates.
https://github.com/onnxsim/onnxsim
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, Refusal, SiteFilter, every_site
from optim.errors import MissingRuntimeError
from optim.model import INLINE_LIMIT_BYTES, op_counts, weight_bytes

_SITE = "onnxsim"


@dataclass(frozen=True)
class Simplify:
    """An optional step that runs a peer."""

    @property
    def info(self) -> PassInfo:
        return PassInfo("simplify", Numerics.REASSOCIATES, "onnxsim under our certificate (optional)")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        if not allowed(_SITE):
            return PassOutcome()
        try:
            import onnxsim
        except ImportError as error:
            raise MissingRuntimeError(
                "onnxsim is not installed",
                where="simplify",
                hint="install the extra: pip install 'fairlead[simplify]'",
            ) from error
        if weight_bytes(model) > INLINE_LIMIT_BYTES:
            return PassOutcome(refusals=(Refusal(_SITE, "the weights do not fit into one protobuf message"),))
        before = op_counts(model)
        try:
            simplified, _ = onnxsim.simplify(ir.to_proto(model))
            found = ir.from_proto(simplified)
        except Exception as error:  # a peer's failure is no reason to stop
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            return PassOutcome(refusals=(Refusal(_SITE, f"onnxsim failed: {reason}"),))
        if op_counts(found) == before:
            return PassOutcome()
        model.graph = found.graph
        return PassOutcome(sites=(_SITE,))
