"""Which nodes leave the ONNX standard: the first thing every exporter stumbles over."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})


def nonstandard_nodes(model: ir.Model) -> tuple[str, ...]:
    """One reason a node outside the standard domains that the model does not define as a function itself."""
    own = {(f.domain, f.name) for f in model.functions.values()}
    graphs = [model.graph, *(f.graph for f in model.functions.values())]
    return tuple(
        f"node {node.name or '?'}: {node.domain}::{node.op_type} is not a standard ONNX operator"
        for graph in graphs
        for node in ir.traversal.RecursiveGraphIterator(graph)
        if node.domain not in STANDARD_DOMAINS and (node.domain, node.op_type) not in own
    )
