"""Tensors inside a stored graph made its inputs: those that are named, and what a pipeline delivers."""

from __future__ import annotations

from pipeline.sources.tf.graph import (
    Dims,
    GraphDef,
    NodeDef,
    by_name,
    constant,
    data_inputs,
    index_of,
    make_placeholder,
    node_of,
    rename_inputs,
)

_ITERATORS = frozenset(
    {"IteratorGetNext", "QueueDequeue", "QueueDequeueV2", "QueueDequeueManyV2", "QueueDequeueUpToV2",
     "QueueDequeueMany", "QueueDequeueUpTo"}
)  # fmt: skip
_QUEUES = _ITERATORS - {"IteratorGetNext"}


def cut_tensor(graph_def: GraphDef, node: NodeDef, tensor: str) -> str:
    """Turn one output of a node into a placeholder, in place; the placeholder's name."""
    kind, shape = _type_of(node, index_of(tensor))
    index = index_of(tensor)
    if shape is None and node.op in _QUEUES:
        shape = _queued_shape(graph_def, node, index)
    if index == 0 and node.op not in _ITERATORS:
        make_placeholder(node, kind, shape)
        return str(node.name)
    name = node.name if index == 0 else f"{node.name}__{index}"
    if index == 0:
        others = {f"{node.name}:{i}": f"{node.name}__all:{i}" for i in range(1, 64)}
        rename_inputs(graph_def, others)
        copy = graph_def.node.add()
        copy.CopyFrom(node)
        copy.name = f"{node.name}__all"
        make_placeholder(node, kind, shape)
        return str(node.name)
    rename_inputs(graph_def, {tensor: f"{name}:0"})
    added = graph_def.node.add()
    added.name = name
    make_placeholder(added, kind, shape)
    return str(name)


def _type_of(node: NodeDef, index: int) -> tuple[int, Dims | None]:
    """Dtype enum and, where the node says it, shape of one output."""
    import tensorflow as tf
    from tensorflow.python.framework import op_def_registry

    for types, shapes in (("output_types", "output_shapes"), ("component_types", "shapes")):
        if types in node.attr:
            shape_list = node.attr[shapes].list.shape
            shape = None
            if index < len(shape_list) and not shape_list[index].unknown_rank:
                shape = tuple(None if d.size < 0 else int(d.size) for d in shape_list[index].dim)
            return node.attr[types].list.type[index], shape
    op_def = op_def_registry.get(node.op)
    if op_def is not None and len(op_def.output_arg) > index:
        argument = op_def.output_arg[index]
        kind = argument.type or (node.attr[argument.type_attr].type if argument.type_attr else 0)
        if kind:
            return kind, None
    for key in ("T", "dtype", "DstT", "out_type"):
        if key in node.attr and node.attr[key].type:
            return node.attr[key].type, None
    return tf.float32.as_datatype_enum, None


def _queued_shape(graph_def: GraphDef, node: NodeDef, index: int) -> Dims | None:
    """The shape that a queue declares for what is taken from it, with the batch that is taken at once."""
    nodes, operands = by_name(graph_def), data_inputs(node)
    queue = nodes.get(node_of(operands[0]))
    while queue is not None and queue.op == "Identity":
        queue = nodes.get(node_of(queue.input[0]))
    shapes = [] if queue is None else queue.attr["shapes"].list.shape
    if index >= len(shapes) or shapes[index].unknown_rank:
        return None
    shape = tuple(None if dim.size < 0 else int(dim.size) for dim in shapes[index].dim)
    if "Many" not in node.op:
        return (None, *shape) if "UpTo" in node.op else shape
    count = nodes.get(node_of(operands[1]))
    known = count is not None and count.op == "Const"
    return (int(constant(count)) if known else None, *shape)


def cut_iterators(graph_def: GraphDef, notes: list[str]) -> set[str]:
    """What an input pipeline delivers becomes inputs, in place."""
    cut: set[str] = set()
    for node in [node for node in graph_def.node if node.op in _ITERATORS]:
        readers = {t for other in graph_def.node for t in data_inputs(other) if node_of(t) == node.name}
        for tensor in sorted(readers, key=index_of, reverse=True):
            cut.add(cut_tensor(graph_def, node, tensor))
            notes.append(f"the input pipeline was cut away: '{tensor}' is an input")
    return cut
