"""The walk: one opset after the other, each node rewritten where its operator changed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from optim.errors import UnsupportedModelError
from pipeline.sources.contract import Frozen
from pipeline.sources.onnx_upgrade.shapes import infer_shapes
from pipeline.sources.onnx_upgrade.site import Journal, Site
from pipeline.sources.onnx_upgrade.transitions import ADAPTERS, NEWEST_OPSET, SAME

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upgraded:
    """What an upgrade did: from which opset to which, training switches it froze, nodes rewritten."""

    opset_before: int
    opset: int
    frozen: tuple[Frozen, ...]
    rewritten: int


def opset_of(model: ir.Model) -> int:
    """Version of the default domain that ``model`` imports; 1 where it names none, as before IR version 3."""
    return model.opset_imports.get("", 1)


def upgrade(model: ir.Model, opset: int) -> Upgraded:
    """Bring ``model`` in place to ``opset``; a model that is already there or beyond is left alone.

    Functions must have been inlined before. Only the default domain is touched.

    Raises:
        UnsupportedModelError: a node would compute something else at the new opset; names op and node.
    """
    before = opset_of(model)
    if before >= opset:
        return Upgraded(before, before, (), 0)
    if opset > NEWEST_OPSET:
        raise UnsupportedModelError(
            f"opset {opset} is newer than the newest this version knows, {NEWEST_OPSET}",
            hint=f"ask for --opset {NEWEST_OPSET} or lower",
        )
    journal = Journal(names=_names(model), reinfer=lambda version: infer_shapes(model, version))
    changes = _changes()
    infer_shapes(model, before)
    rewritten = 0
    for version in range(before + 1, opset + 1):
        changed_ops = changes.get(version, frozenset())
        model.opset_imports[""] = version
        for graph in model.graphs():
            graph.opset_imports[""] = version
        for node in list(_default_domain_nodes(model)):
            if node.op_type not in changed_ops:
                continue
            adapter = ADAPTERS.get((node.op_type, version))
            site = Site(node, version, journal)
            if adapter is not None:
                adapter(site)
                rewritten += 1
            elif version not in SAME.get(node.op_type, ()):
                site.refuse("its definition changed there and no rule is known")
    for node in _default_domain_nodes(model):
        node.version = None
    log.debug("opset %d -> %d, %d nodes rewritten", before, opset, rewritten)
    return Upgraded(before, opset, tuple(journal.frozen), rewritten)


def _changes() -> dict[int, frozenset[str]]:
    """For each opset, the operators whose definition changed in it, from ONNX's own history."""
    import onnx.defs

    versions: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            versions.setdefault(schema.name, set()).add(schema.since_version)
    found: dict[int, set[str]] = {}
    for op, history in versions.items():
        for version in sorted(history)[1:]:
            found.setdefault(version, set()).add(op)
    for op, version in ADAPTERS:  # experiments have no history
        if op not in versions:
            found.setdefault(version, set()).add(op)
    return {version: frozenset(ops) for version, ops in found.items()}


def _default_domain_nodes(model: ir.Model) -> Iterator[ir.Node]:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain in ("", "ai.onnx"):
            yield node


def _names(model: ir.Model) -> set[str]:
    names: set[str] = set()
    for graph in model.graphs():
        names.update(value.name for value in graph.inputs if value.name)
        names.update(name for name in graph.initializers if name)
        for node in graph:
            names.update(name for name in (node.name, *(o.name for o in node.outputs)) if name)
    return names
