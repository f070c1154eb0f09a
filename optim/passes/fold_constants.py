"""Node whose inputs never change → its value; shape arithmetic on known dimensions → numbers.

Allowed: deterministic standard ops. A result much larger than its inputs stays computed (it would swell the
file) unless it is a weight. Large results are lazy: computed when they are read, one at a time. A Reshape
whose target is known but for one dimension gets a constant target with -1.
Numbers: reassociates (NumPy's exp or matrix product may round otherwise than the runtime's); data movement
and IEEE arithmetic are exact. https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.evaluate import evaluate
from optim.facts import (
    constant_tensor_of,
    dims,
    input_of,
    int_attribute,
    ints_of,
    is_op,
    opset_of,
    site_of,
    static_shape,
)
from optim.passes.eliminate_common_subexpressions import RANDOM_OPS
from optim.rewrite import Rewrite
from optim.weights import read_once

_LAZY_BYTES = 1 << 20
_GROWTH_LIMIT_BYTES = 1 << 16
# QuantizeLinear and DequantizeLinear mark integer weights: folding them would undo a quantisation.
_KEPT = RANDOM_OPS | {"Constant", "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "Optional"}

_Dims: TypeAlias = tuple[int | str | None, ...]


@dataclass(frozen=True)
class FoldConstants:
    """One forward sweep; what it folds feeds what follows."""

    growth_limit_bytes: int = field(default=_GROWTH_LIMIT_BYTES)

    @property
    def info(self) -> PassInfo:
        return PassInfo(
            "fold_constants", Numerics.REASSOCIATES, "constant subgraphs and shape arithmetic → values"
        )

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        known: dict[ir.Value, _Dims] = {}
        for node in tuple(model.graph):
            if node.domain != "" or not node.outputs or not rw.allows(site_of(node)):
                continue
            if node.op_type in _KEPT or _holds_graph(node):
                continue
            if node.inputs and all(v is None or constant_tensor_of(v) is not None for v in node.inputs):
                _fold(rw, node, self.growth_limit_bytes)
                continue
            _fold_shape(rw, node, known)
        return rw.outcome()


def _holds_graph(node: ir.Node) -> bool:
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(a.is_ref() or a.type in graphs for a in node.attributes.values())


def _fold(rw: Rewrite, node: ir.Node, growth_limit: int) -> None:
    site = site_of(node)
    if any(v.is_graph_output() for v in node.outputs):
        rw.refuse(site, "a graph output must be made by a node")
        return
    tensors = [constant_tensor_of(v) for v in node.inputs]
    if any(t is not None and t.dtype == ir.DataType.STRING for t in tensors):
        rw.refuse(site, "strings are not folded")
        return
    size = sum(t.nbytes for t in tensors if t is not None)
    shape, dtype = static_shape(node.outputs[0]), node.outputs[0].dtype
    if shape is not None and dtype is not None:
        grown = int(np.prod(shape, dtype=np.int64)) * dtype.bitwidth // 8
        if grown > max(growth_limit, 2 * size) and not _is_weight(node.outputs[0]):
            rw.refuse(site, f"the value holds {grown} bytes, its inputs {size}")
            return
        if max(size, grown) > _LAZY_BYTES and len(node.outputs) == 1 and node.op_type in _LAZY_OPS:
            make = partial(_value_of, _detached(node), tuple(tensors), opset_of(rw.model))
            _settle(rw, node, [rw.lazy(make, dtype, shape, site)])
            return
    try:
        arrays = evaluate(
            node, [None if t is None else np.asarray(t.numpy()) for t in tensors], opset_of(rw.model)
        )
    except (ArithmeticError, ValueError, IndexError, TypeError) as error:
        rw.refuse(site, f"cannot be computed: {error}")
        return
    present = [v for v in node.outputs if v.name]
    if arrays is None or len(arrays) != len(present):
        rw.refuse(site, f"no evaluator for {node.op_type} here")
        return
    grown = sum(a.nbytes for a in arrays)
    if grown > max(growth_limit, 2 * size) and not _is_weight(node.outputs[0]):
        rw.refuse(site, f"the value holds {grown} bytes, its inputs {size}")
        return
    if any(
        v.dtype is not None and ir.DataType.from_numpy(a.dtype) != v.dtype
        for v, a in zip(present, arrays, strict=True)
    ):
        rw.refuse(site, "the evaluator gives another type than the graph declares")
        return
    _settle(rw, node, [rw.constant(a, v.name or "folded") for v, a in zip(present, arrays, strict=True)])


# Ops whose result on large weights is put off until it is read.
_LAZY_OPS = frozenset(
    {
        "Transpose",
        "Reshape",
        "Cast",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Neg",
        "Slice",
        "ConstantOfShape",
    }
)


def _is_weight(value: ir.Value) -> bool:
    """Whether it is only ever a weight or bias: many targets take those as stored constants and nothing
    else.
    """
    weighted = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    uses = value.uses()
    return bool(uses) and all(is_op(u.node, *weighted) and u.idx in (1, 2) for u in uses)


def _detached(node: ir.Node) -> ir.Node:
    """A copy of the node outside the graph, so that the lazy value keeps no graph alive."""
    inputs = [None if v is None else ir.Value(name=v.name) for v in node.inputs]
    outputs = [ir.Value(name=v.name) for v in node.outputs]
    return ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), outputs=outputs)


def _value_of(node: ir.Node, tensors: tuple[ir.TensorProtocol | None, ...], opset: int) -> Array:
    arrays = evaluate(node, [None if t is None else read_once(t) for t in tensors], opset)
    if arrays is None:
        raise ValueError(f"{node.op_type} cannot be computed")
    return arrays[0]


def _settle(rw: Rewrite, node: ir.Node, values: list[ir.Value]) -> None:
    """Readers of the node's outputs read ``values``, which take over the outputs' names."""
    outputs = [v for v in node.outputs if v.name]
    site = site_of(node)
    names = [v.name for v in outputs]
    for old, new in zip(outputs, values, strict=True):
        old.replace_all_uses_with(new)
        old.name = None
    rw.drop(node)
    for name, new in zip(names, values, strict=True):
        new.name = name
        if new.const_value is not None:
            new.const_value.name = name
    rw.done(site)


# --- shape arithmetic ------------------------------------------------------------------------------


def _fold_shape(rw: Rewrite, node: ir.Node, known: dict[ir.Value, _Dims]) -> None:
    if is_op(node, "Reshape"):
        _settle_reshape(rw, node, known)
        return
    found = _dims_made_by(node, known)
    if found is None:
        return
    known[node.outputs[0]] = found
    numbers = [d for d in found if isinstance(d, int)]
    if len(numbers) != len(found) or node.outputs[0].is_graph_output():
        return
    dtype = node.outputs[0].dtype
    array = np.asarray(numbers, dtype=np.int64 if dtype is None else dtype.numpy())
    if static_shape(node.outputs[0]) == ():
        array = array.reshape(())
    _settle(rw, node, [rw.constant(array, site_of(node))])


def _dims_made_by(node: ir.Node, known: dict[ir.Value, _Dims]) -> _Dims | None:
    """The integers a shape computation gives, as far as they are known; None where it is no such
    computation.
    """

    def of(value: ir.Value | None) -> _Dims | None:
        if value is None:
            return None
        return known[value] if value in known else ints_of(value)

    first = input_of(node, 0)
    match node.op_type:
        case "Shape":
            shape = dims(first)
            if shape is None:
                return None
            start, end = int_attribute(node, "start", 0), int_attribute(node, "end", len(shape))
            return shape[start:end]
        case "Size":
            static = static_shape(first)
            return None if static is None else (int(np.prod(static, dtype=np.int64)),)
        case "Gather" if first in known:
            where = ints_of(input_of(node, 1))
            if where is None or any(not -len(known[first]) <= i < len(known[first]) for i in where):
                return None
            return tuple(known[first][i] for i in where)
        case "Slice" if first in known and len(known[first]) > 0:
            return _sliced(node, known[first])
        case "Concat":
            parts = [of(v) for v in node.inputs]
            if any(p is None for p in parts) or not any(v in known for v in node.inputs):
                return None
            return tuple(d for p in parts if p is not None for d in p)
        case "Cast" if first in known:
            integer = int_attribute(node, "to", 0) in (ir.DataType.INT32, ir.DataType.INT64)
            return known[first] if integer else None
        case "Squeeze" | "Unsqueeze" | "Identity" if first in known:
            wide = static_shape(node.outputs[0])
            return known[first] if wide is not None and len(wide) <= 1 else None
    return None


def _sliced(node: ir.Node, values: _Dims) -> _Dims | None:
    numbers = [ints_of(v) for v in node.inputs[1:]]
    if len(numbers) < 2 or any(n is None or len(n) != 1 for n in numbers):
        return None
    start, end, axis, step = (
        (*(n[0] for n in numbers if n is not None), 0, 1)[:4]
        if len(numbers) < 4
        else tuple(n[0] for n in numbers[:4] if n is not None)
    )
    if len(numbers) == 3:
        step = 1
    return values[start:end:step] if axis in (0, -1) and step > 0 else None


def _settle_reshape(rw: Rewrite, node: ir.Node, known: dict[ir.Value, _Dims]) -> None:
    """Give a Reshape a constant target when all but one of its dimensions are known."""
    target = input_of(node, 1)
    if target is None or constant_tensor_of(target) is not None:
        return
    shape = dims(node.outputs[0])
    made = known.get(target)
    if made is not None and (shape is None or len(shape) == len(made)):
        merged = tuple(
            s if m is None or (isinstance(m, str) and isinstance(s, int)) else m
            for m, s in zip(made, shape or (None,) * len(made), strict=True)
        )
        shape = merged
    if shape is None:
        return
    numbers = _target_of(node, shape)
    if numbers.count(-1) > 1:
        rw.refuse(site_of(node), "more than one dimension of the target is unknown")
        return
    if 0 in shape:
        rw.refuse(site_of(node), "a dimension of the target is zero")
        return
    value = rw.constant(np.asarray(numbers, dtype=np.int64), f"{site_of(node)}/shape")
    node.replace_input_with(1, value)
    rw.done(site_of(node))


def _target_of(node: ir.Node, shape: _Dims) -> list[int]:
    """Numbers for what is known; 0, "as it was", for a dimension with a name where more than one is not."""
    numbers = [d if isinstance(d, int) else -1 for d in shape]
    if numbers.count(-1) < 2 or int_attribute(node, "allowzero", 0):
        return numbers
    before = dims(node.inputs[0]) or ()
    return [
        0 if isinstance(d, str) and axis < len(before) and before[axis] == d else n
        for axis, (d, n) in enumerate(zip(shape, numbers, strict=True))
    ]
