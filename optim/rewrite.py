"""The few ways in which a pass may change a graph; every pass goes through one ``Rewrite``.

Two rules hold for all of them. A tensor name keeps its meaning: the value under a name is the value that
had it before, up to rounding, or the name is gone. And a node knows its sources: ``fairlead.source`` lists
the tensor names of the converted model that it replaces, so a layer can be followed through all passes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from optim.contract import Array, PassOutcome, Refusal, SiteFilter
from optim.facts import SOURCE_KEY, site_of, sources_of

REVISION = "fairlead.revision"
"""Key in ``Graph.meta`` (never saved): how often the graph was rewritten."""

AttributeValue: TypeAlias = int | float | str | Sequence[int] | Sequence[float] | ir.Attr


class Rewrite:
    """One application of one pass to one model: makes nodes and initializers, and keeps the tally."""

    def __init__(self, model: ir.Model, allowed: SiteFilter) -> None:
        self.model = model
        self.graph = model.graph
        self._allowed = allowed
        self._sites: list[str] = []
        self._refusals: dict[str, str] = {}
        self._names: set[str] | None = None

    # --- tally ---------------------------------------------------------------------------------

    def allows(self, site: str) -> bool:
        """Whether this site may be rewritten."""
        return self._allowed(site)

    def done(self, site: str) -> None:
        """Count a rewritten site."""
        self._sites.append(site)

    def refuse(self, site: str, reason: str) -> None:
        """Note why a site was left alone; the first reason stands."""
        self._refusals.setdefault(site, reason)

    def outcome(self) -> PassOutcome:
        """What was done; a site that was rewritten after all is no refusal."""
        done = set(self._sites)
        if done:
            self.graph.meta[REVISION] = self.graph.meta.get(REVISION, 0) + 1
        refusals = tuple(Refusal(s, r) for s, r in self._refusals.items() if s not in done)
        return PassOutcome(sites=tuple(dict.fromkeys(self._sites)), refusals=refusals)

    # --- making --------------------------------------------------------------------------------

    def fresh(self, base: str) -> str:
        """A tensor name not used in the graph, like ``base``."""
        if self._names is None:
            self._names = _tensor_names(self.model)
        name, number = base, 1
        while name in self._names:
            name, number = f"{base}_{number}", number + 1
        self._names.add(name)
        return name

    def constant(self, array: Array, base: str) -> ir.Value:
        """A new initializer holding ``array`` (any dtype ONNX knows)."""
        return self.tensor(ir.Tensor(np.ascontiguousarray(array).reshape(array.shape)), base)

    def lazy(
        self, make: Callable[[], Array], dtype: ir.DataType, shape: Sequence[int], base: str
    ) -> ir.Value:
        """A new initializer computed when it is read, so that large weights are held one at a time."""
        tensor = ir.LazyTensor(
            lambda: ir.Tensor(np.ascontiguousarray(make()).reshape(tuple(shape)), dtype=dtype),
            dtype=dtype,
            shape=ir.Shape(shape),
        )
        return self.tensor(tensor, base)

    def tensor(self, tensor: ir.TensorProtocol, base: str) -> ir.Value:
        """A new initializer holding ``tensor``."""
        name = self.fresh(base)
        tensor.name = name
        value = ir.Value(
            name=name, shape=_shape(tensor), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, AttributeValue] | None = None,
        *,
        before: ir.Node,
        sources: Iterable[ir.Node] = (),
        name: str | None = None,
        out: str = "",
        like: ir.Value | None = None,
    ) -> ir.Value:
        """Insert a one-output node of the standard domain ahead of ``before`` and return its output.

        Args:
            op_type: the op.
            inputs: its inputs.
            attributes: plain values or attributes copied from another node.
            before: where to insert.
            sources: the nodes whose work it does.
            name: node name; by default that of the last source.
            out: wish for a new output name; else the output takes over the name of ``like``.
            like: the value it replaces, whose type and shape it takes.
        """
        old = tuple(sources)
        output = ir.Value(
            name=self.fresh(out) if out else (like.name if like is not None else None),
            type=like.type if like is not None else None,
            shape=like.shape.copy() if like is not None and like.shape is not None and not out else None,
        )
        node = ir.Node(
            "",
            op_type,
            inputs,
            [_attribute(key, value) for key, value in (attributes or {}).items()],
            outputs=[output],
            name=name if name is not None else next((n.name for n in reversed(old) if n.name), None),
        )
        note_sources(node, old)
        self.graph.insert_before(before, node)
        return output

    # --- changing ------------------------------------------------------------------------------

    def can_replace(self, old: ir.Value, new: ir.Value) -> bool:
        """Whether ``new`` can stand for ``old``: a graph output needs a node of its own."""
        if not old.is_graph_output():
            return True
        return (
            new.producer() is not None
            and not new.is_graph_output()
            and not new.is_graph_input()
            and new.graph is old.graph
        )

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let every reader of ``old`` read ``new``; the name of a graph output moves with it."""
        if new.shape is None and old.shape is not None:
            new.shape = old.shape.copy()
        if new.type is None:
            new.type = old.type
        if old.is_graph_output():
            name, new_type, new_shape = old.name, old.type, old.shape
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            old.name = None
            new.name = name
            new.type = new_type
            new.shape = None if new_shape is None else new_shape.copy()
        else:
            old.replace_all_uses_with(new)

    def drop(self, node: ir.Node) -> None:
        """Remove a node that nothing reads any more."""
        self.graph.remove(node, safe=True)

    def bypass(self, node: ir.Node, new: ir.Value) -> bool:
        """Remove ``node``, letting ``new`` stand for its first output; False (unchanged) where that cannot
        be.
        """
        old = node.outputs[0]
        if not self.can_replace(old, new):
            self.refuse(site_of(node), "it makes a graph output, which must keep its own name")
            return False
        heir = new.producer()
        if heir is not None and old.is_graph_output():
            note_sources(heir, (heir, node))
        self.replace(old, new)
        self.drop(node)
        return True


def note_sources(node: ir.Node, replaced: Iterable[ir.Node]) -> None:
    """Record on ``node`` which tensors of the converted model it computes."""
    names = dict.fromkeys(name for old in replaced for name in sources_of(old))
    if names:
        node.metadata_props[SOURCE_KEY] = json.dumps(list(names), ensure_ascii=False)


def kept(node: ir.Node, *names: str) -> dict[str, AttributeValue]:
    """Attributes of ``node``; all of them, or those named, ready to be given to a new node."""
    return {k: a for k, a in node.attributes.items() if not names or k in names}


def _attribute(name: str, value: AttributeValue) -> ir.Attr:
    if isinstance(value, ir.Attr):
        return value if value.name == name else ir.Attr(name, value.type, value.value)
    if isinstance(value, bool | int | np.integer):
        return ir.AttrInt64(name, int(value))
    if isinstance(value, float):
        return ir.AttrFloat32(name, value)
    if isinstance(value, str):
        return ir.AttrString(name, value)
    items = list(value)
    if items and all(isinstance(i, float) for i in items):
        return ir.AttrFloat32s(name, [float(i) for i in items])
    return ir.AttrInt64s(name, [int(i) for i in items])


def _shape(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape([int(d) for d in tensor.shape if isinstance(d, int)])


def _tensor_names(model: ir.Model) -> set[str]:
    names = {v.name for v in model.graph.inputs if v.name}
    for graph in (model.graph, *model.graph.subgraphs()):
        names.update(graph.initializers)
        names.update(v.name for v in graph.inputs if v.name)
        for node in graph:
            names.update(v.name for v in node.outputs if v.name)
    return names
