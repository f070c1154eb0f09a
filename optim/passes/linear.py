"""The linear ops and their weights: where the output channels lie and how to scale them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import (
    constant_of,
    constant_tensor_of,
    dims,
    float_attribute,
    input_of,
    int_attribute,
    rank,
)
from optim.rewrite import AttributeValue, kept
from optim.weights import read_once, scaled_in_blocks


@dataclass(frozen=True)
class Linear:
    """A linear op with constant weights.

    ``weight`` is W of ONNX: Conv [M, C/group, k...], ConvTranspose [C, M/group, k...], Gemm [K, N] or [N,
    K] (transB), MatMul [..., K, N]. ``channels`` is M or N, ``axis`` the channel axis of the output.
    """

    op_type: str
    weight: ir.TensorProtocol
    bias: Array | None
    channels: int
    axis: int
    groups: int = 1
    transposed: bool = False  # Gemm: transB
    bias_factor: float = 1.0  # Gemm: beta

    @property
    def adds_node(self) -> bool:
        """A MatMul has no bias: a shift needs an Add after it."""
        return self.op_type == "MatMul"

    def scaled(self, scale: Array) -> ir.TensorProtocol:
        """The weight times one number an output channel, computed when it is read."""
        tensor, shape = self.weight, tuple(int(d) for d in self.weight.shape if isinstance(d, int))
        factor = self._shaped(scale, len(shape))

        def make() -> ir.TensorProtocol:
            array = read_once(tensor)
            if self.op_type == "ConvTranspose" and self.groups > 1:
                grouped = array.reshape(self.groups, shape[0] // self.groups, *shape[1:])
                product = scaled_in_blocks(grouped, factor).reshape(shape)
            else:
                product = scaled_in_blocks(array, factor)
            return ir.Tensor(product)

        if np.all(scale == 1.0):
            return ir.LazyTensor(lambda: tensor, dtype=tensor.dtype, shape=ir.Shape(shape))
        return ir.LazyTensor(make, dtype=tensor.dtype, shape=ir.Shape(shape))

    def _shaped(self, scale: Array, wide: int) -> Array:
        spatial = (1,) * (wide - 2)
        match self.op_type:
            case "Conv":
                return scale.reshape(-1, 1, *spatial)
            case "ConvTranspose" if self.groups > 1:
                return scale.reshape(self.groups, 1, -1, *spatial)
            case "ConvTranspose":
                return scale.reshape(1, -1, *spatial)
            case "Gemm" if self.transposed:
                return scale.reshape(-1, 1)
        return scale  # Gemm [K, N], MatMul [..., K, N]

    def bias_after(self, scale: Array, shift: Array) -> Array | None:
        """B * scale + shift, [M]; None where there is no bias and none is needed."""
        if self.bias is None:
            return shift if np.any(shift) else None
        return np.asarray(self.bias * self.bias_factor * scale + shift)

    def attributes(self, node: ir.Node) -> dict[str, AttributeValue]:
        """Attributes of the op with the new weights: a Gemm's beta is in the bias already."""
        found = kept(node)
        if self.op_type == "Gemm":
            found.pop("beta", None)
        return found


def linear_of(node: ir.Node, opset: int) -> Linear | str:
    """``node`` (Conv, ConvTranspose, Gemm or MatMul) with its weights; or the reason why it cannot be
    taken so.
    """
    tensor = constant_tensor_of(input_of(node, 1))
    if tensor is None:
        return "the weights are not constant"
    if not tensor.dtype.is_floating_point():
        return "the weights are not floating point"
    shape = tuple(int(d) for d in tensor.shape if isinstance(d, int))
    given = input_of(node, 2)
    bias = None if given is None else constant_of(given)
    if given is not None and bias is None:
        return "the bias is not constant"
    flat = None if bias is None else bias.astype(np.float64).reshape(-1)
    groups = int_attribute(node, "group", 1)
    match node.op_type:
        case "Conv":
            return Linear("Conv", tensor, flat, shape[0], 1, groups)
        case "ConvTranspose":
            return Linear("ConvTranspose", tensor, flat, shape[1] * groups, 1, groups)
        case "Gemm":
            return _gemm(node, tensor, shape, bias, opset)
    if len(shape) < 2:
        return "the weight of the MatMul is a vector"
    wide = rank(node.inputs[0])
    if wide is None or wide < len(shape):
        return "the rank of the MatMul's input is unknown"
    return Linear("MatMul", tensor, None, shape[-1], wide - 1)


def _gemm(
    node: ir.Node, tensor: ir.TensorProtocol, shape: tuple[int, ...], bias: Array | None, opset: int
) -> Linear | str:
    transposed = bool(int_attribute(node, "transB", 0))
    channels = shape[0 if transposed else 1]
    if opset < 7 and bias is not None:
        return "broadcasting by attribute (opset 6 and older)"
    if bias is not None:
        if (bias.ndim and bias.shape[-1] not in (1, channels)) or any(d != 1 for d in bias.shape[:-1]):
            return "the bias of the Gemm differs from row to row"
        bias = np.broadcast_to(bias.astype(np.float64).reshape(-1), (channels,))
    if dims(node.outputs[0]) is not None and rank(node.outputs[0]) != 2:
        return "the Gemm's output is no matrix"
    beta = float_attribute(node, "beta", 1.0)
    return Linear("Gemm", tensor, bias, channels, 1, transposed=transposed, bias_factor=beta)
