"""``MirrorPad`` in SYMMETRIC mode as slices and concatenations: x[p-1::-1], x, x[:-q-1:-1]. Exact.

Widths that are computed: one Gather an axis, at p-1 ... 0, 0 ... n-1, n-1 ... n-q.

ONNX's ``Pad`` has no such mode. What tf2onnx writes instead, two ``Pad`` nodes in a row and a ``Compress``,
ONNX Runtime 1.31 merges wrongly when it optimises, so that the model is right only unoptimised.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from optim.contract import Array
from pipeline.sources.tf.fold import static_shapes
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
    """Rewrite the symmetric pads of ``graph_def``, in place; how many there were.

    Left as they are: computed widths of a tensor whose rank is unknown.
    """
    nodes = by_name(graph_def)
    found = [n for n in graph_def.node if n.op == "MirrorPad" and n.attr["mode"].s == b"SYMMETRIC"]
    shapes = static_shapes(graph_def) if found else {}
    done = 0
    for node in found:
        tensor, widths = data_inputs(node)
        known = nodes.get(node_of(widths))
        if known is not None and known.op == "Const":
            _rewrite(graph_def, node, [(int(p), int(q)) for p, q in constant(known)])
        elif tensor in shapes:
            _gather(graph_def, node, len(shapes[tensor]))
        else:
            continue
        done += 1
    return done


def _gather(graph_def: GraphDef, node: NodeDef, rank: int) -> None:
    """The pad as a Gather along each axis, its indices computed from the shape and the widths."""
    add = partial(_op, graph_def)
    name, kind, index_kind = node.name, node.attr["T"].type, node.attr["Tpaddings"].type or _INT32
    current, pads = node.input[0], node.input[1]
    if index_kind != _INT32:
        pads = add(f"{name}/widths", "Cast", [pads], SrcT=index_kind, DstT=_INT32)
    for axis in range(rank):
        at = f"{name}/axis{axis}"
        number = {value: _const(graph_def, f"{at}/{value}", np.asarray(value)) for value in (-1, 0, 1)}
        place = _const(graph_def, f"{at}/number", np.asarray(axis))
        size = add(f"{at}/shape", "Shape", [current], T=kind, out_type=_INT32)
        gathered = {"Tparams": _INT32, "Tindices": _INT32, "Taxis": _INT32}
        size = add(f"{at}/size", "GatherV2", [size, place, number[0]], **gathered)
        both = add(f"{at}/both", "GatherV2", [pads, place, number[0]], **gathered)
        p = add(f"{at}/p", "GatherV2", [both, number[0], number[0]], **gathered)
        q = add(f"{at}/q", "GatherV2", [both, number[1], number[0]], **gathered)
        first = add(f"{at}/first", "AddV2", [p, number[-1]], T=_INT32)
        last = add(f"{at}/last", "AddV2", [size, number[-1]], T=_INT32)
        end = add(f"{at}/end", "Sub", [last, q], T=_INT32)
        ranges = (
            add(f"{at}/before", "Range", [first, number[-1], number[-1]], Tidx=_INT32),
            add(f"{at}/whole", "Range", [number[0], size, number[1]], Tidx=_INT32),
            add(f"{at}/after", "Range", [last, end, number[-1]], Tidx=_INT32),
        )
        indices = add(f"{at}/indices", "ConcatV2", [*ranges, number[0]], N=3, T=_INT32, Tidx=_INT32)
        current = add(
            f"{at}/padded", "GatherV2", [current, indices, place], Tparams=kind, Tindices=_INT32, Taxis=_INT32
        )
    node.Clear()
    node.name, node.op = name, "Identity"
    node.input.append(current)
    node.attr["T"].type = kind


def _op(graph_def: GraphDef, name: str, op: str, inputs: list[str], **attributes: int) -> str:
    """Add a node; its attributes are types, or the number N. Its name."""
    made = graph_def.node.add()
    made.name, made.op = name, op
    made.input.extend(inputs)
    for key, value in attributes.items():
        if key == "N":
            made.attr[key].i = value
        else:
            made.attr[key].type = value
    return name


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
