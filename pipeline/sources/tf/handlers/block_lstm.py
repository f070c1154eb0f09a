"""``BlockLSTM``, ``BlockLSTMV2``: a whole LSTM layer as one TensorFlow op.

Per step, with (i, ci, f, o) = [x, h]·w + b in this order (V2: i, f, ci, o), ⊙ elementwise
(https://www.tensorflow.org/api_docs/python/tf/raw_ops/BlockLSTM):

    i = σ(i + wci ⊙ cs)    f = σ(f + forget_bias + wcf ⊙ cs)    ci = tanh(ci)
    cs = clip(ci ⊙ i + cs ⊙ f)    o = σ(o + wco ⊙ cs)    co = tanh(cs)    h = co ⊙ o

Peepholes only where ``use_peephole``; ``cell_clip`` ≤ 0 does not clip; V2 has no forget_bias. Results from
step ``seq_len_max`` on are zero. Where only h is read, nothing is clipped and the weights are constants, that
is ONNX's ``LSTM`` (gates in the order i, o, f, c; its own ``clip`` clips the gates' inputs, another thing).
Else it is a ``Scan`` over the steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.sources.tf.handlers.emit import Emit

_GATES = {"BlockLSTM": "icfo", "BlockLSTMV2": "ifco"}
_OUTPUTS = ("i", "cs", "f", "o", "ci", "co", "h")
_H = _OUTPUTS.index("h")


@dataclass(frozen=True)
class _Op:
    """The op's operands and attributes."""

    length: str
    x: str  # [T, B, I]
    cs: str  # [B, H]
    h: str  # [B, H]
    w: str  # [I + H, 4·H]
    wci: str  # [H]
    wcf: str
    wco: str
    b: str  # [4·H]
    order: str
    forget_bias: float
    cell_clip: float
    peephole: bool


def convert(ctx: Any, node: Any, **_: Any) -> None:
    """tf2onnx handler."""
    op = _read(node)
    read = [
        index
        for index, output in enumerate(node.output)
        if ctx.find_output_consumers(output) or output in ctx.outputs
    ]
    steps = (ctx.get_shape(op.x) or [-1])[0]
    length = _constant(ctx, op.length)
    cut = length is None or steps < 0 or int(length) < steps
    weights = [_constant(ctx, name) for name in (op.w, op.b, op.wci, op.wcf, op.wco)]
    known = all(weight is not None for weight in (weights if op.peephole else weights[:2]))
    positive = length is not None and int(length) > 0 and (steps < 0 or int(length) <= steps or not cut)
    if set(read) <= {_H} and known and op.cell_clip <= 0 and positive and not (cut and steps < 0):
        _as_lstm(ctx, node, op, weights, int(length) if cut else None)
    else:
        _as_scan(ctx, node, op, read, cut=cut)


def _read(node: Any) -> _Op:
    length, x, cs, h, w, wci, wcf, wco, b = node.input
    bias = node.get_attr_value("forget_bias", 1.0) if node.type == "BlockLSTM" else 0.0
    clip = node.get_attr_value("cell_clip", 3.0 if node.type == "BlockLSTM" else 0.0)
    peephole = bool(node.get_attr_value("use_peephole", False))
    return _Op(length, x, cs, h, w, wci, wcf, wco, b, _GATES[node.type], bias, clip, peephole)


def _constant(ctx: Any, tensor: str) -> Any:
    producer = ctx.get_node_by_output(tensor)
    return producer.get_tensor_value(as_list=False) if producer is not None and producer.is_const() else None


def _as_lstm(ctx: Any, node: Any, op: _Op, weights: list[Any], length: int | None) -> None:
    from onnx import TensorProto
    from tf2onnx.graph_builder import GraphBuilder

    emit, build = Emit(ctx, node), GraphBuilder(ctx)
    w, b, wci, wcf, wco = weights
    size = w.shape[1] // 4
    dtype = w.dtype
    column = {gate: slice(k * size, (k + 1) * size) for k, gate in enumerate(op.order)}
    bias = {gate: b[part] for gate, part in column.items()}
    bias["f"] = bias["f"] + dtype.type(op.forget_bias)
    gates = np.concatenate([w[:, column[gate]] for gate in "iofc"], axis=1).T  # [4·H, I + H]
    inputs = gates.shape[1] - size
    offsets = np.concatenate([*(bias[gate] for gate in "iofc"), np.zeros(4 * size, dtype)])
    lengths = ""
    if length is not None:
        batch = build.make_slice({"data": emit.node("Shape", op.x), "starts": [1], "ends": [2], "axes": [0]})
        lengths = emit.node("Expand", emit.const([length], np.int32), batch)
    operands = [
        op.x,
        emit.const(gates[None, :, :inputs], dtype),
        emit.const(gates[None, :, inputs:], dtype),
        emit.const(offsets[None], dtype),
        lengths,
        build.make_unsqueeze({"data": op.h, "axes": [0]}),
        build.make_unsqueeze({"data": op.cs, "axes": [0]}),
    ]
    if op.peephole:
        operands.append(emit.const(np.concatenate([wci, wco, wcf])[None], dtype))
    made = ctx.make_node("LSTM", operands, attr={"hidden_size": size, "direction": "forward"}, output_count=3)
    ctx.set_dtype(made.output[0], ctx.get_dtype(op.x) or TensorProto.FLOAT)
    result = build.make_squeeze({"data": made.output[0], "axes": [1]})
    emit.replace([None] * _H + [result])


def _as_scan(ctx: Any, node: Any, op: _Op, read: list[int], *, cut: bool) -> None:
    emit = Emit(ctx, node)
    dtype = ctx.get_dtype(op.x)
    body = _body(ctx, node, op, read, dtype)
    made = ctx.make_node(
        "Scan",
        [op.cs, op.h, op.x],
        attr={"num_scan_inputs": 1},
        output_count=2 + len(read),
        shapes=[ctx.get_shape(op.cs), ctx.get_shape(op.h), *(node.output_shapes[index] for index in read)],
        dtypes=[dtype] * (2 + len(read)),
        branches={"body": body},
    )
    results: list[str | None] = [None] * len(_OUTPUTS)
    for position, index in enumerate(read):
        results[index] = made.output[2 + position]
    if cut:
        inside = _inside(ctx, emit, op)
        zero = emit.like(0, op.x)
        results = [None if one is None else emit.node("Where", inside, one, zero) for one in results]
    emit.replace(results)


def _inside(ctx: Any, emit: Emit, op: _Op) -> str:
    """[T, 1, 1] whether a step lies before ``seq_len_max``."""
    from onnx import TensorProto
    from tf2onnx.graph_builder import GraphBuilder

    build = GraphBuilder(ctx)
    count = build.make_slice({"data": emit.node("Shape", op.x), "starts": [0], "ends": [1], "axes": [0]})
    steps = emit.node("Range", emit.const(0), build.make_squeeze({"data": count, "axes": [0]}), emit.const(1))
    length = emit.node("Cast", op.length, to=TensorProto.INT64)
    return emit.node("Reshape", emit.node("Less", steps, length), emit.const([-1, 1, 1]))


def _body(ctx: Any, node: Any, op: _Op, read: list[int], dtype: int) -> Any:
    """One step: (cs, h, x) → (cs, h, what is read of the outputs)."""
    from tf2onnx import utils
    from tf2onnx.graph_builder import GraphBuilder

    size = (ctx.get_shape(op.b) or [-4])[0] // 4
    if size < 0:
        raise ValueError(f"{node.name}: the number of cells is unknown")
    graph = ctx.create_new_graph_with_same_config()
    graph.parent_graph = ctx
    emit, build = Emit(graph, node), GraphBuilder(graph)
    state = ctx.get_shape(op.cs) or [-1, size]
    step = (ctx.get_shape(op.x) or [-1, -1, -1])[1:]
    cs, h, x = (utils.make_name(f"{node.name}_{one}") for one in ("cs", "h", "x"))
    for name, shape in ((cs, state), (h, state), (x, step)):
        graph.add_graph_input(name, dtype, shape)
    sums = emit.node("Add", emit.node("MatMul", emit.node("Concat", x, h, axis=1), op.w), op.b)
    part = {
        gate: build.make_slice({"data": sums, "starts": [k * size], "ends": [(k + 1) * size], "axes": [1]})
        for k, gate in enumerate(op.order)
    }

    def gate_of(total: str, weight: str, cell: str) -> str:
        return emit.node(
            "Sigmoid", emit.node("Add", total, emit.node("Mul", cell, weight)) if op.peephole else total
        )

    graph_scalar = _scalar(graph, node, dtype)
    forget = emit.node("Add", part["f"], graph_scalar(op.forget_bias)) if op.forget_bias else part["f"]
    i, f = gate_of(part["i"], op.wci, cs), gate_of(forget, op.wcf, cs)
    ci = emit.node("Tanh", part["c"])
    cell = emit.node("Add", emit.node("Mul", ci, i), emit.node("Mul", cs, f))
    if op.cell_clip > 0:
        cell = emit.node(
            "Min", emit.node("Max", cell, graph_scalar(-op.cell_clip)), graph_scalar(op.cell_clip)
        )
    o = gate_of(part["o"], op.wco, cell)
    co = emit.node("Tanh", cell)
    hidden = emit.node("Mul", co, o)
    values = {"i": i, "cs": cell, "f": f, "o": o, "ci": ci, "co": co, "h": hidden}
    for value in (cell, hidden, *(values[_OUTPUTS[index]] for index in read)):
        # Each output of a body needs a name of its own.
        graph.add_graph_output(emit.node("Identity", value), dtype, state)
    return graph


def _scalar(graph: Any, node: Any, dtype: int) -> Any:
    from tf2onnx import utils

    emit = Emit(graph, node)
    return lambda value: emit.const(value, utils.map_onnx_to_numpy_type(dtype))
