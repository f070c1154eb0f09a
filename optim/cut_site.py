"""A few nodes of a graph as a model of their own, with the shapes they have there, to be timed.

Where a convolution or a pool stands next to the nodes, a 1×1 MaxPool stands for it in the cut: it computes
nothing, but it puts a runtime that blocks channels for convolutions into the same memory layout, so that
the cost of entering and leaving that layout is counted as in the whole graph.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Feeds
from optim.facts import dims, is_constant, is_op
from optim.passes.infer_shapes import annotate

_BLOCKED = ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_LAYOUT_KEEPING = ("Relu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "LeakyRelu", "Concat")
_LIKE_SHAPED = ("Add", "Mul", "Sum")  # keep the layout where no operand is widened
_LOOK = 4  # how many layout-keeping nodes may lie between


@dataclass(frozen=True)
class Cut:
    """The nodes as a model; ``feeds`` fit its inputs."""

    model: ir.Model
    feeds: Feeds


def cut(model: ir.Model, nodes: Sequence[ir.Node], batch: int = 1, seed: int = 0) -> Cut | str:
    """``nodes``, in graph order, as a model with every shape fixed; the first dimension is the batch.

    Returns:
        The cut, or the reason why there is none: a shape that is not known.
    """
    inside = set(nodes)
    constants, activations = _sources(nodes, inside)
    results = [v for node in nodes for v in node.outputs if _leaves(v, inside)]
    known: dict[ir.Value, tuple[int, ...]] = {}
    for value in activations:
        shape = _fixed(value, batch)
        if shape is None:
            return f"the shape of {value.name} is not known, so it cannot be timed"
        known[value] = shape
    copies: dict[ir.Value, ir.Value] = {}
    inputs: list[ir.Value] = []
    made: list[ir.Node] = []
    for value in activations:
        fresh = ir.Value(name=f"cut/{value.name}", shape=ir.Shape(known[value]), type=value.type)
        inputs.append(fresh)
        copies[value] = _pooled(fresh, made) if _comes_blocked(value) else fresh
        copies[value].shape, copies[value].type = ir.Shape(known[value]), value.type
    initializers = []
    for value in constants:
        copies[value] = ir.Value(
            name=value.name, shape=value.shape, type=value.type, const_value=_tensor(value)
        )
        initializers.append(copies[value])
    for node in nodes:
        made.append(_copy(node, copies))
    outputs = []
    for value in results:
        outgoing = copies[value]
        if _goes_blocked(value, inside):
            outgoing = _pooled(outgoing, made)
        outgoing.type = value.type
        outputs.append(outgoing)
    graph = ir.Graph(
        inputs,
        outputs,
        nodes=made,
        initializers=initializers,
        opset_imports=dict(model.graph.opset_imports),
        name="cut",
    )
    rng = np.random.default_rng(seed)
    feeds = {str(v.name): _random(v, rng) for v in inputs}
    piece = ir.Model(graph, ir_version=model.ir_version)
    annotate(piece)
    return Cut(piece, feeds)


def outline(model: ir.Model) -> str:
    """Ops, attributes, wiring and shapes as text: equal for equal work, whatever names and weights are."""
    numbers: dict[ir.Value, int] = {}

    def number(value: ir.Value | None) -> str:
        if value is None:
            return "-"
        return f"{numbers.setdefault(value, len(numbers))}:{value.dtype}:{dims(value)}"

    lines = [f"opset {sorted(model.graph.opset_imports.items())}"]
    for node in model.graph:
        attributes = sorted(f"{name}={a.value}" for name, a in node.attributes.items())
        wires = " ".join(number(v) for v in node.inputs), " ".join(number(v) for v in node.outputs)
        lines.append(f"{node.domain}.{node.op_type} {attributes} {wires[0]} -> {wires[1]}")
    return "\n".join(lines)


def _sources(nodes: Sequence[ir.Node], inside: Collection[ir.Node]) -> tuple[list[ir.Value], list[ir.Value]]:
    """Constants and activations that the nodes read from outside, each once."""
    read = dict.fromkeys(v for node in nodes for v in node.inputs if v is not None)
    outer = [v for v in read if v.producer() not in inside]
    return [v for v in outer if is_constant(v)], [v for v in outer if not is_constant(v)]


def _leaves(value: ir.Value, inside: Collection[ir.Node]) -> bool:
    return value.is_graph_output() or any(use.node not in inside for use in value.uses())


def _fixed(value: ir.Value, batch: int) -> tuple[int, ...] | None:
    shape = dims(value)
    if shape is None or value.dtype is None:
        return None
    fixed = tuple(batch if axis == 0 and not isinstance(d, int) else d for axis, d in enumerate(shape))
    known = tuple(d for d in fixed if isinstance(d, int) and d > 0)
    return known if len(known) == len(fixed) else None


def _tensor(value: ir.Value) -> ir.TensorProtocol | None:
    node = value.producer()
    return value.const_value if node is None else node.attributes["value"].as_tensor()


def _copy(node: ir.Node, copies: dict[ir.Value, ir.Value]) -> ir.Node:
    outputs = []
    for value in node.outputs:
        copies[value] = ir.Value(name=value.name, type=value.type)
        outputs.append(copies[value])
    inputs = [None if v is None else copies[v] for v in node.inputs]
    return ir.Node(
        node.domain, node.op_type, inputs, list(node.attributes.values()), outputs=outputs, name=node.name
    )


def _keeps_layout(node: ir.Node) -> bool:
    if is_op(node, *_LIKE_SHAPED):
        return all(dims(v) == dims(node.inputs[0]) for v in node.inputs)
    return is_op(node, *_LAYOUT_KEEPING)


def _comes_blocked(value: ir.Value) -> bool:
    """Whether a convolution or pool made ``value``, perhaps with layout-keeping nodes between."""
    for _ in range(_LOOK):
        node = value.producer()
        if node is None or len(dims(value) or ()) != 4 or value.dtype != ir.DataType.FLOAT:
            return False
        if is_op(node, *_BLOCKED):
            return True
        if not _keeps_layout(node) or node.inputs[0] is None:
            return False
        value = node.inputs[0]
    return False


def _goes_blocked(value: ir.Value, inside: Collection[ir.Node]) -> bool:
    for _ in range(_LOOK):
        if len(dims(value) or ()) != 4 or value.dtype != ir.DataType.FLOAT:
            return False
        readers = [use.node for use in value.uses() if use.node not in inside]
        if any(is_op(node, *_BLOCKED) for node in readers):
            return True
        through = [node for node in readers if _keeps_layout(node)]
        if not through:
            return False
        value = through[0].outputs[0]
    return False


def _pooled(value: ir.Value, made: list[ir.Node]) -> ir.Value:
    node = ir.Node(
        "",
        "MaxPool",
        [value],
        [ir.AttrInt64s("kernel_shape", [1, 1])],
        outputs=[ir.Value(name=f"{value.name}/layout")],
    )
    made.append(node)
    return node.outputs[0]


def _random(value: ir.Value, rng: np.random.Generator) -> Array:
    shape = tuple(int(d) for d in value.shape or () if isinstance(d, int))
    dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
    if dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)
