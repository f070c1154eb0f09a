"""Reductions over the rows that share a segment number: SEGMENT_SUM and UNSORTED_SEGMENT_*."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from pipeline.sources.tflite_model import Operator
from pipeline.sources.tflite_ops.build import Build, Handler


def segments(op_type: str) -> Handler:
    """A handler: [N, …] and numbers [N] → [S, …]; each row goes where its number says, negative ones nowhere.

    Written as a mask [S, N] over the data [1, N, …], reduced along N.
    """

    def handle(build: Build, operator: Operator) -> None:
        data, ids = build.input(operator, 0), build.input(operator, 1)
        if build.tensor(ids).rank != 1:
            build.refuse("its segment numbers are not a vector")
        dtype, rank = build.tensor(data).dtype, build.tensor(data).rank
        if build.is_quantized(data):
            build.refuse("its data are quantised")
        empty = build.constant(_empty(op_type, dtype), "empty")
        numbers = build.op("Unsqueeze", [build.int64(ids), build.integers([0])])
        slots = build.op("Unsqueeze", [_slots(build, operator, ids), build.integers([1])])
        mask = build.op("Equal", [slots, numbers])
        if rank > 1:
            mask = build.op("Unsqueeze", [mask, build.integers(range(2, rank + 1))])
        spread = build.op("Unsqueeze", [build.get(data), build.integers([0])])
        chosen = build.op("Where", [mask, spread, empty])
        if op_type == "ReduceSum":
            value = build.op("ReduceSum", [chosen, build.integers([1])], keepdims=0)
        else:
            value = build.op(op_type, [chosen], axes=[1], keepdims=0)
        build.put(operator.outputs[0], value)

    return handle


def _empty(op_type: str, dtype: np.dtype[Any]) -> Array:
    """What a segment without rows holds."""
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    values = {"ReduceSum": 0, "ReduceProd": 1, "ReduceMax": limits.min, "ReduceMin": limits.max}
    return np.asarray(values[op_type], dtype)


def _slots(build: Build, operator: Operator, ids: int) -> ir.Value:
    """0, 1, … S - 1: as many as stated, or as the largest number needs."""
    count = operator.operand(2)
    known = build.integers_of(count if count is not None else ids)
    if known is not None:
        return build.integers(range(known[0] if count is not None else max(known, default=-1) + 1))
    zero, one = (build.constant(np.asarray(n, np.int64)) for n in (0, 1))
    if count is not None:
        limit = build.op("Reshape", [build.int64(count), build.integers([], "scalar")])
    else:
        limit = build.op("Add", [build.op("ReduceMax", [build.int64(ids)], keepdims=0), one])
    value: ir.Value = build.op("Range", [zero, limit, one])
    return value
