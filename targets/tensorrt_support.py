"""What TensorRT's ONNX parser takes: the operator table of onnx-tensorrt 10.15 as data.

https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md
"""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from optim.facts import (
    constant_of,
    dims,
    input_of,
    int_attribute,
    ints_attribute,
    label,
    opset_of,
    string_attribute,
)

OPSETS: Final = (9, 24)
SUPPORTED: Final = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
    BlackmanWindow Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos
    Cosh CumSum DeformConv DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand
    EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow
    HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf IsNaN LRN LSTM
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max
    MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or
    PRelu Pad Pow QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform
    RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence
    RoiAlign RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid
    Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh
    TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
    """.split()  # noqa: SIM905 - 155 quotation marks would say no more
)
_POOLS: Final = frozenset({"AveragePool", "MaxPool", "LpPool"})
_RESIZE_CENTRES: Final = frozenset(
    {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
)


def refusals(model: ir.Model) -> tuple[str, ...]:
    """One reason a node that the parser does not take; empty when it takes all."""
    found = []
    opset = opset_of(model)
    if not OPSETS[0] <= opset <= OPSETS[1]:
        found.append(f"opset {opset} is outside {OPSETS[0]} to {OPSETS[1]}; convert with another one")
    own = {(f.domain, f.name) for f in model.functions.values()}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if (node.domain, node.op_type) in own:
            continue
        reason = _reason(node)
        if reason:
            found.append(f"node {label(node)}: {node.op_type} {reason}")
    return tuple(found)


def _reason(node: ir.Node) -> str:
    if node.domain not in ("", "ai.onnx"):
        return f"of domain {node.domain} needs a TensorRT plugin"
    if node.op_type not in SUPPORTED:
        return "is not in the parser's operator table; rewrite it, or run it in ONNX Runtime"
    if node.op_type in _POOLS:
        return _pool(node)
    if node.op_type == "Resize":
        return _resize(node)
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        zero = constant_of(input_of(node, 2))
        if input_of(node, 2) is not None and (zero is None or zero.any()):
            return "has a zero point that is not 0; quantise symmetrically"
    if node.op_type == "LayerNormalization" and any(o.uses() for o in node.outputs[1:]):
        return "gives more than its first output"
    return ""


def _pool(node: ir.Node) -> str:
    if max(ints_attribute(node, "dilations") or (1,)) > 1:
        return "is dilated"
    if len(ints_attribute(node, "kernel_shape") or ()) not in (2, 3):
        return "pools over other than two or three axes; add one of size 1"
    if len(node.outputs) > 1 and node.outputs[1].name and node.outputs[1].uses():
        return "gives indices"
    return ""


def _resize(node: ir.Node) -> str:
    mode = string_attribute(node, "mode", "nearest")
    centres = string_attribute(node, "coordinate_transformation_mode", "half_pixel")
    if mode not in ("nearest", "linear") or centres not in _RESIZE_CENTRES:
        return f"of mode {mode} with {centres}"
    if int_attribute(node, "antialias", 0):
        return "with antialiasing"
    return "of unknown rank" if dims(node.outputs[0]) is None else ""
