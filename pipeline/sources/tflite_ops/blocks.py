"""SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND, how TensorFlow once wrote dilated convolutions.

https://www.tensorflow.org/api_docs/python/tf/space_to_batch: pad, cut every spatial axis into (size / block,
block), and move the blocks in front of the batch: [N, S1/b1, b1, …, C] → [b1, …, N, S1/b1, …, C].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from pipeline.sources.tflite_model import Operator
from pipeline.sources.tflite_ops.build import Build


def space_to_batch(build: Build, operator: Operator) -> None:
    """SPACE_TO_BATCH_ND(x, block sizes, paddings [M, 2])."""
    data, block_index, padding_index = (build.input(operator, position) for position in range(3))
    blocks = _blocks(build, block_index)
    rank, count = build.tensor(data).rank, len(blocks)
    value = _pad_space(build, build.get(data), padding_index, rank, count)
    sizes = _sizes(build, value, rank)
    cut: list[ir.Value] = [sizes[0]]
    for axis, block in enumerate(blocks, start=1):
        step = build.integers([block])
        cut += [build.op("Div", [sizes[axis], step]), step]
    cut += sizes[count + 1 :]
    value = build.op("Reshape", [value, build.op("Concat", cut, axis=0)])
    inside = [2 + 2 * axis for axis in range(count)]
    outside = [1 + 2 * axis for axis in range(count)]
    rest = range(1 + 2 * count, rank + count)
    value = build.op("Transpose", [value], perm=(*inside, 0, *outside, *rest))
    batch = build.op("Mul", [sizes[0], build.integers([int(np.prod(blocks))])])
    joined = [batch, *(cut[1 + 2 * axis] for axis in range(count)), *sizes[count + 1 :]]
    value = build.op("Reshape", [value, build.op("Concat", joined, axis=0)])
    build.put(operator.outputs[0], value, on_grid_of=data)


def batch_to_space(build: Build, operator: Operator) -> None:
    """BATCH_TO_SPACE_ND(x, block sizes, crops [M, 2]): the way back."""
    data, block_index, crop_index = (build.input(operator, position) for position in range(3))
    blocks = _blocks(build, block_index)
    rank, count = build.tensor(data).rank, len(blocks)
    value = build.get(data)
    sizes = _sizes(build, value, rank)
    batch = build.op("Div", [sizes[0], build.integers([int(np.prod(blocks))])])
    cut = [*(build.integers([block]) for block in blocks), batch, *sizes[1:]]
    value = build.op("Reshape", [value, build.op("Concat", cut, axis=0)])
    order = [count]
    for axis in range(count):
        order += [count + 1 + axis, axis]
    value = build.op("Transpose", [value], perm=(*order, *range(2 * count + 1, rank + count)))
    joined = [batch]
    for axis, block in enumerate(blocks, start=1):
        joined.append(build.op("Mul", [sizes[axis], build.integers([block])]))
    joined += sizes[count + 1 :]
    value = build.op("Reshape", [value, build.op("Concat", joined, axis=0)])
    value = _crop_space(build, value, crop_index, joined, count)
    build.put(operator.outputs[0], value, on_grid_of=data)


def _blocks(build: Build, index: int) -> tuple[int, ...]:
    blocks = build.integers_of(index)
    if blocks is None:
        build.refuse("its block sizes are computed at run time")
    return blocks


def _sizes(build: Build, value: ir.Value, rank: int) -> list[ir.Value]:
    """Every dimension of ``value`` as a vector of one."""
    whole = build.op("Shape", [value])
    return [build.op("Gather", [whole, build.integers([axis])], axis=0) for axis in range(rank)]


def _columns(build: Build, index: int, rows: int) -> list[tuple[ir.Value, ir.Value]]:
    """An [M, 2] table as pairs of vectors of one."""
    known = build.constant_of(index)
    if known is not None:
        table = known.reshape(-1, 2)
        return [(build.integers([int(a)]), build.integers([int(b)])) for a, b in table]
    flat = build.op("Reshape", [build.int64(index), build.integers([-1])])
    cells = [build.op("Gather", [flat, build.integers([cell])], axis=0) for cell in range(2 * rows)]
    return [(cells[2 * row], cells[2 * row + 1]) for row in range(rows)]


def _pad_space(build: Build, value: ir.Value, index: int, rank: int, count: int) -> ir.Value:
    known = build.constant_of(index)
    if known is not None and not known.any():
        return value
    pairs = _columns(build, index, count)
    none = build.integers([0])
    rest: Sequence[ir.Value] = [none] * (rank - count - 1)
    parts = [none, *(a for a, _ in pairs), *rest, none, *(b for _, b in pairs), *rest]
    padded: ir.Value = build.op("Pad", [value, build.op("Concat", parts, axis=0)])
    return padded


def _crop_space(build: Build, value: ir.Value, index: int, sizes: Sequence[ir.Value], count: int) -> ir.Value:
    known = build.constant_of(index)
    if known is not None and not known.any():
        return value
    pairs = _columns(build, index, count)
    starts = build.op("Concat", [a for a, _ in pairs], axis=0) if count > 1 else pairs[0][0]
    ends = [build.op("Sub", [sizes[axis + 1], b]) for axis, (_, b) in enumerate(pairs)]
    end = build.op("Concat", ends, axis=0) if count > 1 else ends[0]
    cropped: ir.Value = build.op("Slice", [value, starts, end, build.integers(range(1, count + 1), "axes")])
    return cropped
