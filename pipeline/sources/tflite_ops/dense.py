"""Matrix products: fully connected layers and batched products."""

from __future__ import annotations

from pipeline.sources.tflite_model import Operator
from pipeline.sources.tflite_ops.activations import fused
from pipeline.sources.tflite_ops.build import Build
from pipeline.sources.tflite_ops.convolution import bias, rounded_twice, short_multiplier, weight


def fully_connected(build: Build, operator: Operator) -> None:
    """FULLY_CONNECTED: x [..., K] flattened to rows of K, times weights [N, K] transposed, plus bias [N]."""
    data, weights = build.input(operator, 0), build.input(operator, 1)
    if int(operator.option("weightsFormat", 0) or 0) != 0:
        build.refuse("its weights are stored shuffled; convert the model again without that option")
    units, depth = build.tensor(weights).dims
    if units is None or depth is None:
        build.refuse("the shape of its weights is not known")
    value = build.get(data)
    rank = build.tensor(data).rank
    keep = bool(operator.option("keepNumDims", False)) and rank > 2
    flat = rank == 2 and build.tensor(data).dims[-1] in (depth, None)
    if not flat and not keep:
        value = build.op("Reshape", [value, build.integers([-1, depth], "rows")])
    offset = bias(build, operator, 2)
    if keep:
        value = build.op("MatMul", [value, weight(build, weights, (1, 0), operator)])
        value = build.op("Add", [value, *offset]) if offset else value
    else:
        value = build.op("Gemm", [value, weight(build, weights, (0, 1), operator), *offset], transB=1)
    value = rounded_twice(build, operator, value, trailing=0)
    build.put(operator.outputs[0], fused(build, operator, value))


def batch_matmul(build: Build, operator: Operator) -> None:
    """BATCH_MATMUL with either operand's last two axes swapped on request."""
    values = []
    for position, option in ((0, "adjX"), (1, "adjY")):
        index = build.input(operator, position)
        value = build.get(index)
        if operator.option(option, False):
            rank = build.tensor(index).rank
            value = build.op("Transpose", [value], perm=(*range(rank - 2), rank - 1, rank - 2))
        values.append(value)
    value = short_multiplier(build, operator, build.op("MatMul", values))
    build.put(operator.outputs[0], rounded_twice(build, operator, value, trailing=0))
