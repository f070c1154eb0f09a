"""Operators that move elements without changing them: reshape, transpose, join, split, tile, pad."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from pipeline.sources.tflite_model import Operator
from pipeline.sources.tflite_ops.activations import fused
from pipeline.sources.tflite_ops.build import Build, Handler

_CHANNELS_FIRST_AXIS = {0: 0, 1: 2, 2: 3, 3: 1}


def reshape(build: Build, operator: Operator) -> None:
    """RESHAPE: to a constant shape (operand 1, or an option in old files), or one computed at run time."""
    data, output = build.input(operator, 0), operator.outputs[0]
    shape = operator.operand(1)
    if shape is not None and not build.is_constant(shape):
        target = build.int64(shape)
    else:
        stated = build.integers_of(shape) if shape is not None else None
        if stated is None:
            option = operator.option("newShape")
            stated = () if option is None else tuple(int(size) for size in option)
        target = build.integers(stated, "shape")
    build.put(output, build.op("Reshape", [build.get(data), target]), on_grid_of=data)


def squeeze(build: Build, operator: Operator) -> None:
    """SQUEEZE of the named axes, or of all that are 1."""
    data = build.input(operator, 0)
    named = operator.option("squeezeDims")
    tensor = build.tensor(data)
    axes = [] if named is None else [int(axis) % tensor.rank for axis in named]
    if not axes:
        axes = [axis for axis, size in enumerate(tensor.dims) if size == 1]
    inputs = [build.get(data), *([build.integers(axes, "axes")] if axes else [])]
    value = build.op("Squeeze", inputs) if axes else inputs[0]
    build.put(operator.outputs[0], value, on_grid_of=data)


def expand_dims(build: Build, operator: Operator) -> None:
    """EXPAND_DIMS at a constant axis."""
    data = build.input(operator, 0)
    axis = build.integers_of(build.input(operator, 1))
    if axis is None:
        build.refuse("its axis is computed at run time")
    value = build.op("Unsqueeze", [build.get(data), build.integers(axis[:1], "axes")])
    build.put(operator.outputs[0], value, on_grid_of=data)


def transpose(build: Build, operator: Operator) -> None:
    """TRANSPOSE by a constant permutation."""
    data = build.input(operator, 0)
    order = build.integers_of(build.input(operator, 1))
    if order is None:
        build.refuse("its permutation is computed at run time")
    build.put(operator.outputs[0], build.op("Transpose", [build.get(data)], perm=order), on_grid_of=data)


def concatenation(build: Build, operator: Operator) -> None:
    """CONCATENATION; every part is brought to the output's quantisation."""
    output = operator.outputs[0]
    rank = build.tensor(output).rank
    axis = int(operator.option("axis", 0)) % rank
    first = rank == 4 and any(build.prefers_channels_first(index) for index in operator.inputs)
    get = build.get_channels_first if first else build.get
    along = _CHANNELS_FIRST_AXIS[axis] if first else axis
    value = build.op("Concat", [get(index) for index in operator.inputs], axis=along)
    value = fused(build, operator, value)
    grid = build.tensor(output).quantization
    same = grid is not None and all(grid.same_as(build.tensor(i).quantization) for i in operator.inputs)
    put = build.put_channels_first if first else build.put
    put(output, value, on_grid_of=operator.inputs[0] if same else None)


def pack(build: Build, operator: Operator) -> None:
    """PACK: stack along a new axis."""
    axis = int(operator.option("axis", 0))
    rank = build.tensor(operator.outputs[0]).rank or build.tensor(operator.inputs[0]).rank + 1
    axes = build.integers([axis % rank], "axes")
    parts = [build.op("Unsqueeze", [build.get(index), axes]) for index in operator.inputs]
    value = build.op("Concat", parts, axis=axis % rank) if len(parts) > 1 else parts[0]
    build.put(operator.outputs[0], value)


def unpack(build: Build, operator: Operator) -> None:
    """UNPACK: one output for each index along an axis."""
    data = build.input(operator, 0)
    axis = int(operator.option("axis", 0)) % build.tensor(data).rank
    for position, output in enumerate(operator.outputs):
        index = build.constant(np.asarray(position, np.int64), "index")
        value = build.op("Gather", [build.get(data), index], axis=axis)
        build.put(output, value, on_grid_of=data)


def split(build: Build, operator: Operator) -> None:
    """SPLIT(axis, x) into equal parts; SPLIT_V(x, sizes, axis)."""
    if operator.name == "SPLIT":
        axis_index, data, sizes_index = build.input(operator, 0), build.input(operator, 1), None
    else:
        data, sizes_index, axis_index = (build.input(operator, position) for position in range(3))
    axis = build.integers_of(axis_index)
    if axis is None:
        build.refuse("its axis is computed at run time")
    along = axis[0] % build.tensor(data).rank
    if len(operator.outputs) == 1:
        build.put(operator.outputs[0], build.get(data), on_grid_of=data)
        return
    sizes: list[ir.Value] = []
    if sizes_index is not None:
        stated = build.integers_of(sizes_index)
        if stated is None:
            build.refuse("its sizes are computed at run time")
        total = build.tensor(data).dims[along]
        if -1 in stated and total is not None:
            stated = tuple(total - sum(stated) - 1 if size == -1 else size for size in stated)
        sizes = [build.integers(stated, "sizes")]
    parts = build.ops("Split", [build.get(data), *sizes], len(operator.outputs), axis=along)
    for output, part in zip(operator.outputs, parts, strict=True):
        build.put(output, part, on_grid_of=data)


def tile(build: Build, operator: Operator) -> None:
    """TILE by repeats for each axis."""
    data = build.input(operator, 0)
    value = build.op("Tile", [build.get(data), build.int64(build.input(operator, 1))])
    build.put(operator.outputs[0], value, on_grid_of=data)


def broadcast_to(build: Build, operator: Operator) -> None:
    """BROADCAST_TO a shape."""
    data = build.input(operator, 0)
    value = build.op("Expand", [build.get(data), build.int64(build.input(operator, 1))])
    build.put(operator.outputs[0], value, on_grid_of=data)


def broadcast_args(build: Build, operator: Operator) -> None:
    """BROADCAST_ARGS(s0, s1): the shape that both broadcast to, as long as the longer of them."""
    lengths = [build.tensor(build.input(operator, position)).dims[0] for position in range(2)]
    shapes = []
    for position, length in enumerate(lengths):
        other = lengths[1 - position]
        if length is None or other is None:
            build.refuse("the ranks of its shapes are not known")
        shape = build.int64(build.input(operator, position))
        ones = [build.integers([1] * (other - length))] if other > length else []
        shapes.append(build.op("Concat", [*ones, shape], axis=0) if ones else shape)
    is_one = build.op("Equal", [shapes[0], build.integers([1])])
    value = build.op("Where", [is_one, shapes[1], shapes[0]])
    dtype = build.tensor(operator.outputs[0]).dtype
    if dtype != np.int64:
        value = build.op("Cast", [value], to=int(ir.DataType.from_numpy(dtype)))
    build.put(operator.outputs[0], value)


def pad(build: Build, operator: Operator) -> None:
    """PAD, PADV2: amounts [rank, 2]; zeros, or a constant value. Real zero where the tensor is quantised."""
    data, amounts = build.input(operator, 0), build.input(operator, 1)
    filler = operator.operand(2)
    tensor = build.tensor(data)
    extra = [] if filler is None else [build.op("Reshape", [build.get(filler), build.integers([], "scalar")])]
    constant = build.constant_of(amounts)
    if constant is None:
        # [rank, 2] → all befores, then all afters.
        pads = build.op("Transpose", [build.int64(amounts)], perm=(1, 0))
        pads = build.op("Reshape", [pads, build.integers([-1])])
        build.put(operator.outputs[0], build.op("Pad", [build.get(data), pads, *extra]), on_grid_of=data)
        return
    table = constant.reshape(-1, 2).astype(np.int64)
    if tensor.rank == 4 and build.prefers_channels_first(data):
        table = table[[0, 3, 1, 2]]
        pads = build.integers([*table[:, 0], *table[:, 1]], "pads")
        value = build.op("Pad", [build.get_channels_first(data), pads, *extra])
        build.put_channels_first(operator.outputs[0], value, on_grid_of=data)
        return
    pads = build.integers([*table[:, 0], *table[:, 1]], "pads")
    build.put(operator.outputs[0], build.op("Pad", [build.get(data), pads, *extra]), on_grid_of=data)


def mirror_pad(build: Build, operator: Operator) -> None:
    """MIRROR_PAD: REFLECT leaves the border out, SYMMETRIC repeats it (a Gather: ONNX has no mode for it)."""
    data = build.input(operator, 0)
    constant = build.constant_of(build.input(operator, 1))
    if constant is None:
        build.refuse("its amounts are computed at run time")
    table = constant.reshape(-1, 2).astype(np.int64)
    value = build.get(data)
    if int(operator.option("mode", 0)) == 0:
        value = build.op("Pad", [value, build.integers([*table[:, 0], *table[:, 1]], "pads")], mode="reflect")
    else:
        for axis, (before, after) in enumerate(table):
            size = build.tensor(data).dims[axis]
            if not before and not after:
                continue
            if size is None:
                build.refuse("the size of a mirrored axis is not known")
            places = np.pad(np.arange(size), (before, after), mode="symmetric")
            value = build.op("Gather", [value, build.integers(places.tolist(), "mirror")], axis=axis)
    build.put(operator.outputs[0], value, on_grid_of=data)


def reverse(build: Build, operator: Operator) -> None:
    """REVERSE_V2 along constant axes."""
    data = build.input(operator, 0)
    axes = build.integers_of(build.input(operator, 1))
    if axes is None:
        build.refuse("its axes are computed at run time")
    count = len(axes)
    far = np.iinfo(np.int64).min
    bounds = [build.integers(list(v)) for v in ([-1] * count, [far] * count, axes, [-1] * count)]
    build.put(operator.outputs[0], build.op("Slice", [build.get(data), *bounds]), on_grid_of=data)


def reverse_sequence(build: Build, operator: Operator) -> None:
    """REVERSE_SEQUENCE: the first ``length`` steps of each example turn round."""
    data = build.input(operator, 0)
    value = build.op(
        "ReverseSequence",
        [build.get(data), build.int64(build.input(operator, 1))],
        batch_axis=int(operator.option("batchDim", 0)),
        time_axis=int(operator.option("seqDim", 0)),
    )
    build.put(operator.outputs[0], value, on_grid_of=data)


def rearranged(op_type: str) -> Handler:
    """DEPTH_TO_SPACE and SPACE_TO_DEPTH: same element order as ONNX's, channels first."""

    def handle(build: Build, operator: Operator) -> None:
        data = build.input(operator, 0)
        block = int(operator.option("blockSize", 1))
        value = build.op(op_type, [build.get_channels_first(data)], blocksize=block)
        build.put_channels_first(operator.outputs[0], value, on_grid_of=data)

    return handle


def shape(build: Build, operator: Operator) -> None:
    """SHAPE, a constant where every dimension is known."""
    data, output = build.input(operator, 0), operator.outputs[0]
    dtype = build.tensor(output).dtype
    known = build.static(data)
    if known is not None:
        build.put(output, build.constant(np.asarray(known, dtype), "shape"))
        return
    value = build.op("Shape", [build.get(data)])
    if dtype != np.int64:
        value = build.op("Cast", [value], to=int(ir.DataType.from_numpy(dtype)))
    build.put(output, value)


def rank(build: Build, operator: Operator) -> None:
    """RANK, a constant."""
    known = build.tensor(build.input(operator, 0)).rank
    build.put(operator.outputs[0], build.constant(np.asarray(known, np.int32), "rank"))


def fill(build: Build, operator: Operator) -> None:
    """FILL a shape with one value."""
    value = build.get(build.input(operator, 1))
    build.put(operator.outputs[0], build.op("Expand", [value, build.int64(build.input(operator, 0))]))


def range_(build: Build, operator: Operator) -> None:
    """RANGE(start, limit, step)."""
    bounds = [build.get(build.input(operator, position)) for position in range(3)]
    build.put(operator.outputs[0], build.op("Range", bounds))


def one_hot(build: Build, operator: Operator) -> None:
    """ONE_HOT(indices, depth, on, off)."""
    indices, depth, on, off = (build.get(build.input(operator, position)) for position in range(4))
    flat = build.integers([1])
    values = build.op("Concat", [build.op("Reshape", [off, flat]), build.op("Reshape", [on, flat])], axis=0)
    depth = build.op("Reshape", [depth, flat])
    axis = int(operator.option("axis", -1))
    build.put(operator.outputs[0], build.op("OneHot", [indices, depth, values], axis=axis))
