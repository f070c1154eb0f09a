"""One walk over a graph for targets that write their own layers: nodes lowered, refusals collected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import onnx_ir as ir
from onnx_ir.passes.common import RemoveInitializersFromInputsPass, ShapeInferencePass

from optim.errors import UnsupportedModelError
from optim.facts import dims
from targets.axis_order import Perm, Shape, identity


class Drafted(Protocol):
    """What a target has written so far."""

    def known(self, value: ir.Value | None) -> bool: ...

    def put(self, value: ir.Value, name: str, perm: Perm, shape: Shape, /) -> None: ...


def prepare(model: ir.Model) -> None:
    """Weights are no inputs, and every shape that can be known is."""
    RemoveInitializersFromInputsPass()(model)  # type: ignore[no-untyped-call, unused-ignore]
    ShapeInferencePass()(model)  # type: ignore[no-untyped-call, unused-ignore]


def refusals(
    graph: ir.Graph, draft: Drafted, lower_node: Callable[[ir.Node], None], *, first_only: bool
) -> list[UnsupportedModelError]:
    """Lower every node into ``draft``; why some cannot be, the first or all that can be told apart."""
    found: list[UnsupportedModelError] = []
    for node in graph:
        if all(draft.known(output) for output in node.outputs):
            continue  # an earlier node took it in
        try:
            lower_node(node)
        except UnsupportedModelError as error:
            found.append(error)
            if first_only or not _pretend(draft, node):
                break
    return found


def _pretend(draft: Drafted, node: ir.Node) -> bool:
    """Go on behind a refused node, to find the others; False where its outputs' shapes are unknown."""
    for output in node.outputs:
        found = dims(output)
        if found is None:
            return False
        shape = tuple(d if isinstance(d, int) else None for d in found)
        draft.put(output, "unknown", identity(len(shape)), shape)
    return True
