"""TensorArrays and TensorLists of a flat graph → dense tensors, in place."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optim.errors import UnsupportedModelError
from pipeline.sources.tf.flow.array_ops import ARRAY_OPS, RAGGED, Element
from pipeline.sources.tf.flow.same_value import same_value
from pipeline.sources.tf.flow.shapes import Types, flow_types
from pipeline.sources.tf.graph import (
    Dims,
    GraphDef,
    NodeDef,
    attr_shape,
    by_name,
    constant,
    consumers,
    data_inputs,
    make_identity,
    node_of,
)
from pipeline.sources.tf.lower import splice, trace

_PASSED_ON = frozenset({"Identity", "Enter", "Exit", "Merge", "Switch", "NextIteration"})
_PREFIXES = ("TensorArray", "TensorList", "EmptyTensorList")
_GROWS = ("dynamic_size", "resize_if_index_out_of_bounds")
_KINDS = ("dtype", "element_dtype", "T")


@dataclass
class _Family:
    """Operators of arrays that may be one and the same, by node name."""

    ops: dict[str, None] = field(default_factory=dict)
    passing: dict[str, None] = field(default_factory=dict)


def lower_arrays(
    graph_def: GraphDef, kept_frames: Iterable[str] = (), kept_calls: Iterable[str] = ()
) -> None:
    """Write arrays as dense tensors; not those of the loops ``kept_frames`` and ``kept_calls``.

    Raises:
        UnsupportedModelError: an operator is not known, or nothing says what an array's elements look like.
    """
    kept, calls = set(kept_frames), set(kept_calls)
    while True:
        families = [
            one
            for one in _families(graph_def, calls)
            if not _enters(graph_def, one, kept) and calls.isdisjoint(one.passing)
        ]
        if not families:
            return
        types, nodes = flow_types(graph_def), by_name(graph_def)
        known = [(one, _element(one, nodes, types, strict=True)) for one in families]
        if all(element is None for _, element in known):
            known = [(one, _element(one, nodes, types, strict=False)) for one in families]
        if all(element is None for _, element in known):
            name = next(iter(families[0].ops))
            raise UnsupportedModelError(
                f"nothing says what shape the elements of the array '{name}' have",
                op=nodes[name].op,
                node=name,
                hint="give fixed input shapes (--inputs)",
            )
        for family, element in known:
            if element is not None:
                _refuse_ragged(family, element, nodes)
                _lower(graph_def, family, element, types)


def _enters(graph_def: GraphDef, family: _Family, frames: set[str]) -> bool:
    nodes = by_name(graph_def)
    members = [nodes[name] for name in (*family.ops, *family.passing)]
    return any(node.op == "Enter" and node.attr["frame_name"].s.decode() in frames for node in members)


def _families(graph_def: GraphDef, calls: Collection[str]) -> list[_Family]:
    nodes, readers = by_name(graph_def), consumers(graph_def)
    parent: dict[str, str] = {}

    def top(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    pending: list[str] = []
    for node in graph_def.node:
        if node.op.startswith(_PREFIXES) and node.op != "TensorArrayCloseV3":
            if node.op not in ARRAY_OPS:
                raise _unknown(node)
            out = ARRAY_OPS[node.op].array_out
            parent.setdefault(node.name, node.name)
            if out is not None:
                pending.append(f"{node.name}:{out}")
    seen: set[str] = set()
    while pending:
        tensor = pending.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        for reader in readers.get(tensor, []):
            position = data_inputs(reader).index(tensor)
            if reader.op in ARRAY_OPS and ARRAY_OPS[reader.op].array_in == position:
                parent[top(reader.name)] = top(node_of(tensor))
            elif reader.op in _PASSED_ON and (reader.op != "Switch" or position == 0):
                parent[top(reader.name)] = top(node_of(tensor))
                pending += [f"{reader.name}:{index}" for index in range(2 if reader.op == "Switch" else 1)]
            elif reader.name in calls:
                parent[top(reader.name)] = top(node_of(tensor))
                places = [i for i, one in enumerate(data_inputs(reader)) if one == tensor]
                pending += [f"{reader.name}:{place}" for place in places]
            else:
                raise _unknown(reader)
    families: dict[str, _Family] = {}
    for name in parent:
        family = families.setdefault(top(name), _Family())
        passing = nodes[name].op in _PASSED_ON or name in calls
        (family.passing if passing else family.ops)[name] = None
    return list(families.values())


def _unknown(node: NodeDef) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"op {node.op} works on an array of tensors in a way that has no ONNX form",
        op=node.op,
        node=node.name,
        hint="name outputs before it (--outputs)",
    )


def _element(family: _Family, nodes: Mapping[str, NodeDef], types: Types, *, strict: bool) -> Element | None:
    """What the arrays hold; None where the rank is unknown, or, if ``strict``, that of a written value."""
    declared: list[Dims] = []
    given: list[Dims] = []
    kind, grows = 0, False
    for name in family.ops:
        node, op = nodes[name], ARRAY_OPS[nodes[name].op]
        operands = data_inputs(node)
        grows = grows or any(node.attr[key].b for key in _GROWS if key in node.attr)
        kind = kind or next((node.attr[key].type for key in _KINDS if key in node.attr), 0)
        shape = _declared(node, None if op.shape is None else nodes[node_of(operands[op.shape])])
        if shape is not None:
            declared.append(shape)
        for position, whole in ((op.value, False), (op.values, True)):
            if position is None:
                continue
            dims = types[operands[position]][1]
            if dims is not None:
                given.append(dims[1:] if whole else dims)
            elif strict:
                return None
    if len(family.ops) == 1 and not family.passing and not declared and not given:
        return Element(kind, ())  # made, and never used
    ranks = {len(one) for one in (*declared, *given)}
    if len(ranks) != 1:
        return None
    sizes: list[int | None] = []
    for axis in range(ranks.pop()):
        said = {one[axis] for one in declared} - {None}
        values = {one[axis] for one in given}
        sizes.append(said.pop() if len(said) == 1 else values.pop() if len(values) == 1 else None)
    return Element(kind, tuple(sizes), grows)


def _declared(node: NodeDef, operand: NodeDef | None) -> Dims | None:
    """The elements' shape as an operator says it; -1 stands for what is not known."""
    if operand is None:
        return attr_shape(node, "element_shape")
    if operand.op != "Const":
        return None
    value = constant(operand)
    if value.ndim == 0:
        return None
    return tuple(None if size < 0 else int(size) for size in value)


def _refuse_ragged(family: _Family, element: Element, nodes: Mapping[str, NodeDef]) -> None:
    """Elements of different shapes do not fit into one tensor."""
    if None not in element.dims:
        return
    for name in family.ops:
        node = nodes[name]
        different = "identical_element_shapes" in node.attr and not node.attr["identical_element_shapes"].b
        if node.op in RAGGED or different:
            raise UnsupportedModelError(
                f"the elements of the array '{name}' may have different shapes",
                op=node.op,
                node=name,
                expected="elements of one shape",
                hint="give fixed input shapes (--inputs)",
            )


def _lower(graph_def: GraphDef, family: _Family, element: Element, types: Types) -> None:
    import tensorflow as tf

    nodes = by_name(graph_def)
    handles = _handles(graph_def, family)
    dtype = tf.as_dtype(element.kind)
    whole = {name for name in family.ops if _is_whole(nodes[name], family, nodes)}
    for name in family.ops:
        nodes = by_name(graph_def)  # the last one has been written out
        node, op = nodes[name], ARRAY_OPS[nodes[name].op]
        if name in whole:  # the values scattered, or the array gathered
            make_identity(node, data_inputs(node)[2], element.kind)
            continue
        operands: list[tuple[str, Any, Dims | None]] = []
        places: list[int] = []
        for position, tensor in enumerate(data_inputs(node)):
            if position in (op.handle_in, op.shape):
                continue
            places.append(position)
            if position == op.array_in:
                operands.append((tensor, dtype, (None, *element.dims)))
            else:
                kind, shape = types[tensor]
                operands.append((tensor, tf.as_dtype(kind), shape))
        count = len(data_inputs(node))

        def rule(*given: object, _node=node, _op=op, _places=tuple(places), _count=count):  # type: ignore[no-untyped-def]
            spread: list[object] = [None] * _count
            for position, argument in zip(_places, given, strict=True):
                spread[position] = argument
            return _op.rule(_node, element, *spread)

        traced = trace(rule, operands, nodes)
        assert traced is not None
        splice(graph_def, node, traced)
    nodes = by_name(graph_def)
    for name in family.passing:
        nodes[name].attr["T"].type = element.kind
    kept = [node for node in graph_def.node if node.name not in handles]
    del graph_def.node[:]
    graph_def.node.extend(kept)


def _handles(graph_def: GraphDef, family: _Family) -> set[str]:
    """Nodes that only pass the arrays' handles on."""
    readers, nodes = consumers(graph_def), by_name(graph_def)
    found: set[str] = set()
    pending = [f"{name}:0" for name in family.ops if nodes[name].op == "TensorArrayV3"]
    while pending:
        for reader in readers.get(pending.pop(), []):
            if (reader.op in _PASSED_ON or reader.op == "TensorArrayCloseV3") and reader.name not in found:
                found.add(reader.name)
                pending += [f"{reader.name}:0", f"{reader.name}:1"]
    return found


def _is_whole(node: NodeDef, family: _Family, nodes: Mapping[str, NodeDef]) -> bool:
    """Whether an operator writes or reads every element of its array, in order."""
    if node.op not in ("TensorArrayGatherV3", "TensorArrayScatterV3"):
        return False
    indices = data_inputs(node)[1]
    made = [nodes[name] for name in family.ops if nodes[name].op == "TensorArrayV3"]
    if len(made) != 1 or made[0].attr["dynamic_size"].b:
        return False
    size, order = data_inputs(made[0])[0], nodes[node_of(indices)]
    if order.op == "Const":
        known, listed = nodes[node_of(size)], constant(order)
        if known.op != "Const" or listed.shape != (int(constant(known)),):
            return False
        return bool((listed == np.arange(len(listed))).all())
    if order.op != "Range":
        return False
    start, limit, step = (nodes[node_of(tensor)] for tensor in data_inputs(order))
    counts = start.op == step.op == "Const" and (int(constant(start)), int(constant(step))) == (0, 1)
    of_array = limit.op == "TensorArraySizeV3" and limit.name in family.ops
    return bool(counts) and (of_array or same_value(data_inputs(order)[1], size, nodes))
