"""Reductions along axes, and the operators that search along one."""

from __future__ import annotations

import onnx_ir as ir

from pipeline.sources.tflite_model import Operator
from pipeline.sources.tflite_ops.build import Build, Handler


def reduce(op_type: str) -> Handler:
    """A handler for MEAN, SUM, REDUCE_MAX and their like, over constant axes."""

    def handle(build: Build, operator: Operator) -> None:
        data = build.input(operator, 0)
        axes, keep = _axes(build, operator), bool(operator.option("keepDims", False))
        same_grid = data if op_type in ("ReduceMax", "ReduceMin") else None
        # Over height and width alone the result has no layout left, or only 1 × 1 of it.
        if build.tensor(data).rank == 4 and build.prefers_channels_first(data) and axes == (1, 2):
            value = build.get_channels_first(data)
            value = _reduced(build, op_type, value, (2, 3), keep)
            if keep:
                build.put_channels_first(operator.outputs[0], value, on_grid_of=same_grid)
            else:
                build.put(operator.outputs[0], value, on_grid_of=same_grid)
            return
        value = _reduced(build, op_type, build.get(data), axes, keep)
        build.put(operator.outputs[0], value, on_grid_of=same_grid)

    return handle


def _reduced(build: Build, op_type: str, value: ir.Value, axes: tuple[int, ...], keep: bool) -> ir.Value:
    if not axes:
        return value
    if op_type == "ReduceSum":
        return build.op("ReduceSum", [value, build.integers(axes, "axes")], keepdims=int(keep))
    return build.op(op_type, [value], axes=list(axes), keepdims=int(keep))


def reduce_logical(op_type: str) -> Handler:
    """REDUCE_ANY (ReduceMax) and REDUCE_ALL (ReduceMin), through int32."""

    def handle(build: Build, operator: Operator) -> None:
        value = build.op("Cast", [build.get(build.input(operator, 0))], to=int(ir.DataType.INT32))
        keep = bool(operator.option("keepDims", False))
        value = _reduced(build, op_type, value, _axes(build, operator), keep)
        build.put(operator.outputs[0], build.op("Cast", [value], to=int(ir.DataType.BOOL)))

    return handle


def _axes(build: Build, operator: Operator) -> tuple[int, ...]:
    axes = build.integers_of(build.input(operator, 1))
    if axes is None:
        build.refuse("its axes are computed at run time")
    rank = build.tensor(operator.inputs[0]).rank
    return tuple(sorted({axis % rank for axis in axes})) if rank else ()


def arg(op_type: str) -> Handler:
    """ARG_MAX, ARG_MIN along a constant axis; the first of equals wins."""

    def handle(build: Build, operator: Operator) -> None:
        axis = build.integers_of(build.input(operator, 1))
        if axis is None:
            build.refuse("its axis is computed at run time")
        value = build.op(op_type, [build.get(build.input(operator, 0))], axis=axis[0], keepdims=0)
        dtype = ir.DataType.from_numpy(build.tensor(operator.outputs[0]).dtype)
        if dtype != ir.DataType.INT64:
            value = build.op("Cast", [value], to=int(dtype))
        build.put(operator.outputs[0], value)

    return handle


def top_k(build: Build, operator: Operator) -> None:
    """TOPK_V2: the k largest along the last axis, and where they stood."""
    data = build.input(operator, 0)
    count = build.op("Reshape", [build.int64(build.input(operator, 1)), build.integers([1])])
    values, places = build.ops("TopK", [build.get(data), count], 2, axis=-1)
    build.put(operator.outputs[0], values, on_grid_of=data)
    if len(operator.outputs) > 1:
        dtype = ir.DataType.from_numpy(build.tensor(operator.outputs[1]).dtype)
        build.put(operator.outputs[1], build.op("Cast", [places], to=int(dtype)))


def cumulative_sum(build: Build, operator: Operator) -> None:
    """CUMSUM along a constant axis."""
    axis = build.int64(build.input(operator, 1))
    value = build.op(
        "CumSum",
        [build.get(build.input(operator, 0)), build.op("Reshape", [axis, build.integers([1])])],
        exclusive=int(bool(operator.option("exclusive", False))),
        reverse=int(bool(operator.option("reverse", False))),
    )
    build.put(operator.outputs[0], value)
