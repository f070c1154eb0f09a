"""Convolutions: 2-D, depthwise, transposed, 3-D. Filters go from TFLite's order to ONNX's at conversion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from pipeline.sources.tflite_model import Operator, Quantization
from pipeline.sources.tflite_ops.activations import fused
from pipeline.sources.tflite_ops.build import Build
from pipeline.sources.tflite_ops.rounding import double_rounding_bias, short_multiplier_gain
from pipeline.sources.tflite_ops.windows import SAME, padding_attributes, same_pads


def conv_2d(build: Build, operator: Operator) -> None:
    """CONV_2D: filter [O, H, W, C / groups] → [O, C / groups, H, W]."""
    filters = build.input(operator, 1)
    kernel = _kernel(build, filters, (1, 2))
    channels, per_group = build.tensor(operator.inputs[0]).dims[3], build.tensor(filters).dims[3]
    group = channels // per_group if channels and per_group else 1
    weights = weight(build, filters, (0, 3, 1, 2), operator)
    _convolve(build, operator, weights, kernel, group)


def depthwise_conv_2d(build: Build, operator: Operator) -> None:
    """DEPTHWISE_CONV_2D: filter [1, H, W, C · multiplier] → [C · multiplier, 1, H, W]."""
    filters = build.input(operator, 1)
    kernel = _kernel(build, filters, (1, 2))
    outputs = build.tensor(filters).dims[3]
    channels = build.tensor(operator.inputs[0]).dims[3]
    if channels is None and outputs is not None:
        channels = outputs // max(int(operator.option("depthMultiplier", 1)), 1)
    if channels is None:
        build.refuse("the number of channels is not known")
    weights = weight(build, filters, (3, 0, 1, 2), operator)
    _convolve(build, operator, weights, kernel, channels)


def _convolve(
    build: Build, operator: Operator, weights: ir.Value, kernel: tuple[int, ...], group: int
) -> None:
    data = build.input(operator, 0)
    strides = (int(operator.option("strideH", 1)), int(operator.option("strideW", 1)))
    dilations = (
        int(operator.option("dilationHFactor", 1) or 1),
        int(operator.option("dilationWFactor", 1) or 1),
    )
    sizes = build.tensor(data).dims[1:3]
    value = build.op(
        "Conv",
        [build.get_channels_first(data), weights, *bias(build, operator, 2)],
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        group=group,
        **padding_attributes(int(operator.option("padding", SAME)), sizes, kernel, strides, dilations),
    )
    value = rounded_twice(build, operator, value, trailing=2)
    build.put_channels_first(operator.outputs[0], fused(build, operator, value))


def transpose_conv(build: Build, operator: Operator) -> None:
    """TRANSPOSE_CONV(output shape, filter [O, H, W, C], x): the gradient of a convolution by its input.

    Pads follow the forward convolution, which reads an image of the *output's* size; what the strides leave
    over at the far side becomes ``output_padding``.
    """
    filters, data = build.input(operator, 1), build.input(operator, 2)
    kernel = _kernel(build, filters, (1, 2))
    strides = (int(operator.option("strideH", 1)), int(operator.option("strideW", 1)))
    padding = int(operator.option("padding", SAME))
    shape = build.integers_of(build.input(operator, 0))
    result_sizes = shape[1:3] if shape is not None else build.tensor(operator.outputs[0]).dims[1:3]
    sizes = build.tensor(data).dims[1:3]
    begin, end, extra = [], [], []
    for size, result, k, s in zip(sizes, result_sizes, kernel, strides, strict=True):
        before, after, beyond = _transposed_pads(build, padding, size, result, k, s)
        begin.append(before)
        end.append(after)
        extra.append(beyond)
    value = build.op(
        "ConvTranspose",
        [
            build.get_channels_first(data),
            weight(build, filters, (3, 0, 1, 2), operator, data=2),
            *bias(build, operator, 3, data=2),
        ],
        kernel_shape=kernel,
        strides=strides,
        pads=[*begin, *end],
        output_padding=extra if any(extra) else None,
    )
    value = rounded_twice(build, operator, value, trailing=2, data=2)
    build.put_channels_first(operator.outputs[0], fused(build, operator, value))


def _transposed_pads(
    build: Build, padding: int, size: int | None, result: int | None, kernel: int, stride: int
) -> tuple[int, int, int]:
    """Padding before and after, and output padding: result = (size-1)·stride + kernel - pads + extra."""
    if size is None or result is None:
        if padding == SAME and kernel >= stride:  # result = size · stride
            return (kernel - stride) // 2, kernel - stride - (kernel - stride) // 2, 0
        if padding == SAME:
            return 0, 0, stride - kernel
        return 0, 0, 0
    full = (size - 1) * stride + kernel
    before = same_pads(result, kernel, stride)[0] if padding == SAME else 0
    after = full - before - result
    if after >= 0:
        return before, after, 0
    if (-after >= stride > 1) or before < 0:
        build.refuse(f"an output of {result} cannot come from {size} elements with stride {stride}")
    return before, 0, -after


def conv_3d(build: Build, operator: Operator) -> None:
    """CONV_3D: x [N, D, H, W, C], filter [D, H, W, C, O]."""
    data, filters = build.input(operator, 0), build.input(operator, 1)
    kernel = _kernel(build, filters, (0, 1, 2))
    strides = tuple(int(operator.option(f"stride{axis}", 1)) for axis in "DHW")
    dilations = tuple(int(operator.option(f"dilation{axis}Factor", 1) or 1) for axis in "DHW")
    value = build.op(
        "Conv",
        [
            build.op("Transpose", [build.get(data)], perm=(0, 4, 1, 2, 3)),
            weight(build, filters, (4, 3, 0, 1, 2)),
            *bias(build, operator, 2),
        ],
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        **padding_attributes(
            int(operator.option("padding", SAME)), build.tensor(data).dims[1:4], kernel, strides, dilations
        ),
    )
    value = build.op("Transpose", [fused(build, operator, value)], perm=(0, 2, 3, 4, 1))
    build.put(operator.outputs[0], value)


def conv_3d_transpose(build: Build, operator: Operator) -> None:
    """CONV_3D_TRANSPOSE(output shape, filter [D, H, W, O, C], x [N, D, H, W, C]), as ``transpose_conv``."""
    filters, data = build.input(operator, 1), build.input(operator, 2)
    kernel = _kernel(build, filters, (0, 1, 2))
    strides = tuple(int(operator.option(f"stride{axis}", 1)) for axis in "DHW")
    dilations = tuple(int(operator.option(f"dilation{axis}Factor", 1) or 1) for axis in "DHW")
    shape = build.integers_of(build.input(operator, 0))
    result_sizes = shape[1:4] if shape is not None else build.tensor(operator.outputs[0]).dims[1:4]
    padding = int(operator.option("padding", SAME))
    placed = [
        _transposed_pads(build, padding, size, result, (k - 1) * d + 1, s)
        for size, result, k, d, s in zip(
            build.tensor(data).dims[1:4], result_sizes, kernel, dilations, strides, strict=True
        )
    ]
    begin, end, extra = zip(*placed, strict=True)
    value = build.op(
        "ConvTranspose",
        [
            build.op("Transpose", [build.get(data)], perm=(0, 4, 1, 2, 3)),
            weight(build, filters, (4, 3, 0, 1, 2)),
            *bias(build, operator, 3, data=2),
        ],
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        pads=[*begin, *end],
        output_padding=extra if any(extra) else None,
    )
    value = build.op("Transpose", [fused(build, operator, value)], perm=(0, 2, 3, 4, 1))
    build.put(operator.outputs[0], value)


def weight(
    build: Build, index: int, permutation: Sequence[int], operator: Operator | None = None, data: int = 0
) -> ir.Value:
    """The filter with its axes permuted: at conversion where it is constant, else by a Transpose.

    With ``operator``, whose data operand is number ``data``, the filter takes over what 16-bit kernels do to
    its scales.
    """
    tensor = build.tensor(index)

    def move(array: Array) -> Array:
        return np.ascontiguousarray(np.transpose(array, permutation))

    if tensor.data is not None and build.is_quantized(index):
        assert tensor.quantization is not None
        axis = list(permutation).index(tensor.quantization.axis)
        gain = None if operator is None else _gain(build, operator, data)
        return build.dequantized_constant(index, move, axis, gain)
    stored = build.constant_of(index)
    if stored is not None:
        return build.constant(move(stored.astype(np.float32)), "weight")
    return build.op("Transpose", [build.get(index)], perm=tuple(permutation))


def bias(build: Build, operator: Operator, position: int, data: int = 0) -> list[ir.Value]:
    """The bias as a list of one, or none; integer biases count steps of input scale × filter scale."""
    index = operator.operand(position)
    if index is None:
        return []
    tensor = build.tensor(index)
    if tensor.data is None or tensor.dtype.kind != "i":
        return [build.get(index)]
    scales = sum_steps(build, operator, data)
    if scales is None:
        build.refuse(f"its bias {tensor.name!r} holds integers, but not all of its operands do")
    if tensor.dtype != np.int32:
        gain = _gain(build, operator, data)
        scales = scales if gain is None else scales * gain
        return [build.constant((tensor.data * scales).astype(np.float32), "bias")]
    steps = Quantization(scales.astype(np.float32), np.zeros(scales.size, np.int64), 0)
    return [build.dequantize(build.constant(tensor.data, "bias"), tensor.dtype, steps)]


def _gain(build: Build, operator: Operator, data: int) -> Array | None:
    """The factor of 16-bit kernels with 64-bit sums [1 or channels]; None where another kernel runs."""
    output = build.tensor(operator.outputs[0])
    if build.tensor(operator.inputs[data]).dtype != np.int16 or output.dtype != np.int16:
        return None
    offset = operator.operand(data + 2 if data == 0 else data + 1)
    if offset is not None and build.tensor(offset).dtype == np.int32:
        return None
    steps = sum_steps(build, operator, data)
    if steps is None or output.quantization is None:
        return None
    return short_multiplier_gain(steps / output.quantization.scales)


def short_multiplier(build: Build, operator: Operator, value: ir.Value) -> ir.Value:
    """``value`` times the factor of 16-bit kernels, where there is no filter to take it over."""
    gain = _gain(build, operator, 0)
    if gain is None:
        return value
    scaled: ir.Value = build.op("Mul", [value, build.constant(gain.astype(np.float32), "gain")])
    return scaled


def sum_steps(build: Build, operator: Operator, data: int = 0) -> Array | None:
    """What one step of the integer sum stands for: input scale × filter scale, float64 [1 or channels]."""
    source, filters = build.tensor(operator.inputs[data]), build.tensor(operator.inputs[1])
    if source.quantization is None or filters.quantization is None:
        return None
    steps: Array = source.quantization.scales.astype(np.float64) * filters.quantization.scales
    return steps


def rounded_twice(
    build: Build, operator: Operator, value: ir.Value, *, trailing: int, data: int = 0
) -> ir.Value:
    """``value`` plus TFLite's double rounding, where the operator works in 8-bit integers throughout.

    An Add of its own, not part of the bias: ONNX Runtime would round the bias to whole steps of the sum.
    ``trailing`` is the number of axes behind the channels.
    """
    steps = sum_steps(build, operator, data)
    output = build.tensor(operator.outputs[0])
    eight_bits = build.tensor(operator.inputs[data]).dtype.itemsize == 1 and output.dtype.itemsize == 1
    if steps is None or output.quantization is None or not eight_bits:
        return value
    extra = double_rounding_bias(steps / output.quantization.scales) * steps
    if not extra.any():
        return value
    shaped = extra.astype(np.float32).reshape((-1,) + (1,) * trailing)
    moved: ir.Value = build.op("Add", [value, build.constant(shaped, "double_rounding")])
    return moved


def _kernel(build: Build, filters: int, axes: tuple[int, ...]) -> tuple[int, ...]:
    dims = build.tensor(filters).dims
    kernel = tuple(dims[axis] for axis in axes)
    if any(size is None for size in kernel):
        build.refuse("the size of its filter is not known")
    return tuple(size for size in kernel if size is not None)
