"""Node that returns its input → its input.

Identity, Dropout in inference, Cast to the same type, Reshape/Expand/Flatten to the same shape, Transpose
in order, Pad by nothing, Slice of all, Concat or Sum of one, Tile by ones, arithmetic with a neutral
element, pools of size 1, Clip without bounds, and two that undo each other or merge (Reshape-Reshape,
Transpose-Transpose, Squeeze-Unsqueeze, Relu-Relu).
Allowed: the shapes are known to be equal where that matters. Numbers: exact (the sign of a zero may change
at + 0). https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import (
    constant_of,
    dims,
    input_of,
    int_attribute,
    ints_attribute,
    ints_of,
    opset_of,
    producer,
    rank,
    same_shape,
    scalar_of,
    site_of,
    sole_consumer,
    static_shape,
    string_attribute,
    uniform_of,
)
from optim.passes.broadcasting import broadcasts_into
from optim.rewrite import Rewrite, note_sources


@dataclass(frozen=True)
class EliminateNoops:
    """Removes nodes that do nothing and merges pairs that do one thing."""

    @property
    def info(self) -> PassInfo:
        return PassInfo(
            "eliminate_noops", Numerics.EXACT, "identities, dropout, no-op casts, reshapes, arithmetic"
        )

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        for node in tuple(model.graph):
            if node.graph is None or node.domain != "" or not node.outputs or not rw.allows(site_of(node)):
                continue
            if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
                continue
            check = _IDLE.get(node.op_type)
            source = check(rw, node) if check is not None else None
            if source is not None:
                inner = producer(node.inputs[0])
                if rw.bypass(node, source):
                    _drop_unread(rw, inner)
                    rw.done(site_of(node))
                continue
            merge = _MERGES.get(node.op_type)
            while merge is not None and node.graph is not None and merge(rw, node):
                rw.done(site_of(node))
        return rw.outcome()


def _drop_unread(rw: Rewrite, node: ir.Node | None) -> None:
    if (
        node is not None
        and node.graph is rw.graph
        and not any(v.uses() or v.is_graph_output() for v in node.outputs)
    ):
        rw.drop(node)


def _first(_rw: Rewrite, node: ir.Node) -> ir.Value | None:
    return input_of(node, 0)


def _dropout(rw: Rewrite, node: ir.Node) -> ir.Value | None:
    if opset_of(rw.model) >= 12 and len(node.inputs) > 2 and node.inputs[2] is not None:
        live = constant_of(node.inputs[2])
        if live is None or bool(live.reshape(-1)[0]):
            rw.refuse(site_of(node), "dropout is live: training_mode is set or unknown")
            return None
    if int_attribute(node, "is_test", 1) == 0:
        rw.refuse(site_of(node), "dropout is live: is_test is 0")
        return None
    return node.inputs[0]


def _cast(_rw: Rewrite, node: ir.Node) -> ir.Value | None:
    source = node.inputs[0]
    same = source is not None and source.dtype is not None and source.dtype == int_attribute(node, "to", 0)
    return source if same else None


def _same_shape(_rw: Rewrite, node: ir.Node) -> ir.Value | None:
    source = node.inputs[0]
    if source is not None and same_shape(source, node.outputs[0]):
        return source
    if node.op_type == "Reshape" and source is not None and int_attribute(node, "allowzero", 0) == 0:
        target, shape = ints_of(input_of(node, 1)), dims(source)
        # One dimension may stay unknown when all others are kept.
        if target is not None and shape is not None and len(target) == len(shape):
            moved = [t for t, d in zip(target, shape, strict=True) if t not in (0, d)]
            return source if not moved or moved == [-1] else None
    return None


def _transpose(_rw: Rewrite, node: ir.Node) -> ir.Value | None:
    perm = ints_attribute(node, "perm")
    return node.inputs[0] if perm is not None and perm == tuple(range(len(perm))) else None


def _pad(_rw: Rewrite, node: ir.Node) -> ir.Value | None:
    pads = ints_attribute(node, "pads") or ints_of(input_of(node, 1))
    return node.inputs[0] if pads is not None and not any(pads) else None


def _slice(rw: Rewrite, node: ir.Node) -> ir.Value | None:
    steps = ints_of(input_of(node, 4)) if len(node.inputs) > 4 and node.inputs[4] is not None else (1,)
    if steps is None or any(s != 1 for s in steps):
        return None
    source = node.inputs[0]
    if source is not None and same_shape(source, node.outputs[0]):
        return source
    attributes = opset_of(rw.model) < 10
    starts = ints_attribute(node, "starts") if attributes else ints_of(input_of(node, 1))
    ends = ints_attribute(node, "ends") if attributes else ints_of(input_of(node, 2))
    if starts is None or ends is None:
        return None
    return source if not any(starts) and all(e >= 2**31 - 1 for e in ends) else None


def _single(_rw: Rewrite, node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _tile(_rw: Rewrite, node: ir.Node) -> ir.Value | None:
    repeats = ints_of(input_of(node, 1))
    return node.inputs[0] if repeats is not None and all(r == 1 for r in repeats) else None


def _neutral(number: float, *, either_side: bool) -> Callable[[Rewrite, ir.Node], ir.Value | None]:
    def check(rw: Rewrite, node: ir.Node) -> ir.Value | None:
        if opset_of(rw.model) < 7:
            return None  # broadcasting was spelled by attributes
        for kept, other in ((0, 1), (1, 0)) if either_side else ((0, 1),):
            value, constant = node.inputs[kept], node.inputs[other]
            if uniform_of(constant) == number and broadcasts_into(constant, value):
                return value
        return None

    return check


def _clip(rw: Rewrite, node: ir.Node) -> ir.Value | None:
    bounds = [v for v in node.inputs[1:] if v is not None]
    named = [n for n in ("min", "max") if n in node.attributes]
    return node.inputs[0] if not bounds and not named and opset_of(rw.model) >= 11 else None


def _unit_pool(_rw: Rewrite, node: ir.Node) -> ir.Value | None:
    kernel, strides = ints_attribute(node, "kernel_shape"), ints_attribute(node, "strides")
    pads = ints_attribute(node, "pads")
    idle = kernel is not None and set(kernel) == {1} and set(strides or (1,)) == {1} and not any(pads or ())
    auto = string_attribute(node, "auto_pad", "NOTSET")
    return node.inputs[0] if idle and auto in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER") else None


def _squeeze(_rw: Rewrite, node: ir.Node) -> ir.Value | None:
    """Squeeze(Unsqueeze(x)) or the other way round, back at the shape of x."""
    inverse = "Unsqueeze" if node.op_type == "Squeeze" else "Squeeze"
    inner = producer(node.inputs[0], inverse)
    if inner is None:
        return None
    source = inner.inputs[0]
    axes, undone = _axes(inner), _axes(node)
    if axes is None or undone is None or source is None:
        return None
    wide = rank(inner.outputs[0] if inverse == "Unsqueeze" else source)
    if wide is None:
        return None
    same = sorted(a % wide for a in axes) == sorted(a % wide for a in undone)
    return source if same else None


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    return ints_attribute(node, "axes") or ints_of(input_of(node, 1))


def _reduce(rw: Rewrite, node: ir.Node) -> ir.Value | None:
    """A reduction over no axis that says so."""
    idle = int_attribute(node, "noop_with_empty_axes", 0) == 1 and opset_of(rw.model) >= 18
    return (
        node.inputs[0] if idle and input_of(node, 1) is None and node.op_type != "ReduceSumSquare" else None
    )


_IDLE: dict[str, Callable[[Rewrite, ir.Node], ir.Value | None]] = {
    "Identity": _first,
    "Dropout": _dropout,
    "Cast": _cast,
    "Reshape": _same_shape,
    "Expand": _same_shape,
    "Flatten": _same_shape,
    "Squeeze": _squeeze,
    "Unsqueeze": _squeeze,
    "Transpose": _transpose,
    "Pad": _pad,
    "Slice": _slice,
    "Concat": _single,
    "Sum": _single,
    "Mean": _single,
    "Max": _single,
    "Min": _single,
    "Tile": _tile,
    "Add": _neutral(0.0, either_side=True),
    "Sub": _neutral(0.0, either_side=False),
    "Mul": _neutral(1.0, either_side=True),
    "Div": _neutral(1.0, either_side=False),
    "Clip": _clip,
    "MaxPool": _unit_pool,
    "AveragePool": _unit_pool,
    "ReduceSum": _reduce,
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
}


# --- two nodes that do one thing -------------------------------------------------------------------


def _merge_reshapes(rw: Rewrite, node: ir.Node) -> bool:
    """Reshape of something that was only reshaped: the first shape does not matter."""
    inner = producer(node.inputs[0], "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
    target = ints_of(input_of(node, 1))
    if inner is None or target is None or inner.inputs[0] is None:
        return False
    if inner.op_type == "Transpose" and not _moves_only_ones(inner):
        return False
    if 0 in target:
        shape = dims(node.outputs[0])
        known = [] if shape is None else [d if isinstance(d, int) else -1 for d in shape]
        if not known or known.count(-1) > 1 or 0 in known or int_attribute(node, "allowzero", 0):
            return False
        node.replace_input_with(1, _shape_constant(rw, node, known))
    note_sources(node, (inner, node))
    node.replace_input_with(0, inner.inputs[0])
    _drop_unread(rw, inner)
    return True


def _undoes_reshape(rw: Rewrite, node: ir.Node) -> bool:
    """[N, C, 1, 1] → Reshape → [N, 1, 1, C] → Transpose → [N, C, 1, 1]: nothing has moved in memory."""
    inner = producer(node.inputs[0], "Reshape")
    if inner is None or inner.inputs[0] is None or not _moves_only_ones(node):
        return False
    perm, shape = ints_attribute(node, "perm"), dims(inner.outputs[0])
    before = dims(inner.inputs[0])
    if perm is None or shape is None or before is None or len(before) != len(perm):
        return False
    after = tuple(shape[a] for a in perm)
    # One dimension may be unknown: it is whatever is left.
    apart = [(a, b) for a, b in zip(after, before, strict=True) if a != b or a is None]
    if any(isinstance(a, int) and isinstance(b, int) for a, b in apart) or len(apart) > 1:
        return False
    if not rw.bypass(node, inner.inputs[0]):
        return False
    _drop_unread(rw, inner)
    return True


def _moves_only_ones(transpose: ir.Node) -> bool:
    """Whether the other dimensions keep their order, so that the elements stay where they are in memory."""
    perm, shape = ints_attribute(transpose, "perm"), dims(transpose.inputs[0])
    if perm is None or shape is None or len(perm) != len(shape):
        return False
    left = [a for a in perm if shape[a] != 1]
    return left == sorted(left)


def _shape_constant(rw: Rewrite, node: ir.Node, shape: list[int]) -> ir.Value:
    return rw.constant(np.asarray(shape, dtype=np.int64), f"{site_of(node)}/shape")


def _merge_transposes(rw: Rewrite, node: ir.Node) -> bool:
    """Transpose(Transpose(x, p), q) = Transpose(x, p[q])."""
    if _undoes_reshape(rw, node):
        return True
    inner = producer(node.inputs[0], "Transpose")
    if inner is None or inner.inputs[0] is None:
        return False
    p, q = ints_attribute(inner, "perm"), ints_attribute(node, "perm")
    if p is None or q is None:
        return False
    perm = tuple(p[i] for i in q)
    source = inner.inputs[0]
    if perm == tuple(range(len(perm))):
        if not rw.bypass(node, source):
            return False
    else:
        note_sources(node, (inner, node))
        node.attributes["perm"] = ir.AttrInt64s("perm", perm)
        node.replace_input_with(0, source)
    _drop_unread(rw, inner)
    return True


def _merge_relus(rw: Rewrite, node: ir.Node) -> bool:
    """Relu(Relu(x)) = Relu(x); Relu(Clip(x, lo ≥ 0, hi)) = the Clip."""
    inner = producer(node.inputs[0], "Relu", "Clip", "Sigmoid", "Softmax")
    source = node.inputs[0]
    if inner is None or source is None:
        return False
    if inner.op_type == "Clip" and not (scalar_of(input_of(inner, 1)) or -1.0) >= 0.0:
        low = scalar_of(input_of(inner, 1))
        if low is None or low < 0.0:
            return False
    return rw.bypass(node, source)


def _merge_slices(rw: Rewrite, node: ir.Node) -> bool:
    """Slice of a Slice along other axes: one Slice."""
    inner = producer(node.inputs[0], "Slice")
    if inner is None or sole_consumer(inner.outputs[0]) is not node or opset_of(rw.model) < 10:
        return False
    first, second = _slice_numbers(inner), _slice_numbers(node)
    if first is None or second is None or {a for _, _, a, _ in first} & {a for _, _, a, _ in second}:
        return False
    base = site_of(node)
    columns = [list(column) for column in zip(*(first + second), strict=True)]
    note_sources(node, (inner, node))
    node.resize_inputs(5)
    for position, (name, numbers) in enumerate(
        zip(("starts", "ends", "axes", "steps"), columns, strict=True), 1
    ):
        node.replace_input_with(position, rw.constant(np.asarray(numbers, dtype=np.int64), f"{base}/{name}"))
    node.replace_input_with(0, inner.inputs[0])
    _drop_unread(rw, inner)
    return True


def _slice_numbers(node: ir.Node) -> list[tuple[int, int, int, int]] | None:
    """(start, end, axis, step) of each sliced axis; None where they are not constant."""
    wide = rank(node.inputs[0])
    starts, ends = ints_of(input_of(node, 1)), ints_of(input_of(node, 2))
    if starts is None or ends is None or wide is None:
        return None
    axes: tuple[int, ...] | None = tuple(range(len(starts)))
    steps: tuple[int, ...] | None = (1,) * len(starts)
    if input_of(node, 3) is not None:
        axes = ints_of(node.inputs[3])
    if input_of(node, 4) is not None:
        steps = ints_of(node.inputs[4])
    if axes is None or steps is None:
        return None
    return list(zip(starts, ends, (a % wide for a in axes), steps, strict=True))


def _skip_expand(rw: Rewrite, node: ir.Node) -> bool:
    """Elementwise op on an Expand that the op's own broadcasting does anyway."""
    made = static_shape(node.outputs[0])
    if made is None or len(node.inputs) != 2:
        return False
    for side in (0, 1):
        expand, other = producer(node.inputs[side], "Expand"), static_shape(node.inputs[1 - side])
        small = None if expand is None else static_shape(expand.inputs[0])
        if expand is None or small is None or other is None or not _broadcast_is(small, other, made):
            continue
        note_sources(node, (expand, node))
        node.replace_input_with(side, expand.inputs[0])
        _drop_unread(rw, expand)
        return True
    return False


def _broadcast_is(a: tuple[int, ...], b: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(a, b) == wanted
    except ValueError:
        return False


_KEEP_SHAPE = (
    "Cast",
    "Relu",
    "Sigmoid",
    "Tanh",
    "Neg",
    "Abs",
    "Clip",
    "LeakyRelu",
    "Exp",
    "Sqrt",
    "Identity",
)


def _shape_of_source(_rw: Rewrite, node: ir.Node) -> bool:
    """The shape of what an elementwise op gives is the shape of what it takes."""
    inner = producer(node.inputs[0], *_KEEP_SHAPE)
    if inner is None or inner.inputs[0] is None:
        return False
    node.replace_input_with(0, inner.inputs[0])
    return True


_WIDER: dict[ir.DataType, tuple[ir.DataType, ...]] = {
    ir.DataType.FLOAT: (ir.DataType.DOUBLE,),
    ir.DataType.FLOAT16: (ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.BFLOAT16: (ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.INT32: (ir.DataType.INT64, ir.DataType.DOUBLE),
    ir.DataType.UINT8: (ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.INT8: (ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.BOOL: (ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.DOUBLE),
}


def _merge_casts(rw: Rewrite, node: ir.Node) -> bool:
    """Cast of a Cast that lost nothing: one Cast, or none."""
    inner = producer(node.inputs[0], "Cast")
    source = None if inner is None else inner.inputs[0]
    if inner is None or source is None or source.dtype is None:
        return False
    if int_attribute(inner, "to", 0) not in _WIDER.get(source.dtype, ()):
        return False
    if int_attribute(node, "to", 0) == source.dtype:
        if not rw.bypass(node, source):
            return False
    else:
        note_sources(node, (inner, node))
        node.replace_input_with(0, source)
    _drop_unread(rw, inner)
    return True


_MERGES: dict[str, Callable[[Rewrite, ir.Node], bool]] = {
    "Reshape": _merge_reshapes,
    "Slice": _merge_slices,
    "Cast": _merge_casts,
    "Shape": _shape_of_source,
    "Add": _skip_expand,
    "Sub": _skip_expand,
    "Mul": _skip_expand,
    "Div": _skip_expand,
    "Pow": _skip_expand,
    "Transpose": _merge_transposes,
    "Relu": _merge_relus,
}
