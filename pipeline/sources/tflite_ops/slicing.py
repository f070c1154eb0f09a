"""Operators that pick elements: slices, gathers, scatters."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from pipeline.sources.tflite_model import Operator
from pipeline.sources.tflite_ops.build import Build

_FAR = np.iinfo(np.int64).max


def slice_(build: Build, operator: Operator) -> None:
    """SLICE(x, begin, size); a size of -1 reaches to the end."""
    data, begin, size = (build.input(operator, position) for position in range(3))
    rank = build.tensor(data).rank
    starts, sizes = build.integers_of(begin), build.integers_of(size)
    if starts is not None and sizes is not None:
        ends = [_FAR if n == -1 else s + n for s, n in zip(starts, sizes, strict=True)]
        bounds = [build.integers(starts, "starts"), build.integers(ends, "ends")]
    else:
        start, length = build.int64(begin), build.int64(size)
        to_end = build.op("Less", [length, build.integers([0])])
        end = build.op("Where", [to_end, build.integers([_FAR]), build.op("Add", [start, length])])
        bounds = [start, end]
    axes = build.integers(range(rank), "axes")
    value = build.op("Slice", [build.get(data), *bounds, axes])
    build.put(operator.outputs[0], value, on_grid_of=data)


def strided_slice(build: Build, operator: Operator) -> None:
    """STRIDED_SLICE with its five masks (https://www.tensorflow.org/api_docs/python/tf/strided_slice)."""
    data = build.input(operator, 0)
    begins, ends, strides = (build.integers_of(build.input(operator, p)) for p in (1, 2, 3))
    if strides is None:
        build.refuse("its strides are computed at run time")
    masks = {
        key: int(operator.option(f"{key}Mask", 0))
        for key in ("begin", "end", "ellipsis", "newAxis", "shrinkAxis")
    }
    rank = build.tensor(data).rank
    count = len(strides)
    new_axes = sum(1 for i in range(count) if masks["newAxis"] >> i & 1 and not masks["ellipsis"] >> i & 1)
    taken = count - new_axes - (1 if masks["ellipsis"] else 0)
    starts: list[ir.Value] = []
    stops: list[ir.Value] = []
    axes: list[int] = []
    steps: list[int] = []
    squeezed: list[int] = []
    unsqueezed: list[int] = []
    axis = position = 0  # axis of the operand; position in the result before squeezing
    for i in range(count):
        bit = 1 << i
        if masks["ellipsis"] & bit:
            axis += rank - taken
            position += rank - taken
            continue
        if masks["newAxis"] & bit:
            unsqueezed.append(position)
            position += 1
            continue
        shrinks = bool(masks["shrinkAxis"] & bit)
        open_start = bool(masks["begin"] & bit) and not shrinks
        begin = None if open_start else _element(build, operator, 1, begins, i)
        whole_end = bool(masks["end"] & bit)
        stride = 1 if shrinks else strides[i]
        if begin is None:
            begin = build.integers([0 if stride > 0 else _FAR])
        if shrinks:
            end = _after(build, begin, begins, i)
            squeezed.append(position)
        elif whole_end:
            end = build.integers([_FAR if stride > 0 else np.iinfo(np.int64).min])
        else:
            end = _element(build, operator, 2, ends, i)
        if not (whole_end and masks["begin"] & bit and stride == 1 and not shrinks):
            starts.append(begin)
            stops.append(end)
            axes.append(axis)
            steps.append(stride)
        axis += 1
        position += 1
    value = build.get(data)
    if axes:
        bounds = [starts[0], stops[0]] if len(axes) == 1 else [_join(build, starts), _join(build, stops)]
        value = build.op(
            "Slice", [value, *bounds, build.integers(axes, "axes"), build.integers(steps, "steps")]
        )
    if unsqueezed:
        value = build.op("Unsqueeze", [value, build.integers(unsqueezed, "axes")])
    if squeezed:
        value = build.op("Squeeze", [value, build.integers(squeezed, "axes")])
    build.put(operator.outputs[0], value, on_grid_of=data)


def _element(
    build: Build, operator: Operator, operand: int, known: tuple[int, ...] | None, index: int
) -> ir.Value:
    """Element ``index`` of a bound, as a vector of one."""
    if known is not None:
        return build.integers([known[index]])
    whole = build.int64(build.input(operator, operand))
    value: ir.Value = build.op("Gather", [whole, build.integers([index])], axis=0)
    return value


def _after(build: Build, begin: ir.Value, known: tuple[int, ...] | None, index: int) -> ir.Value:
    """The end of a slice of one element: begin + 1, but the far end after -1."""
    if known is not None:
        return build.integers([_FAR if known[index] == -1 else known[index] + 1])
    last = build.op("Equal", [begin, build.integers([-1])])
    value: ir.Value = build.op(
        "Where", [last, build.integers([_FAR]), build.op("Add", [begin, build.integers([1])])]
    )
    return value


def _join(build: Build, parts: list[ir.Value]) -> ir.Value:
    constants = [part.const_value for part in parts]
    if all(constant is not None for constant in constants):
        return build.integers([int(c.numpy()[0]) for c in constants if c is not None])
    value: ir.Value = build.op("Concat", parts, axis=0)
    return value


def gather(build: Build, operator: Operator) -> None:
    """GATHER along an axis; the first ``batchDims`` axes of data and indices go together."""
    data, indices = build.input(operator, 0), build.input(operator, 1)
    rank, batch = build.tensor(data).rank, int(operator.option("batchDims", 0) or 0)
    batch += build.tensor(indices).rank if batch < 0 else 0
    axis = int(operator.option("axis", 0)) % max(rank, 1)
    if batch == 0:
        value = build.op("Gather", [build.get(data), build.get(indices)], axis=axis)
        build.put(operator.outputs[0], value, on_grid_of=data)
        return
    # GatherND looks along the axis right behind the batch: bring it there, and the result's back.
    places = build.tensor(indices).rank - batch
    between = axis - batch
    order = [*range(batch), axis, *(i for i in range(batch, rank) if i != axis)]
    value = build.get(data)
    value = build.op("Transpose", [value], perm=order) if between else value
    chosen = build.op("Unsqueeze", [build.int64(indices), build.integers([-1])])
    value = build.op("GatherND", [value, chosen], batch_dims=batch)  # [batch, places, between, rest]
    if between:
        total = places + rank - 1
        moved = [*range(batch), *range(batch + places, batch + places + between),
                 *range(batch, batch + places), *range(batch + places + between, total)]  # fmt: skip
        value = build.op("Transpose", [value], perm=moved)
    build.put(operator.outputs[0], value, on_grid_of=data)


def embedding_lookup(build: Build, operator: Operator) -> None:
    """EMBEDDING_LOOKUP(ids, table): rows of the table."""
    ids, table = build.input(operator, 0), build.input(operator, 1)
    build.put(operator.outputs[0], build.op("Gather", [build.get(table), build.get(ids)], axis=0))


def gather_nd(build: Build, operator: Operator) -> None:
    """GATHER_ND."""
    data, indices = build.input(operator, 0), build.input(operator, 1)
    value = build.op("GatherND", [build.get(data), build.int64(indices)])
    build.put(operator.outputs[0], value, on_grid_of=data)


def scatter_nd(build: Build, operator: Operator) -> None:
    """SCATTER_ND(indices, updates, shape): sums into zeros, as TensorFlow does with repeated indices.

    Summing needs ScatterND-16; the working opset is older, so only constant, unrepeated indices pass.
    """
    indices, updates, shape = (build.input(operator, position) for position in range(3))
    places = build.constant_of(indices)
    if places is None:
        build.refuse("its indices are computed at run time and might repeat")
    rows = places.reshape(-1, places.shape[-1])
    if len(np.unique(rows, axis=0)) != len(rows):
        build.refuse("its indices repeat")
    dtype = build.tensor(updates).dtype
    zeros = build.op("ConstantOfShape", [build.int64(shape)], value=ir.tensor(np.zeros(1, dtype)))
    build.put(operator.outputs[0], build.op("ScatterND", [zeros, build.int64(indices), build.get(updates)]))


def sparse_to_dense(build: Build, operator: Operator) -> None:
    """SPARSE_TO_DENSE(indices [n, rank], shape, values, default); a vector of indices is for one axis."""
    indices, shape, values, default = (build.input(operator, position) for position in range(4))
    places = build.int64(indices)
    if build.tensor(indices).rank < 2:
        places = build.op("Reshape", [places, build.integers([-1, 1])])
    count = build.tensor(indices).dims[0] if build.tensor(indices).rank else 1
    stored = build.get(values)
    if build.tensor(values).rank == 0:
        if count is None:
            build.refuse("the number of its indices is not known")
        stored = build.op("Expand", [stored, build.integers([count])])
    filled = build.op("Expand", [build.get(default), build.int64(shape)])
    build.put(operator.outputs[0], build.op("ScatterND", [filled, places, stored]))


def unique(build: Build, operator: Operator) -> None:
    """UNIQUE: the values in order of first appearance, and where each element went."""
    data = build.input(operator, 0)
    dtype = build.tensor(data).dtype
    wide = dtype.kind in "iu" and not build.is_quantized(data)  # ONNX Runtime has it for int64 alone
    value = build.int64(data) if wide else build.get(data)
    values, _, places, _ = build.ops("Unique", [value], 4, sorted=0)
    if wide and dtype != np.int64:
        values = build.op("Cast", [values], to=int(ir.DataType.from_numpy(dtype)))
    build.put(operator.outputs[0], values, on_grid_of=data)
    kind = ir.DataType.from_numpy(build.tensor(operator.outputs[1]).dtype)
    build.put(operator.outputs[1], build.op("Cast", [places], to=int(kind)))


def where(build: Build, operator: Operator) -> None:
    """WHERE of one operand: coordinates of what is true, one row each."""
    found = build.op("NonZero", [build.get(build.input(operator, 0))])
    build.put(operator.outputs[0], build.op("Transpose", [found], perm=(1, 0)))


def dynamic_update_slice(build: Build, operator: Operator) -> None:
    """DYNAMIC_UPDATE_SLICE at a constant start: the update surrounded by what it leaves standing."""
    data, update, start = (build.input(operator, position) for position in range(3))
    starts, whole, part = build.integers_of(start), build.static(data), build.static(update)
    if starts is None or whole is None or part is None:
        build.refuse("its start or its shapes are not known at conversion")
    grids = np.meshgrid(
        *(np.arange(n) + _clamped(s, n, d) for s, n, d in zip(starts, part, whole, strict=True)),
        indexing="ij",
    )
    places = build.constant(np.stack(grids, axis=-1).astype(np.int64), "places")
    build.put(operator.outputs[0], build.op("ScatterND", [build.get(data), places, build.get(update)]))


def _clamped(start: int, length: int, size: int) -> int:
    return min(max(start, 0), size - length)
