"""Layers with windows and weights: convolutions, pools, dense, normalisation."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import (
    constant_of,
    float_attribute,
    input_of,
    int_attribute,
    ints_attribute,
    is_op,
    sole_consumer,
    string_attribute,
)
from targets.keras_rebuild.drawing import Drawing, channels_last, identity, refuse, shape_of
from targets.keras_rebuild.padding import Pads, window_of, word_or_border

LOWEST = float(np.finfo(np.float32).min)


def weight_of(node: ir.Node, position: int) -> Array:
    """A constant input.

    Raises:
        UnsupportedModelError: it is computed at run time.
    """
    array = constant_of(input_of(node, position))
    if array is None:
        raise refuse(node, f"input {position} is not constant", "fold constants or freeze the model first")
    return array


def bias_of(node: ir.Node, position: int = 2) -> list[Array]:
    """The bias in a list, or an empty list where there is none."""
    return [] if input_of(node, position) is None else [weight_of(node, position)]


def conv(drawing: Drawing, node: ir.Node) -> None:
    """Conv: W [M, C/group, *k] → kernel [*k, C/group, M]; depthwise: [*k, C, M/C]."""
    kernel_onnx = weight_of(node, 1)
    held, x = drawing.spatial(node, node.inputs[0])
    size = tuple(int(d) for d in kernel_onnx.shape[2:])
    rank = len(size)
    if rank not in (1, 2, 3):
        raise refuse(node, f"{rank} spatial axes; Keras has 1 to 3")
    pads, strides, dilations = window_of(node, held.shape[2:], size)
    if max(strides) > 1 and max(dilations) > 1:
        raise refuse(node, "strided and dilated at once; Keras allows one of them")
    word, border = word_or_border(pads, held.shape[2:], size, strides, dilations)
    if border:
        x = pad_border(drawing, node, x, pads, 0.0)
    group = int_attribute(node, "group", 1)
    bias = bias_of(node)
    outputs, per_group = int(kernel_onnx.shape[0]), int(kernel_onnx.shape[1])
    axes = tuple(range(2, rank + 2))
    options = f"strides={strides}, padding={word!r}"
    if max(dilations) > 1:
        options += f", dilation_rate={dilations}"
    if group > 1 and per_group == 1 and rank == 2 and len(set(strides)) == 1:
        multiplier = outputs // group
        # [C·M, 1, kH, kW] → [C, M, kH, kW] → [kH, kW, C, M]
        kernel = kernel_onnx.reshape(group, multiplier, *size).transpose(2, 3, 0, 1)
        call = f"layers.DepthwiseConv2D({size}, depth_multiplier={multiplier}, {options}"
    else:
        kernel = kernel_onnx.transpose(*axes, 1, 0)
        groups = f", groups={group}" if group > 1 else ""
        call = f"layers.Conv{rank}D({outputs}, {size}, {options}{groups}"
    call += f", use_bias={bool(bias)}"
    drawing.put(node.outputs[0], drawing.layer(node, call, x, [kernel, *bias]), channels_last(rank + 2))


def conv_transpose(drawing: Drawing, node: ir.Node) -> None:
    """ConvTranspose: W [C, M, kH, kW] → kernel [kH, kW, M, C]; pads crop a "valid" result."""
    kernel_onnx = weight_of(node, 1)
    held, x = drawing.spatial(node, node.inputs[0])
    size = tuple(int(d) for d in kernel_onnx.shape[2:])
    ones = (1,) * len(size)
    if (
        len(size) != 2
        or int_attribute(node, "group", 1) != 1
        or set(ints_attribute(node, "dilations") or ones) != {1}
    ):
        raise refuse(node, "only two spatial axes, one group and no dilation have a Keras counterpart")
    strides = ints_attribute(node, "strides") or ones
    output = shape_of(node.outputs[0])[2:]
    full = [
        None if n is None else (n - 1) * s + k for n, s, k in zip(held.shape[2:], strides, size, strict=True)
    ]
    begin = _transposed_crop(node, [*full], [*output])
    crops = tuple(
        (b, f - b - o) if f is not None and o is not None else (b, b)
        for b, f, o in zip(begin, full, output, strict=True)
    )
    if any(e < 0 or b < 0 for b, e in crops):
        raise refuse(node, "its output is larger than the full transposed convolution")
    bias = bias_of(node)
    kernel = kernel_onnx.transpose(2, 3, 1, 0)
    same = all(o == n * s for o, n, s in zip(output, held.shape[2:], strides, strict=True) if n is not None)
    same = same and all(
        (b, e) == (max(k - s, 0) // 2, max(k - s, 0) - max(k - s, 0) // 2) and k >= s
        for (b, e), k, s in zip(crops, size, strides, strict=True)
    )
    word = "same" if same and None not in output else "valid"
    options = f"strides={strides}, padding={word!r}, use_bias={bool(bias)}"
    call = f"layers.Conv2DTranspose({kernel.shape[2]}, {size}, {options}"
    y = drawing.layer(node, call, x, [kernel, *bias])
    if word == "valid" and any(b or e for b, e in crops):
        y = drawing.layer(node, f"layers.Cropping2D({crops}", y, part="crop")
    drawing.put(node.outputs[0], y, channels_last(4))


def _transposed_crop(node: ir.Node, full: list[int | None], output: list[int | None]) -> list[int]:
    """Rows to cut at the beginning of each axis. ONNX ConvTranspose, "auto_pad" and "output_shape"."""
    auto = string_attribute(node, "auto_pad", "NOTSET")
    pads = ints_attribute(node, "pads")
    if auto in ("NOTSET", "") and ints_attribute(node, "output_shape") is None:
        if pads is None and ints_attribute(node, "output_padding") is None:
            return [0, 0]
        if None in full and (
            ints_attribute(node, "output_padding") or pads[:2] != pads[2:] if pads else True
        ):
            raise refuse(node, "its crop depends on an unknown size", "freeze the input's shape")
        return list(pads[:2]) if pads else [0, 0]
    if auto == "VALID":
        return [0, 0]
    totals = []
    for f, o in zip(full, output, strict=True):
        if f is None or o is None:
            raise refuse(node, "its crop depends on an unknown size", "freeze the input's shape")
        totals.append(max(f - o, 0))
    return [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in totals]


def pool(drawing: Drawing, node: ir.Node) -> None:
    """MaxPool and AveragePool with two or one spatial axes."""
    held, x = drawing.spatial(node, node.inputs[0])
    size = ints_attribute(node, "kernel_shape") or ()
    kind = "MaxPooling" if node.op_type == "MaxPool" else "AveragePooling"
    if len(size) not in (1, 2) or sum(1 for o in node.outputs if o.name and o.uses()) > 1:
        raise refuse(node, "only one or two spatial axes, without indices, have a Keras counterpart")
    pads, strides, dilations = window_of(node, held.shape[2:], size)
    if max(dilations) > 1:
        raise refuse(node, "a dilated pool has no Keras counterpart")
    word, border = word_or_border(pads, held.shape[2:], size, strides, dilations)
    if kind == "AveragePooling" and any(b or e for b, e in pads):
        counted = bool(int_attribute(node, "count_include_pad", 0))
        if counted and int_attribute(node, "ceil_mode", 0):
            raise refuse(node, "counts padding and rounds up; Keras has no counterpart")
        if counted:
            word, border = "valid", True
        elif border:
            raise refuse(node, f"averages without its padding {pads}, which is not TensorFlow's own 'same'")
    if border:
        x = pad_border(drawing, node, x, pads, 0.0 if kind == "AveragePooling" else LOWEST)
    call = f"layers.{kind}{len(size)}D({size}, strides={strides}, padding={word!r}"
    drawing.put(node.outputs[0], drawing.layer(node, call, x), channels_last(held.rank))


def pad_border(drawing: Drawing, node: ir.Node, x: str, pads: Pads, value: float) -> str:
    """A border round the spatial axes of a channels-last tensor."""
    if value == 0.0:
        rank = len(pads)
        widths = pads[0] if rank == 1 else pads
        return drawing.layer(node, f"layers.ZeroPadding{rank}D({widths}", x, part="pad")
    full = ((0, 0), *pads, (0, 0))
    return drawing.line(f"ops.pad({x}, {full}, constant_values={value!r})")


def global_pool(drawing: Drawing, node: ir.Node) -> None:
    """GlobalAveragePool and GlobalMaxPool over two or one spatial axes."""
    held, x = drawing.spatial(node, node.inputs[0])
    if held.rank not in (3, 4):
        raise refuse(node, f"{held.rank - 2} spatial axes")
    kind = "Average" if node.op_type == "GlobalAveragePool" else "Max"
    call = f"layers.Global{kind}Pooling{held.rank - 2}D(keepdims=True"
    drawing.put(node.outputs[0], drawing.layer(node, call, x), channels_last(held.rank))


def batch_normalization(drawing: Drawing, node: ir.Node) -> None:
    """BatchNormalization in inference form."""
    if int_attribute(node, "training_mode", 0):
        raise refuse(node, "is in training mode")
    held, x = drawing.spatial(node, node.inputs[0])
    gamma, beta, mean, variance = (weight_of(node, k) for k in range(1, 5))
    call = f"layers.BatchNormalization(epsilon={float_attribute(node, 'epsilon', 1e-5)!r}"
    y = drawing.layer(node, call, x, [gamma, beta, mean, variance])
    drawing.put(node.outputs[0], y, channels_last(held.rank))


def lrn(drawing: Drawing, node: ir.Node) -> None:
    """LRN: x / (bias + alpha/size · Σ x²)^beta over ``size`` channels."""
    held, x = drawing.spatial(node, node.inputs[0])
    size = int_attribute(node, "size", 0)
    options = ", ".join(
        f"{key}={float_attribute(node, key, default)!r}"
        for key, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    y = drawing.layer(node, f"LocalResponseNormalization({size}, {options}", x)
    drawing.put(node.outputs[0], y, channels_last(held.rank))


def gemm(drawing: Drawing, node: ir.Node) -> None:
    """Gemm with constant weights: Dense."""
    weight = weight_of(node, 1) * np.float32(float_attribute(node, "alpha", 1.0))
    if int_attribute(node, "transB", 0):
        weight = weight.T
    if int_attribute(node, "transA", 0):
        raise refuse(node, "its first input is transposed")
    bias = [b.reshape(-1) * np.float32(float_attribute(node, "beta", 1.0)) for b in bias_of(node)]
    _dense(drawing, node, weight, bias, node.outputs[0])


def matmul(drawing: Drawing, node: ir.Node) -> None:
    """MatMul: Dense where the second input is a constant matrix (a following bias joins it), else
    ops.matmul."""
    weight = constant_of(node.inputs[1])
    if weight is None or weight.ndim != 2 or constant_of(node.inputs[0]) is not None:
        (a, left), (b, right) = drawing.plain(node, node.inputs[0]), drawing.plain(node, node.inputs[1])
        drawing.put(
            node.outputs[0], drawing.line(f"ops.matmul({left}, {right})"), identity(max(a.rank, b.rank))
        )
        return
    follower = sole_consumer(node.outputs[0])
    if follower is not None and is_op(follower, "Add"):
        other = follower.inputs[1] if follower.inputs[0] is node.outputs[0] else follower.inputs[0]
        bias = constant_of(other)
        if bias is not None and bias.ndim <= 2 and bias.size == weight.shape[1] == bias.shape[-1]:
            drawing.done.add(id(follower))
            _dense(drawing, node, weight, [bias.reshape(-1)], follower.outputs[0])
            return
    _dense(drawing, node, weight, [], node.outputs[0])


def _dense(drawing: Drawing, node: ir.Node, weight: Array, bias: list[Array], output: ir.Value) -> None:
    held, x = drawing.plain(node, node.inputs[0])
    order = drawing.flattened.get((node.inputs[0].name if node.inputs[0] else "") or "")
    if order is not None:
        weight = weight[order]  # rows as the flattened elements stand here
    units = int(weight.shape[1])
    if bias and bias[0].size not in (1, units):
        raise refuse(node, f"a bias of {bias[0].size} for {units} units")
    bias = [np.broadcast_to(b, (units,)) for b in bias]
    call = f"layers.Dense({units}, use_bias={bool(bias)}"
    drawing.put(output, drawing.layer(node, call, x, [weight, *bias]), identity(held.rank))
