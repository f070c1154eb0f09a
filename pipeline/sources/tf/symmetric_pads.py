"""``MirrorPad`` in SYMMETRIC mode as slices and concatenations: x[p-1::-1], x, x[:-q-1:-1]. Exact.

ONNX's ``Pad`` has no such mode. What tf2onnx writes instead, two ``Pad`` nodes in a row and a ``Compress``,
ONNX Runtime 1.31 merges wrongly when it optimises, so that the model is right only unoptimised.
"""

from __future__ import annotations

import numpy as np

from optim.contract import Array
from pipeline.sources.tf.graph import (
    GraphDef,
    NodeDef,
    by_name,
    constant,
    data_inputs,
    input_name,
    make_constant,
    node_of,
)

_INT32 = 3  # tensorflow/core/framework/types.proto


def write_symmetric_pads(graph_def: GraphDef) -> int:
    """Rewrite the symmetric pads of known width in ``graph_def``, in place; how many there were."""
    nodes = by_name(graph_def)
    found = [n for n in graph_def.node if n.op == "MirrorPad" and n.attr["mode"].s == b"SYMMETRIC"]
    done = 0
    for node in found:
        widths = nodes.get(node_of(data_inputs(node)[1]))
        if widths is not None and widths.op == "Const":
            _rewrite(graph_def, node, [(int(p), int(q)) for p, q in constant(widths)])
            done += 1
    return done


def _rewrite(graph_def: GraphDef, node: NodeDef, widths: list[tuple[int, int]]) -> None:
    name, kind, current, rank = node.name, node.attr["T"].type, node.input[0], len(widths)
    for axis, (before, after) in enumerate(widths):
        parts = [current]
        if before:
            bounds: tuple[int, int | None] = (before - 1, None)
            parts.insert(0, _reversed(graph_def, f"{name}/before{axis}", current, axis, rank, bounds, kind))
        if after:
            bounds = (-1, -after - 1)
            parts.append(_reversed(graph_def, f"{name}/after{axis}", current, axis, rank, bounds, kind))
        if len(parts) > 1:
            joined = graph_def.node.add()
            joined.name, joined.op = f"{name}/axis{axis}", "ConcatV2"
            joined.input.extend(
                [*map(input_name, parts), _const(graph_def, f"{name}/axis{axis}/axis", np.asarray(axis))]
            )
            joined.attr["N"].i = len(parts)
            joined.attr["T"].type, joined.attr["Tidx"].type = kind, _INT32
            current = joined.name
    node.Clear()
    node.name, node.op = name, "Identity"
    node.input.append(current)
    node.attr["T"].type = kind


def _reversed(
    graph_def: GraphDef,
    name: str,
    tensor: str,
    axis: int,
    rank: int,
    bounds: tuple[int, int | None],
    kind: int,
) -> str:
    """A slice along one axis, backwards; None: to the beginning."""
    begin, end, step = np.zeros(rank), np.zeros(rank), np.ones(rank)
    begin[axis], end[axis], step[axis] = bounds[0], bounds[1] or 0, -1
    others = sum(1 << other for other in range(rank) if other != axis)
    made = graph_def.node.add()
    made.name, made.op = name, "StridedSlice"
    operands = (("begin", begin), ("end", end), ("strides", step))
    made.input.extend([tensor, *(_const(graph_def, f"{name}/{part}", value) for part, value in operands)])
    made.attr["begin_mask"].i = others
    made.attr["end_mask"].i = others | ((1 << axis) if bounds[1] is None else 0)
    for key in ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask"):
        made.attr[key].i = 0
    made.attr["T"].type, made.attr["Index"].type = kind, _INT32
    return name


def _const(graph_def: GraphDef, name: str, value: Array) -> str:
    made = graph_def.node.add()
    made.name = name
    make_constant(made, value.astype(np.int32))
    return name
