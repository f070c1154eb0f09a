"""Call of a model-local function → its body (onnx_ir's InlinePass).

Allowed: always; the pass is all or nothing. Numbers: exact.
https://onnx.ai/onnx/repo-docs/IR.html#functions
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import site_of


@dataclass(frozen=True)
class InlineFunctions:
    """Model-local functions are written out where they are called."""

    @property
    def info(self) -> PassInfo:
        return PassInfo("inline_functions", Numerics.EXACT, "calls of model-local functions → their bodies")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        calls = [
            site_of(node)
            for node in ir.traversal.RecursiveGraphIterator(model.graph)
            if node.op_identifier() in model.functions
        ]
        if not model.functions or not all(allowed(site) for site in calls):
            return PassOutcome()
        InlinePass()(model)
        return PassOutcome(sites=tuple(calls))
