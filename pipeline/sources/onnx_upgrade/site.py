"""The node that is being upgraded, and what an adapter may ask of it and do to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.errors import UnsupportedModelError
from pipeline.sources.contract import Frozen

Attribute = int | float | str | Sequence[int] | Sequence[float] | ir.Graph | ir.TensorProtocol


@dataclass
class Journal:
    """What adapters of one run share: names in use, findings, and a way to learn shapes again."""

    names: set[str]
    reinfer: Callable[[int], None]
    frozen: list[Frozen] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def unique(self, base: str) -> str:
        """``base``, or ``base`` with a counter where it is taken; reserved from now on."""
        name, count = base, 1
        while name in self.names:
            name, count = f"{base}_{count}", count + 1
        self.names.add(name)
        return name


Adapter: TypeAlias = "Callable[[Site], None]"
"""Rewrites ``site.node`` to the definition of opset ``site.version``."""


@dataclass
class Site:
    """One node on its way from opset ``version - 1`` to ``version``."""

    node: ir.Node
    version: int
    journal: Journal

    # --- questions ---------------------------------------------------------------------------

    @property
    def place(self) -> str:
        """How messages name the node: its name, or its first output."""
        return self.node.name or self.node.outputs[0].name or self.node.op_type

    def input(self, index: int) -> ir.Value | None:
        """Input ``index``, None where it is absent or empty."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def required(self, index: int) -> ir.Value:
        """Input ``index``; a missing one is a damaged model."""
        value = self.input(index)
        if value is None:
            self.refuse(f"input {index} is missing")
        return value

    def constant_of(self, index: int) -> Array | None:
        """Input ``index`` as an array where it is constant."""
        value = self.input(index)
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        return None if tensor is None else tensor.numpy()

    def rank(self, index: int) -> int | None:
        """Rank of input ``index``; shapes are inferred again when it is not known yet."""
        value = self.required(index)
        if value.shape is None:
            self.journal.reinfer(self.version)
        return None if value.shape is None else len(value.shape)

    def dims(self, index: int) -> tuple[int | None, ...] | None:
        """Dimensions of input ``index``, None for each that is free; None where even the rank is unknown."""
        if self.rank(index) is None:
            return None
        shape = self.required(index).shape
        return tuple(d if isinstance(d, int) else None for d in shape or ())

    def dtype(self, index: int) -> np.dtype[np.generic]:
        """Element type of input ``index``."""
        value = self.required(index)
        if value.dtype is None:
            self.journal.reinfer(self.version)
        if value.dtype is None:
            self.refuse(f"element type of input {value.name!r} is not known")
        return value.dtype.numpy()

    def used(self, output: int) -> bool:
        """Whether output ``output`` is named and read by somebody."""
        if output >= len(self.node.outputs):
            return False
        value = self.node.outputs[output]
        return bool(value.name) and (bool(value.uses()) or value.is_graph_output())

    # --- changes -----------------------------------------------------------------------------

    def take(self, name: str) -> ir.Attr | None:
        """Attribute ``name``, removed from the node."""
        return self.node.attributes.pop(name, None)

    def take_ints(self, name: str) -> tuple[int, ...] | None:
        """Attribute ``name`` as integers, removed from the node."""
        attribute = self.take(name)
        return None if attribute is None else tuple(attribute.as_ints())

    def take_int(self, name: str, default: int) -> int:
        """Attribute ``name`` as an integer, removed from the node."""
        attribute = self.take(name)
        return default if attribute is None else attribute.as_int()

    def take_float(self, name: str, default: float) -> float:
        """Attribute ``name`` as a float, removed from the node."""
        attribute = self.take(name)
        return default if attribute is None else attribute.as_float()

    def take_string(self, name: str, default: str) -> str:
        """Attribute ``name`` as text, removed from the node."""
        attribute = self.take(name)
        return default if attribute is None else attribute.as_string()

    def put(self, **attributes: Attribute) -> None:
        """Set attributes."""
        for attribute in ir.convenience.convert_attributes(dict(attributes)):
            self.node.attributes[attribute.name] = attribute

    def constant(self, array: Array, what: str) -> ir.Value:
        """A new initializer holding ``array``."""
        graph = self.graph
        name = self.journal.unique(f"{self.node.outputs[0].name or self.node.op_type}/{what}")
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
        value.const_value = tensor
        graph.register_initializer(value)
        return value

    def integers(self, values: Sequence[int], what: str) -> ir.Value:
        """A new int64 vector initializer."""
        return self.constant(np.asarray(values, np.int64).reshape(-1), what)

    def set_input(self, index: int, value: ir.Value | None) -> None:
        """Connect ``value`` as input ``index``, growing the input list where needed."""
        if index >= len(self.node.inputs):
            self.node.resize_inputs(index + 1)
        self.node.replace_input_with(index, value)

    def emit(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        like: ir.Value | None = None,
        num_outputs: int = 1,
    ) -> ir.Value:
        """A new node before this one; its first output, with the element type of ``like``."""
        node = ir.node(op, inputs, dict(attributes or {}), num_outputs=num_outputs)
        base = f"{self.node.outputs[0].name or self.node.op_type}/{op}"
        node.name = self.journal.unique(base)
        for output in node.outputs:
            output.name = self.journal.unique(base)
            if like is not None:
                output.type = like.type
        self.graph.insert_before(self.node, node)
        return node.outputs[0]

    def replace(self, values: Sequence[ir.Value]) -> None:
        """Drop the node; ``values`` (fresh, from :meth:`emit`) take its outputs' names and readers."""
        old = list(self.node.outputs[: len(values)])
        ir.convenience.replace_nodes_and_values(self.graph, self.node, [self.node], [], old, values)

    def become(self, op: str) -> None:
        """Change the operator, keeping inputs, outputs and attributes."""
        self.node.op_type = op

    def drop_unused_outputs(self, keep: int) -> None:
        """Cut the output list to ``keep``; refuses when a later output is read."""
        for index in range(keep, len(self.node.outputs)):
            if self.used(index):
                self.refuse(
                    f"output {index} ({self.node.outputs[index].name}) is a training output and is read"
                )
        if len(self.node.outputs) > keep:
            self.node.resize_outputs(keep)

    def freeze(self, value: str, why: str) -> None:
        """Record that a training switch was set to inference."""
        self.journal.frozen.append(Frozen(name=self.place, value=value, why=why))

    def refuse(self, reason: str) -> NoReturn:
        """Stop: this node cannot be brought to the next opset without changing what it computes."""
        raise UnsupportedModelError(
            f"{self.node.op_type} cannot be brought to opset {self.version}: {reason}",
            where=self.place,
            hint="export the model again at opset 13 or later, or fix its input shapes with --inputs",
            op=self.node.op_type,
            node=self.place,
        )

    @property
    def graph(self) -> ir.Graph:
        """The graph or subgraph that holds the node."""
        graph = self.node.graph
        if not isinstance(graph, ir.Graph):
            self.refuse("it stands in a function body that could not be inlined")
        return graph
