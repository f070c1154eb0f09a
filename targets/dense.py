"""What a Gemm or MatMul with constant weights computes, for targets with a layer y = x · Wᵀ + b.

https://onnx.ai/onnx/operators/onnx__Gemm.html
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import constant_of, float_attribute, input_of, int_attribute, sole_consumer
from targets.axis_order import refuse, weight_of


@dataclass(frozen=True)
class Dense:
    """``weight`` [out, in], ``bias`` [out] or None, and the value that the layer computes."""

    weight: Array
    bias: Array | None
    output: ir.Value


def dense_of_gemm(node: ir.Node) -> Dense:
    """Of a Gemm, alpha and beta taken into the weights.

    Raises:
        UnsupportedModelError: weights are not constant, or the first input is transposed.
    """
    weight = weight_of(node, 1) * np.float32(float_attribute(node, "alpha", 1.0))
    if int_attribute(node, "transA", 0):
        raise refuse(node, "its first input is transposed")
    weight = weight.T if not int_attribute(node, "transB", 0) else weight
    bias = None
    if input_of(node, 2) is not None:
        flat = weight_of(node, 2).reshape(-1) * np.float32(float_attribute(node, "beta", 1.0))
        bias = np.broadcast_to(flat, (weight.shape[0],))
    return Dense(weight, bias, node.outputs[0])


def dense_of_matmul(node: ir.Node) -> Dense:
    """Of a MatMul by a constant [in, out], with the constant bias of an Add that alone reads it.

    Raises:
        UnsupportedModelError: the second input is no constant matrix.
    """
    weight = constant_of(input_of(node, 1))
    if weight is None or weight.ndim != 2:
        raise refuse(node, "only a product with a constant matrix has a counterpart")
    follower = sole_consumer(node.outputs[0])
    if follower is not None and follower.op_type == "Add" and follower.domain == "":
        other = follower.inputs[1] if follower.inputs[0] is node.outputs[0] else follower.inputs[0]
        bias = constant_of(other)
        if bias is not None and bias.ndim <= 2 and bias.size == weight.shape[1] == bias.shape[-1]:
            return Dense(weight.T, bias.reshape(-1), follower.outputs[0])
    return Dense(weight.T, None, node.outputs[0])
