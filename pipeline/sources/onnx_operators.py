"""Which operators exist: ONNX's own, and those ONNX Runtime adds (com.microsoft and its like)."""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx_ir as ir

from optim.errors import UnsupportedModelError
from pipeline.sources.onnx_upgrade.transitions import ADAPTERS


def refuse_unknown(model: ir.Model) -> None:
    """Raise where a node's operator is known neither to ONNX nor to ONNX Runtime, at any version.

    Raises:
        UnsupportedModelError: names op and node.
    """
    known = known_operators()
    missing = operators_without_kernel()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        domain = "" if node.domain == "ai.onnx" else node.domain
        name = f"{domain}::{node.op_type}" if domain else node.op_type
        place = node.name or (node.outputs[0].name if node.outputs else None) or node.op_type
        if (domain, node.op_type) not in known:
            raise UnsupportedModelError(
                f"operator {name} is defined neither by ONNX nor by ONNX Runtime",
                where=place,
                hint="export the model without custom operators, or give it a model function for this one",
                op=name,
                node=place,
            )
        if (domain, node.op_type) in missing:
            raise UnsupportedModelError(
                f"ONNX Runtime has no implementation of {name} at any opset",
                where=place,
                op=name,
                node=place,
            )


@cache
def known_operators() -> frozenset[tuple[str, str]]:
    """(domain, operator) of every operator that ONNX, its history or ONNX Runtime defines."""
    import onnx.defs

    found = {(schema.domain, schema.name) for schema in onnx.defs.get_all_schemas_with_history()}
    found |= {("", op) for op, _ in ADAPTERS}
    return frozenset(found) | runtime_operators()


@cache
def runtime_operators() -> frozenset[tuple[str, str]]:
    """(domain, operator) of every operator that ONNX Runtime defines; empty without ONNX Runtime."""
    runtime = _runtime()
    if runtime is None:
        return frozenset()
    return frozenset((schema.domain, schema.name) for schema in runtime.get_all_operator_schema())


@cache
def operators_without_kernel() -> frozenset[tuple[str, str]]:
    """Operators that ONNX defines and ONNX Runtime can run at no version; empty without ONNX Runtime."""
    import onnx.defs

    runtime = _runtime()
    if runtime is None:
        return frozenset()
    schemas: Any = onnx.defs.get_all_schemas_with_history()
    kernels = {(kernel.domain, kernel.op_name) for kernel in runtime.get_all_opkernel_def()}
    adapted = {("", op) for op, _ in ADAPTERS}
    expandable = {
        (schema.domain, schema.name)
        for schema in schemas
        if schema.has_function or schema.has_context_dependent_function
    }
    return known_operators() - kernels - adapted - expandable - {("", "Constant")}


def _runtime() -> Any:
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state
    except ImportError:
        return None
    return onnxruntime_pybind11_state
