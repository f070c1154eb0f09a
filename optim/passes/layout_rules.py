"""How each op runs on permuted data: which inputs and outputs carry the layout, and what to change.

A rule is made for one permutation ``q``: the op, which worked on x, is to work on Transpose(x, q). Axis a
of x is then axis ``q.index(a)``. No rule: the op fixes the layout of its data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import (
    axes_of,
    constant_of,
    constant_tensor_of,
    dims,
    input_of,
    int_attribute,
    ints_attribute,
    ints_of,
    is_op,
    rank,
    site_of,
    sole_consumer,
    static_shape,
    string_attribute,
)
from optim.rewrite import Rewrite, note_sources
from optim.weights import read_once

Perm: TypeAlias = tuple[int, ...]
Flip: TypeAlias = Callable[[Rewrite, ir.Node, Perm], None]


@dataclass(frozen=True)
class Rule:
    """Input and output positions that carry the layout, and the change that makes the node work on the
    other one.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    flip: Flip


_UNARY = frozenset(
    {
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Celu", "Cos", "Cosh",
    "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign",
    "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Clip",
    "Dropout",
    }
)  # fmt: skip
ELEMENTWISE = frozenset(
    {
    "Add", "Sub", "Mul", "Div", "Pow", "Mod", "Max", "Min", "Sum", "Mean", "And", "Or", "Xor", "Equal",
    "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Where", "PRelu",
    }
)  # fmt: skip
_REDUCE = frozenset(
    {
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
    }
)  # fmt: skip


def rule_of(node: ir.Node, q: Perm, opset: int) -> Rule | None:
    """The rule of ``node`` for permutation ``q``, or None."""
    if node.domain != "":
        return None
    op = node.op_type
    if op in _UNARY:
        extra = any(v.uses() or v.is_graph_output() for v in node.outputs[1:])
        return None if extra else Rule((0,), (0,), _nothing)
    if op in ELEMENTWISE:
        return _elementwise(node, q, opset)
    if op in _REDUCE:
        return _reduce(node, q)
    make = _RULES.get(op)
    return None if make is None else make(node, q, opset)


def _nothing(_rw: Rewrite, _node: ir.Node, _q: Perm) -> None:
    pass


# --- elementwise -----------------------------------------------------------------------------------


def _elementwise(node: ir.Node, q: Perm, opset: int) -> Rule | None:
    if opset < 7:
        return None
    carried, constants, stored = [], [], []
    for i, value in enumerate(node.inputs):
        wide = rank(value)
        if value is None or wide is None or wide > len(q):
            return None
        if constant_tensor_of(value) is not None:
            constants.append(i)
        elif wide < len(q) and _is_dequantized_constant(value):
            stored.append(i)
        elif wide == len(q):
            carried.append(i)
        elif wide > 0:
            return None
    if not carried:
        return None
    if node.op_type == "PRelu" and 0 not in carried:
        return None

    def flip(rw: Rewrite, node: ir.Node, q: Perm) -> None:
        _permute_constants(rw, node, q, positions=constants)
        for i in stored:
            _permute_dequantized(rw, node.inputs[i], q)

    return Rule(tuple(carried), (0,), flip)


def _is_dequantized_constant(value: ir.Value) -> bool:
    """Whether it is a stored integer weight, dequantised for one reader alone."""
    node = value.producer()
    if node is None or not is_op(node, "DequantizeLinear") or int_attribute(node, "block_size", 0):
        return False
    return sole_consumer(value) is not None and all(
        v is None or constant_tensor_of(v) is not None for v in node.inputs
    )


def _permute_dequantized(rw: Rewrite, value: ir.Value | None, q: Perm) -> None:
    """Give the stored integers all axes, in the new order; a scale for each channel follows them."""
    node = None if value is None else value.producer()
    if node is None or value is None:
        raise ValueError("checked before")
    missing = len(q) - (rank(node.inputs[0]) or 0)
    if rank(node.inputs[1]) == 1 and static_shape(node.inputs[1]) != (1,):
        own = int_attribute(node, "axis", 1) % (len(q) - missing)
        node.attributes["axis"] = ir.AttrInt64("axis", q.index(own + missing))
    tensor = constant_tensor_of(node.inputs[0])
    if tensor is None:
        raise ValueError("checked before")
    full = (1,) * missing + tuple(int(d) for d in tensor.shape if isinstance(d, int))
    new = tuple(full[a] for a in q)
    make = partial(_permuted, tensor, full, q)
    node.replace_input_with(0, rw.lazy(make, tensor.dtype, new, f"{node.inputs[0].name}/transposed"))  # type: ignore[union-attr]
    value.name = rw.fresh(f"{value.name}/transposed")
    value.shape = ir.Shape(new)


def _permute_constants(rw: Rewrite, node: ir.Node, q: Perm, *, positions: Sequence[int]) -> None:
    for i in positions:
        value = node.inputs[i]
        tensor = constant_tensor_of(value)
        if value is None or tensor is None:
            continue
        shape = tuple(int(d) for d in tensor.shape if isinstance(d, int))
        full = (1,) * (len(q) - len(shape)) + shape
        if all(d == 1 for d in full):
            continue
        new = tuple(full[a] for a in q)
        make = partial(_permuted, tensor, full, q)
        node.replace_input_with(i, rw.lazy(make, tensor.dtype, new, f"{value.name}/transposed"))


def _permuted(tensor: ir.TensorProtocol, shape: tuple[int, ...], q: Perm) -> Array:
    return np.transpose(read_once(tensor).reshape(shape), q)


# --- ops with axes ---------------------------------------------------------------------------------


def _axis(node: ir.Node, q: Perm, default: int) -> int:
    """Where the node's axis lies afterwards."""
    return q.index(int_attribute(node, "axis", default) % len(q))


def _axis_rule(default: int, *, all_inputs: bool = False, all_outputs: bool = False, since: int = 1) -> _Make:
    def make(node: ir.Node, _q: Perm, opset: int) -> Rule | None:
        if opset < since:
            return None

        def flip(_rw: Rewrite, node: ir.Node, q: Perm) -> None:
            node.attributes["axis"] = ir.AttrInt64("axis", _axis(node, q, default))

        inputs = tuple(range(len(node.inputs))) if all_inputs else (0,)
        # A constant operand of Concat would have to be permuted too; such a value is no variable here.
        if any(constant_tensor_of(node.inputs[i]) is not None for i in inputs):
            return _concat_with_constants(node, inputs) if node.op_type == "Concat" else None
        return Rule(inputs, tuple(range(len(node.outputs))) if all_outputs else (0,), flip)

    return make


def _concat_with_constants(node: ir.Node, inputs: tuple[int, ...]) -> Rule | None:
    constants = tuple(i for i in inputs if constant_tensor_of(node.inputs[i]) is not None)
    carried = tuple(i for i in inputs if i not in constants)

    def flip(rw: Rewrite, node: ir.Node, q: Perm) -> None:
        _permute_constants(rw, node, q, positions=constants)
        node.attributes["axis"] = ir.AttrInt64("axis", _axis(node, q, 1))

    return Rule(carried, (0,), flip) if carried else None


def _arg(node: ir.Node, q: Perm, _opset: int) -> Rule | None:
    axis = int_attribute(node, "axis", 0) % len(q)
    keep = bool(int_attribute(node, "keepdims", 1))

    def flip(_rw: Rewrite, node: ir.Node, q: Perm) -> None:
        node.attributes["axis"] = ir.AttrInt64("axis", _axis(node, q, 0))

    if keep:
        return Rule((0,), (0,), flip)
    return Rule((0,), (), flip) if _order_kept(q, (axis,)) else None


def _order_kept(q: Perm, dropped: Sequence[int]) -> bool:
    """Whether the axes that are not dropped follow each other in the same order after ``q``."""
    left = [a for a in q if a not in dropped]
    return left == sorted(left)


def _reduce(node: ir.Node, q: Perm) -> Rule | None:
    axes = axes_of(node)
    if axes is None:
        if input_of(node, 1) is not None or int_attribute(node, "noop_with_empty_axes", 0):
            return None
        return Rule((0,), (0,) if int_attribute(node, "keepdims", 1) else (), _nothing)
    axes = tuple(a % len(q) for a in axes)

    def flip(rw: Rewrite, node: ir.Node, q: Perm) -> None:
        _set_ints(rw, node, "axes", 1, sorted(q.index(a) for a in axes))

    if int_attribute(node, "keepdims", 1):
        return Rule((0,), (0,), flip)
    return Rule((0,), (), flip) if _order_kept(q, axes) else None


def _set_ints(rw: Rewrite, node: ir.Node, name: str, position: int, numbers: Sequence[int]) -> None:
    """Set integers that are an attribute in old opsets and an input in new ones."""
    if name in node.attributes:
        node.attributes[name] = ir.AttrInt64s(name, list(numbers))
        return
    old = input_of(node, position)
    dtype = np.int64 if old is None or old.dtype is None else old.dtype.numpy()
    if len(node.inputs) <= position:
        node.resize_inputs(position + 1)
    node.replace_input_with(
        position, rw.constant(np.asarray(numbers, dtype=dtype), f"{site_of(node)}/{name}")
    )


def _pad(node: ir.Node, _q: Perm, _opset: int) -> Rule | None:
    pads = ints_attribute(node, "pads") or ints_of(input_of(node, 1))
    axes = ints_of(input_of(node, 3))
    if pads is None or (input_of(node, 3) is not None and axes is None):
        return None

    def flip(rw: Rewrite, node: ir.Node, q: Perm) -> None:
        if axes is not None:
            _set_ints(rw, node, "axes", 3, [q.index(a % len(q)) for a in axes])
            return
        half = len(pads) // 2
        _set_ints(rw, node, "pads", 1, [pads[a] for a in q] + [pads[half + a] for a in q])

    return Rule((0,), (0,), flip)


def _slice(node: ir.Node, _q: Perm, opset: int) -> Rule | None:
    starts = ints_attribute(node, "starts") if opset < 10 else ints_of(input_of(node, 1))
    if starts is None:
        return None
    old = ints_attribute(node, "axes") if opset < 10 else ints_of(input_of(node, 3))
    if old is None and opset >= 10 and input_of(node, 3) is not None:
        return None
    axes = old if old is not None else tuple(range(len(starts)))

    def flip(rw: Rewrite, node: ir.Node, q: Perm) -> None:
        moved = [q.index(a % len(q)) for a in axes]
        if opset < 10:
            node.attributes["axes"] = ir.AttrInt64s("axes", moved)
        else:
            _set_ints(rw, node, "axes", 3, moved)

    return Rule((0,), (0,), flip)


def _resize(node: ir.Node, q: Perm, opset: int) -> Rule | None:
    if opset < 11 or "axes" in node.attributes or ints_attribute(node, "axes") is not None:
        return None
    if string_attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return None
    scales, sizes = constant_of(input_of(node, 2)), ints_of(input_of(node, 3))
    if (scales is None or scales.size != len(q)) and (sizes is None or len(sizes) != len(q)):
        return None

    def flip(rw: Rewrite, node: ir.Node, q: Perm) -> None:
        if sizes is not None and len(sizes) == len(q):
            _set_ints(rw, node, "sizes", 3, [sizes[a] for a in q])
        if scales is not None and scales.size == len(q):
            node.replace_input_with(2, rw.constant(scales[list(q)], f"{site_of(node)}/scales"))

    return Rule((0,), (0,), flip)


def _tile(node: ir.Node, q: Perm, _opset: int) -> Rule | None:
    repeats = ints_of(input_of(node, 1))
    if repeats is None or len(repeats) != len(q):
        return None

    def flip(rw: Rewrite, node: ir.Node, q: Perm) -> None:
        _set_ints(rw, node, "repeats", 1, [repeats[a] for a in q])

    return Rule((0,), (0,), flip)


def _quantize(node: ir.Node, q: Perm, _opset: int) -> Rule | None:
    scale, data = input_of(node, 1), input_of(node, 0)
    if constant_tensor_of(scale) is None or int_attribute(node, "block_size", 0) or rank(data) != len(q):
        return None
    per_axis = rank(scale) == 1 and static_shape(scale) != (1,)
    stored = constant_tensor_of(data) is not None

    def flip(rw: Rewrite, node: ir.Node, q: Perm) -> None:
        if per_axis:
            node.attributes["axis"] = ir.AttrInt64("axis", _axis(node, q, 1))
        if stored:
            _permute_constants(rw, node, q, positions=(0,))

    return Rule(() if stored else (0,), (0,), flip)


# --- ops that end a layout -------------------------------------------------------------------------


def _squeeze(node: ir.Node, q: Perm, _opset: int) -> Rule | None:
    axes = axes_of(node)
    if axes is None:
        return None
    axes = tuple(a % len(q) for a in axes)
    if not _order_kept(q, axes):
        return None

    def flip(rw: Rewrite, node: ir.Node, q: Perm) -> None:
        _set_ints(rw, node, "axes", 1, sorted(q.index(a) for a in axes))

    return Rule((0,), (), flip)


def _unsqueeze(node: ir.Node, q: Perm, _opset: int) -> Rule | None:
    axes = axes_of(node)
    if axes is None or rank(node.outputs[0]) != len(q):
        return None
    axes = tuple(a % len(q) for a in axes)
    if not _order_kept(q, axes):
        return None

    def flip(rw: Rewrite, node: ir.Node, q: Perm) -> None:
        _set_ints(rw, node, "axes", 1, sorted(q.index(a) for a in axes))

    return Rule((), (0,), flip)


def _reshape(node: ir.Node, q: Perm, _opset: int) -> Rule | None:
    """A Reshape that ends the layout: only ones move, or a dense layer follows whose rows can be permuted."""
    shape = dims(node.inputs[0])
    if shape is not None and len(shape) == len(q):
        ones = [a for a, d in enumerate(shape) if d == 1]
        if _order_kept(q, ones) and _absolute(node, q):
            return Rule((0,), (), _nothing)
        if q[0] == 0 and _flattens(node, q, shape):
            dense = _dense_after(node.outputs[0])
            if dense:
                return Rule((0,), (), partial(_permute_rows, dense=tuple(dense)))
    made = dims(node.outputs[0])
    if is_op(node, "Reshape") and made is not None and len(made) == len(q):
        return _reshape_into(node, q, made)
    return None


def _absolute(node: ir.Node, q: Perm) -> bool:
    """Whether the target copies no dimension by its position, but for a first one that stays the first."""
    if is_op(node, "Flatten"):
        return int_attribute(node, "axis", 1) == 1 and q[0] == 0
    target = ints_of(input_of(node, 1))
    return target is not None and 0 not in target[1 if q[0] == 0 else 0 :]


def _reshape_into(node: ir.Node, q: Perm, made: Sequence[int | str | None]) -> Rule | None:
    """[N, C] → [N, 1, 1, C] may as well make [N, C, 1, 1]."""
    target = ints_of(input_of(node, 1))
    ones = [a for a, d in enumerate(made) if d == 1]
    if (
        target is None
        or len(target) != len(q)
        or not _order_kept(q, ones)
        or int_attribute(node, "allowzero", 0)
    ):
        return None
    if any(t == 0 and q.index(a) != a for a, t in enumerate(target)):
        return None

    def flip(rw: Rewrite, node: ir.Node, q: Perm) -> None:
        _set_ints(rw, node, "shape", 1, [target[a] for a in q])

    return Rule((), (0,), flip)


def _flattens(node: ir.Node, q: Perm, shape: Sequence[int | str | None]) -> bool:
    if any(not isinstance(d, int) for d in shape[1:]):
        return False
    made = dims(node.outputs[0])
    if made is None or len(made) != 2 or not _absolute(node, q):
        return False
    return made[1] == int(np.prod([d for d in shape[1:] if isinstance(d, int)]))


def _dense_after(value: ir.Value) -> list[ir.Node] | None:
    """The dense layers that alone read ``value`` [N, K], seen through elementwise unary ops; None where
    others do.
    """
    found: list[ir.Node] = []
    for _ in range(8):
        follower = sole_consumer(value)
        if follower is None or not (follower.domain == "" and follower.op_type in _UNARY):
            break
        value = follower.outputs[0]
    if value.is_graph_output() or not value.uses():
        return None
    for use in value.uses():
        weight = constant_tensor_of(input_of(use.node, 1))
        if use.idx != 0 or weight is None or not is_op(use.node, "MatMul", "Gemm") or len(weight.shape) != 2:
            return None
        if is_op(use.node, "Gemm") and int_attribute(use.node, "transA", 0):
            return None
        found.append(use.node)
    return found


def _permute_rows(rw: Rewrite, node: ir.Node, q: Perm, *, dense: Sequence[ir.Node]) -> None:
    """W rows follow the new order of the flattened features: W' = W[d1, d2, ..., N] transposed by q."""
    # The node's input still has its old shape: the rows are numbered by it.
    shape = tuple(d for d in (dims(node.inputs[0]) or ())[1:] if isinstance(d, int))
    for layer in dense:
        weight = constant_tensor_of(layer.inputs[1])
        if weight is None:
            continue
        by_columns = bool(is_op(layer, "Gemm") and int_attribute(layer, "transB", 0))
        full = tuple(int(d) for d in weight.shape if isinstance(d, int))
        make = partial(_rows_permuted, weight, shape, q, by_columns=by_columns)
        value = rw.lazy(make, weight.dtype, full, f"{site_of(layer)}/weight")
        layer.replace_input_with(1, value)
        note_sources(layer, (layer,))


def _rows_permuted(weight: ir.TensorProtocol, shape: tuple[int, ...], q: Perm, *, by_columns: bool) -> Array:
    array = read_once(weight)
    inner = tuple(a - 1 for a in q[1:])
    if by_columns:  # [N, K]
        split = array.reshape(array.shape[0], *shape)
        return np.transpose(split, (0, *(a + 1 for a in inner))).reshape(array.shape)
    split = array.reshape(*shape, array.shape[1])
    return np.transpose(split, (*inner, len(shape))).reshape(array.shape)


_Make: TypeAlias = Callable[[ir.Node, Perm, int], Rule | None]
_RULES: dict[str, _Make] = {
    "Concat": _axis_rule(1, all_inputs=True),
    "Softmax": _axis_rule(-1, since=13),
    "LogSoftmax": _axis_rule(-1, since=13),
    "Hardmax": _axis_rule(-1, since=13),
    "Split": _axis_rule(0, all_outputs=True),
    "CumSum": lambda _node, _q, _opset: None,
    "ArgMax": _arg,
    "ArgMin": _arg,
    "Pad": _pad,
    "Slice": _slice,
    "Resize": _resize,
    "Tile": _tile,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _quantize,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Flatten": _reshape,
}
