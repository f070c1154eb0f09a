"""Channels-first or channels-last at the edge of a converted model, as the user wants it.

Every input and output of rank 4 or 5 is turned; names stay, a Transpose goes inside. What turns back
at once is cancelled later by the optimiser.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Feeds, Outputs, TensorSpec
from pipeline.sources.contract import EdgeLayout
from targets.contract import Session


def to_channels_first(rank: int) -> tuple[int, ...]:
    """The permutation N…C → NC…."""
    return (0, rank - 1, *range(1, rank - 1))


def to_channels_last(rank: int) -> tuple[int, ...]:
    """The permutation NC… → N…C."""
    return (0, *range(2, rank), 1)


def change_edge_layout(model: ir.Model, native: EdgeLayout, wanted: EdgeLayout) -> frozenset[str]:
    """Turn every rank-4/5 input and output of ``model`` in place; the names of those turned."""
    if native is wanted:
        return frozenset()
    outward = to_channels_first if wanted is EdgeLayout.NCHW else to_channels_last
    inward = to_channels_last if wanted is EdgeLayout.NCHW else to_channels_first
    graph = model.graph
    turned: set[str] = set()
    for value in list(graph.inputs):
        if value.shape is None or value.shape.rank() not in (4, 5) or value.name in graph.initializers:
            continue
        rank = value.shape.rank()
        node = _transpose(value, inward(rank), f"{value.name}/source_layout")
        inner = node.outputs[0]
        inner.type, inner.shape = value.type, value.shape
        graph.insert_before(graph[0], node) if len(graph) else graph.append(node)
        for user, index in list(value.uses()):
            if user is not node:
                user.replace_input_with(index, inner)
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = inner
        value.shape = ir.Shape([inner.shape[axis] for axis in outward(rank)])
        turned.add(value.name or "")
    for index, value in enumerate(graph.outputs):
        if value.shape is None or value.shape.rank() not in (4, 5):
            continue
        rank, name = value.shape.rank(), value.name
        node = _transpose(value, outward(rank), f"{name}/edge_layout")
        outer = node.outputs[0]
        outer.type = value.type
        outer.shape = ir.Shape([value.shape[axis] for axis in outward(rank)])
        value.name = f"{name}/source_layout_out"
        outer.name = name
        graph.append(node)
        graph.outputs[index] = outer
        turned.add(name or "")
    return frozenset(turned)


def edge_session(session: Session, turned: frozenset[str], wanted: EdgeLayout) -> Session:
    """``session`` with the inputs and outputs named in ``turned`` in the other layout."""
    return _Turned(session, turned, wanted) if turned else session


class _Turned:
    """A source session seen through the converted model's edge layout."""

    def __init__(self, session: Session, turned: frozenset[str], wanted: EdgeLayout) -> None:
        self._session = session
        self._turned = turned
        first = wanted is EdgeLayout.NCHW
        self._outward = to_channels_first if first else to_channels_last
        self._inward = to_channels_last if first else to_channels_first

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(self._spec(spec) for spec in self._session.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(self._spec(spec) for spec in self._session.outputs)

    def run(self, feeds: Feeds) -> Outputs:
        inner = {name: self._turn(name, array, inward=True) for name, array in feeds.items()}
        outputs = self._session.run(inner)
        return {name: self._turn(name, array, inward=False) for name, array in outputs.items()}

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _turn(self, name: str, array: Array, *, inward: bool) -> Array:
        if name not in self._turned:
            return array
        permutation = (self._inward if inward else self._outward)(array.ndim)
        return np.ascontiguousarray(array.transpose(permutation))

    def _spec(self, spec: TensorSpec) -> TensorSpec:
        if spec.name not in self._turned:
            return spec
        shape = tuple(spec.shape[axis] for axis in self._outward(len(spec.shape)))
        return TensorSpec(spec.name, spec.dtype, shape)


def _transpose(value: ir.Value, permutation: tuple[int, ...], name: str) -> ir.Node:
    node = ir.node("Transpose", [value], {"perm": list(permutation)}, name=name)
    node.outputs[0].name = name
    return node
