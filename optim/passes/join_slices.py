"""Slices that part one axis of a tensor among them → Split.

Allowed: one axis each, the same one, step 1; together they cover the axis once, without gap or overlap; its
size is known. Numbers: exact. https://onnx.ai/onnx/operators/onnx__Split.html
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import dims, input_of, ints_attribute, ints_of, is_op, opset_of, rank, site_of
from optim.rewrite import Rewrite, note_sources

_FIRST_OPSET_WITH_SIZES_AS_INPUT = 13
_FIRST_OPSET = 2


@dataclass(frozen=True)
class JoinSlices:
    """Neighbouring slices become one Split."""

    @property
    def info(self) -> PassInfo:
        return PassInfo("join_slices", Numerics.EXACT, "Slices that part an axis among them → Split")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        seen: set[ir.Value] = set()
        for node in tuple(model.graph):
            data = node.inputs[0] if is_op(node, "Slice") else None
            if data is None or data in seen or node.graph is None:
                continue
            seen.add(data)
            for axis, parts in _parts(data, opset_of(model)).items():
                _join(rw, data, axis, parts)
        return rw.outcome()


@dataclass(frozen=True)
class _Part:
    """One Slice from ``start`` up to ``end``."""

    node: ir.Node
    start: int
    end: int


def _parts(data: ir.Value, opset: int) -> dict[int, list[_Part]]:
    """The slices of ``data`` by axis, in order."""
    found: dict[int, list[_Part]] = {}
    for use in data.uses():
        if use.idx != 0 or not is_op(use.node, "Slice") or use.node.graph is not data.graph:
            continue
        part = _part(use.node, opset)
        if part is not None:
            found.setdefault(part[0], []).append(part[1])
    return {axis: sorted(parts, key=lambda p: p.start) for axis, parts in found.items() if len(parts) > 1}


def _part(node: ir.Node, opset: int) -> tuple[int, _Part] | None:
    if opset < 10:
        starts, ends = ints_attribute(node, "starts"), ints_attribute(node, "ends")
        axes = ints_attribute(node, "axes") or (0,)
        steps: tuple[int, ...] = (1,)
    else:
        starts, ends = ints_of(input_of(node, 1)), ints_of(input_of(node, 2))
        axes = (0,) if input_of(node, 3) is None else ints_of(input_of(node, 3)) or ()
        steps = (1,) if input_of(node, 4) is None else ints_of(input_of(node, 4)) or ()
    wide, shape = rank(node.inputs[0]), dims(node.inputs[0])
    if starts is None or ends is None or wide is None or shape is None:
        return None
    if not len(starts) == len(ends) == len(axes) == len(steps) == 1 or steps != (1,):
        return None
    axis = axes[0] % wide
    size = shape[axis]
    if not isinstance(size, int) or size < 1:
        return None
    start, end = (max(0, min(size, n + size if n < 0 else n)) for n in (starts[0], ends[0]))
    return (axis, _Part(node, start, end)) if start < end else None


def _join(rw: Rewrite, data: ir.Value, axis: int, parts: list[_Part]) -> None:
    size = (dims(data) or ())[axis]
    site = site_of(parts[0].node)
    edges = [0, *(p.end for p in parts)]
    if edges[-1] != size or any(p.start != edge for p, edge in zip(parts, edges, strict=False)):
        rw.refuse(site, f"the slices along axis {axis} leave a gap or overlap")
        return
    if opset_of(rw.model) < _FIRST_OPSET or not rw.allows(site):
        return
    lengths = [p.end - p.start for p in parts]
    inputs: list[ir.Value | None] = [data]
    attributes = [ir.AttrInt64("axis", axis)]
    if opset_of(rw.model) >= _FIRST_OPSET_WITH_SIZES_AS_INPUT:
        inputs.append(rw.constant(np.asarray(lengths, np.int64), f"{site}/split"))
    else:
        attributes.append(ir.AttrInt64s("split", lengths))
    outputs = [ir.Value(type=p.node.outputs[0].type, shape=p.node.outputs[0].shape) for p in parts]
    split = ir.Node("", "Split", inputs, attributes, outputs=outputs, name=parts[0].node.name)
    note_sources(split, [p.node for p in parts])
    maker = data.producer()
    if maker is not None:
        rw.graph.insert_after(maker, split)
    else:
        rw.graph.insert_before(rw.graph[0], split)
    for part, new in zip(parts, outputs, strict=True):
        old = part.node.outputs[0]
        name = old.name
        rw.replace(old, new)
        rw.drop(part.node)
        old.name = None
        new.name = name
    rw.done(site)
