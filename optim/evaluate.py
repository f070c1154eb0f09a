"""The value of one node on constant inputs: NumPy for what is common, ONNX's reference evaluator for the
rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir import serde

from optim.contract import Array
from optim.facts import int_attribute, ints_attribute

_Inputs = Sequence[Array | None]


def evaluate(node: ir.Node, inputs: _Inputs, opset: int) -> tuple[Array, ...] | None:
    """Outputs of ``node`` for ``inputs`` (one array per input, None where absent); None where it cannot be
    told.
    """
    quick = _QUICK.get(node.op_type)
    if quick is not None:
        found = quick(node, inputs)
        if found is not None:
            return (found,)
    return _by_reference(node, inputs, opset)


def _by_reference(node: ir.Node, inputs: _Inputs, opset: int) -> tuple[Array, ...] | None:
    from onnx.reference import ReferenceEvaluator

    proto = serde.serialize_node(node)
    graph = onnx.GraphProto(name="node", node=[proto])
    feeds: dict[str, Array] = {}
    for value, array in zip(node.inputs, inputs, strict=True):
        if value is None or array is None or value.name in feeds:
            continue
        try:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        except (KeyError, ValueError):
            return None
        graph.input.append(onnx.helper.make_tensor_value_info(value.name or "", kind, array.shape))
        feeds[value.name or ""] = array
    names = [v.name for v in node.outputs if v.name]
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names)
    opset_import = [onnx.helper.make_opsetid("", opset)]
    model = onnx.ModelProto(ir_version=10, graph=graph, opset_import=opset_import)
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # an op it does not know or cannot do is simply not folded
        return None
    if len(found) != len(names) or any(not isinstance(f, np.ndarray | np.generic) for f in found):
        return None
    return tuple(np.asarray(f) for f in found)


def _arithmetic(operation: Callable[[Array, Array], Array]) -> Callable[[ir.Node, _Inputs], Array | None]:
    def run(node: ir.Node, inputs: _Inputs) -> Array | None:
        if "axis" in node.attributes or "broadcast" in node.attributes:  # opset 6 and older
            return None
        a, b = inputs
        if a is None or b is None or a.dtype != b.dtype:
            return None
        with np.errstate(all="ignore"):
            return np.asarray(operation(a, b)).astype(a.dtype)

    return run


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu":  # ONNX truncates towards zero, NumPy floors
        if not np.all(b):
            raise ZeroDivisionError
        quotient = np.abs(a.astype(object)) // np.abs(b.astype(object))
        return np.asarray(quotient * np.sign(a).astype(object) * np.sign(b).astype(object)).astype(a.dtype)
    return np.asarray(a / b)


def _unary(operation: Callable[[Array], Array]) -> Callable[[ir.Node, _Inputs], Array | None]:
    def run(_node: ir.Node, inputs: _Inputs) -> Array | None:
        (x,) = inputs
        if x is None:
            return None
        with np.errstate(all="ignore"):
            return np.asarray(operation(x)).astype(x.dtype)

    return run


def _cast(node: ir.Node, inputs: _Inputs) -> Array | None:
    x = inputs[0]
    target = ir.DataType(int_attribute(node, "to", 0))
    plain = {
        ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL,
        ir.DataType.FLOAT16,
    }  # fmt: skip
    if x is None or target not in plain or x.dtype.kind not in "biuf":
        return None
    if x.dtype.kind == "f" and target in (ir.DataType.INT32, ir.DataType.INT64):
        limit = 2.0 ** (31 if target == ir.DataType.INT32 else 63)
        if not bool((np.abs(x) < limit).all()):  # what an overflow gives is up to the runtime
            return None
    with np.errstate(all="ignore"):
        return x.astype(target.numpy())


def _transpose(node: ir.Node, inputs: _Inputs) -> Array | None:
    x = inputs[0]
    return None if x is None else np.transpose(x, ints_attribute(node, "perm"))


def _reshape(node: ir.Node, inputs: _Inputs) -> Array | None:
    x = inputs[0]
    if x is None or len(inputs) < 2 or inputs[1] is None:
        return None
    target = [int(i) for i in inputs[1]]
    if not int_attribute(node, "allowzero", 0):
        if any(t == 0 and i >= x.ndim for i, t in enumerate(target)):
            return None
        target = [x.shape[i] if t == 0 else t for i, t in enumerate(target)]
    return x.reshape(target)


def _squeeze(node: ir.Node, inputs: _Inputs) -> Array | None:
    x = inputs[0]
    axes = ints_attribute(node, "axes")
    if axes is None and len(inputs) > 1 and inputs[1] is not None:
        axes = tuple(int(i) for i in inputs[1].reshape(-1))
    return None if x is None else np.squeeze(x, axis=axes)


def _unsqueeze(node: ir.Node, inputs: _Inputs) -> Array | None:
    x = inputs[0]
    axes = ints_attribute(node, "axes")
    if axes is None and len(inputs) > 1 and inputs[1] is not None:
        axes = tuple(int(i) for i in inputs[1].reshape(-1))
    return None if x is None or axes is None else np.expand_dims(x, axes)


def _concat(node: ir.Node, inputs: _Inputs) -> Array | None:
    parts = [x for x in inputs if x is not None]
    if len(parts) != len(inputs) or len({x.dtype for x in parts}) != 1:
        return None
    return np.concatenate(parts, axis=int_attribute(node, "axis", 0))


def _gather(node: ir.Node, inputs: _Inputs) -> Array | None:
    x, where = inputs
    if x is None or where is None:
        return None
    return np.take(x, where.astype(np.int64), axis=int_attribute(node, "axis", 0))


def _slice(node: ir.Node, inputs: _Inputs) -> Array | None:
    x = inputs[0]
    if x is None:
        return None
    if len(inputs) == 1:
        starts, ends = ints_attribute(node, "starts"), ints_attribute(node, "ends")
        axes, steps = ints_attribute(node, "axes"), None
    else:
        arrays = [None if a is None else tuple(int(i) for i in a.reshape(-1)) for a in inputs[1:]]
        starts, ends, axes, steps = (*arrays, None, None)[:4]
    if starts is None or ends is None:
        return None
    index = [slice(None)] * x.ndim
    for i, axis in enumerate(axes or range(len(starts))):
        step = steps[i] if steps else 1
        end = ends[i]
        stop = None if step < 0 and end < -x.shape[axis] else end
        index[axis] = slice(starts[i], stop, step)
    return x[tuple(index)]


def _constant_of_shape(node: ir.Node, inputs: _Inputs) -> Array | None:
    shape = inputs[0]
    if shape is None:
        return None
    attribute = node.attributes.get("value")
    fill = np.zeros(1, np.float32) if attribute is None else attribute.as_tensor().numpy()
    return np.full([int(d) for d in shape], fill.reshape(()), dtype=fill.dtype)


def _where(_node: ir.Node, inputs: _Inputs) -> Array | None:
    condition, x, y = inputs
    if condition is None or x is None or y is None or x.dtype != y.dtype:
        return None
    return np.where(condition, x, y)


def _expand(_node: ir.Node, inputs: _Inputs) -> Array | None:
    x, shape = inputs
    if x is None or shape is None:
        return None
    return np.array(np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(int(d) for d in shape))))


_QUICK: dict[str, Callable[[ir.Node, _Inputs], Array | None]] = {
    "Identity": lambda _node, inputs: inputs[0],
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
    "Div": _arithmetic(_divide),
    "Neg": _unary(np.negative),
    "Sqrt": _unary(np.sqrt),
    "Reciprocal": _unary(lambda x: 1 / x),
    "Abs": _unary(np.abs),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "ConstantOfShape": _constant_of_shape,
    "Where": _where,
    "Expand": _expand,
}
