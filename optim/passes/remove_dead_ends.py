"""Node or weight that reaches no output → gone.

Allowed: always; no operator of ONNX has an effect besides its outputs. Numbers: exact.
https://onnx.ai/onnx/repo-docs/IR.html#graphs
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import site_of
from optim.rewrite import Rewrite


@dataclass(frozen=True)
class RemoveDeadEnds:
    """Unused nodes, last first, then unused initializers and functions."""

    @property
    def info(self) -> PassInfo:
        return PassInfo("remove_dead_ends", Numerics.EXACT, "nodes and weights that reach no output")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        _sweep(rw, model.graph)
        if rw.allows("functions"):
            used = {n.op_identifier() for n in ir.traversal.RecursiveGraphIterator(model.graph)}
            if model.functions and not used & set(model.functions):
                model.functions.clear()
                rw.done("functions")
        return rw.outcome()


def _sweep(rw: Rewrite, graph: ir.Graph) -> None:
    for node in reversed(graph):
        if not any(v.is_graph_output() or v.uses() for v in node.outputs):
            site = site_of(node)
            if rw.allows(site):
                graph.remove(node, safe=True)
                rw.done(site)
            continue
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.GRAPH:
                _sweep(rw, attribute.as_graph())
            elif attribute.type == ir.AttributeType.GRAPHS:
                for body in attribute.as_graphs():
                    _sweep(rw, body)
    for name, value in tuple(graph.initializers.items()):
        if value.uses() or value.is_graph_output() or value.is_graph_input() or not rw.allows(name):
            continue
        del graph.initializers[name]
        rw.done(name)
