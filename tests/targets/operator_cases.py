"""Small models of one or a few operators, shared by the tests of targets; and what they must answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser


def graph(body: str, x: str, y: str, **weights: Any) -> onnx.ModelProto:
    """A model of opset 18 with input ``x`` and output ``y``: ``float[...]`` shapes."""
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g (float{x} x) => (float{y} y) {{ {body} }}'
    )
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return model


def seeded(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def expected_of(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime answers, unoptimised."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return np.asarray(session.run(None, {"x": x})[0])


# title: the model, and the Caffe layers it becomes (None: not asked)
W = seeded(4, 3, 3, 3)
BN = {"g": seeded(3), "b": seeded(3, seed=6), "m": seeded(3, seed=7), "v": np.abs(seeded(3, seed=8)) + 0.5}
IMAGE = "[1,3,9,10]"
CASES = {
    "conv": (
        graph("y = Conv<pads=[1,1,1,1]>(x, w, b)", IMAGE, "[1,4,9,10]", w=W, b=seeded(4)),
        ["Convolution"],
    ),
    "conv, uneven pads and strides": (
        graph("y = Conv<pads=[0,2,1,0], strides=[2,3]>(x, w)", IMAGE, "[1,4,4,4]", w=W),
        ["Convolution"],
    ),
    "conv, SAME_UPPER": (
        graph('y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)', IMAGE, "[1,4,5,5]", w=W),
        ["Convolution"],
    ),
    "conv, dilated": (
        graph("y = Conv<pads=[2,1,2,1], dilations=[2,1]>(x, w)", IMAGE, "[1,4,9,10]", w=W),
        ["Convolution"],
    ),
    "conv, dilated with uneven pads": (
        graph("y = Conv<pads=[1,2,0,0], dilations=[2,2]>(x, w)", IMAGE, "[1,4,6,8]", w=W),
        ["Convolution"],
    ),
    "conv, depthwise": (
        graph(
            "y = Conv<pads=[0,0,1,1], strides=[2,2], group=3>(x, w)", IMAGE, "[1,3,4,5]", w=seeded(3, 1, 3, 3)
        ),
        ["Convolution"],
    ),
    "conv transpose": (
        graph(
            "y = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w, b)",
            IMAGE,
            "[1,5,17,19]",
            w=seeded(3, 5, 3, 3),
            b=seeded(5),
        ),
        ["Deconvolution"],
    ),
    "conv transpose, uneven pads": (
        graph(
            "y = ConvTranspose<strides=[2,2], pads=[0,0,1,1]>(x, w)",
            IMAGE,
            "[1,5,18,20]",
            w=seeded(3, 5, 3, 3),
        ),
        ["Deconvolution", "Slice", "Silence", "Slice", "Silence", "Power"],
    ),
    "conv transpose, output padding": (
        graph(
            "y = ConvTranspose<strides=[2,2], output_padding=[1,1]>(x, w)",
            IMAGE,
            "[1,5,20,22]",
            w=seeded(3, 5, 3, 3),
        ),
        ["Deconvolution"],
    ),
    "conv transpose, groups": (
        graph("y = ConvTranspose<strides=[2,2], group=3>(x, w)", IMAGE, "[1,6,19,21]", w=seeded(3, 2, 3, 3)),
        ["Deconvolution"],
    ),
    "max pool": (
        graph("y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)", "[1,3,8,8]", "[1,3,4,4]"),
        ["Pooling"],
    ),
    "max pool, floor": (
        graph("y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)", "[1,3,9,8]", "[1,3,4,4]"),
        ["Pooling", "Slice", "Silence", "Power"],
    ),
    "max pool, ceil": (
        graph("y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)", "[1,3,8,8]", "[1,3,4,4]"),
        ["Pooling"],
    ),
    "max pool, SAME": (
        graph(
            'y = MaxPool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">(x)',
            "[1,3,17,30]",
            "[1,3,9,15]",
        ),
        ["Pooling"],
    ),
    "max pool, SAME, stride 1": (
        graph('y = MaxPool<kernel_shape=[2,2], auto_pad="SAME_UPPER">(x)', "[1,3,5,6]", "[1,3,5,6]"),
        None,
    ),
    "average pool, SAME": (
        graph(
            'y = AveragePool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">(x)',
            "[1,3,17,30]",
            "[1,3,9,15]",
        ),
        ["Pooling", "Reshape", "Scale"],
    ),
    "average pool, pads counted": (
        graph(
            "y = AveragePool<kernel_shape=[3,3], strides=[1,1], pads=[1,1,1,1], count_include_pad=1>(x)",
            IMAGE,
            "[1,3,9,10]",
        ),
        ["Pooling"],
    ),
    "average pool, pads not counted": (
        graph("y = AveragePool<kernel_shape=[3,3], strides=[1,1], pads=[1,1,1,1]>(x)", IMAGE, "[1,3,9,10]"),
        ["Pooling", "Reshape", "Scale"],
    ),
    "average pool, whole": (
        graph("y = AveragePool<kernel_shape=[9,10]>(x)", IMAGE, "[1,3,1,1]"),
        ["Pooling"],
    ),
    "global average": (graph("y = GlobalAveragePool(x)", IMAGE, "[1,3,1,1]"), ["Pooling"]),
    "global average of a large map": (
        graph("y = GlobalAveragePool(x)", "[1,3,112,98]", "[1,3,1,1]"),
        ["Pooling", "Pooling"],
    ),
    "global max": (graph("y = GlobalMaxPool(x)", IMAGE, "[1,3,1,1]"), ["Pooling"]),
    "mean over space": (
        graph("y = ReduceMean<keepdims=0>(x, a)", IMAGE, "[1,3]", a=ints(2, 3)),
        ["Pooling", "Flatten"],
    ),
    "mean of space behind a transpose": (
        graph(
            "t = Transpose<perm=[0,2,3,1]>(x) y = ReduceMean<keepdims=0>(t, a)", IMAGE, "[1,3]", a=ints(1, 2)
        ),
        ["Pooling", "Flatten"],
    ),
    "mean of space between transposes": (
        graph(
            "t = Transpose<perm=[0,2,3,1]>(x) m = ReduceMean(t, a) y = Transpose<perm=[0,3,1,2]>(m)",
            IMAGE,
            "[1,3,1,1]",
            a=ints(-3, -2),
        ),
        ["Pooling"],
    ),
    "batch norm": (
        graph("y = BatchNormalization<epsilon=0.001>(x, g, b, m, v)", IMAGE, IMAGE, **BN),
        ["BatchNorm", "Scale"],
    ),
    "batch norm of a vector": (
        graph("y = BatchNormalization<epsilon=0.001>(x, g, b, m, v)", "[1,3]", "[1,3]", **BN),
        ["BatchNorm", "Scale"],
    ),
    "local response": (graph("y = LRN<size=5, alpha=0.3, beta=0.6, bias=1.0>(x)", IMAGE, IMAGE), ["LRN"]),
    "local response, k 2": (
        graph("y = LRN<size=3, alpha=0.3, beta=0.6, bias=2.0>(x)", IMAGE, IMAGE),
        ["LRN", "Power"],
    ),
    "relu": (graph("y = Relu(x)", IMAGE, IMAGE), ["ReLU"]),
    "relu6": (
        graph("y = Clip(x, l, h)", IMAGE, IMAGE, l=np.float32(0), h=np.float32(6)),
        ["ReLU", "Power", "ReLU", "Eltwise"],
    ),
    "clip": (
        graph("y = Clip(x, l, h)", IMAGE, IMAGE, l=np.float32(-0.5), h=np.float32(0.7)),
        ["Power", "ReLU", "Eltwise", "Power", "ReLU", "Eltwise"],
    ),
    "clip from below": (
        graph("y = Clip(x, l)", IMAGE, IMAGE, l=np.float32(0.5)),
        ["Power", "ReLU", "Eltwise"],
    ),
    "clip from above": (
        graph("y = Min(x, h)", IMAGE, IMAGE, h=np.float32(0.5)),
        ["Power", "ReLU", "Eltwise"],
    ),
    "leaky": (graph("y = LeakyRelu<alpha=0.3>(x)", IMAGE, IMAGE), ["ReLU"]),
    "prelu": (graph("y = PRelu(x, s)", IMAGE, IMAGE, s=seeded(3, 1, 1)), ["PReLU"]),
    "elu": (graph("y = Elu(x)", IMAGE, IMAGE), ["ELU"]),
    "sigmoid": (graph("y = Sigmoid(x)", IMAGE, IMAGE), ["Sigmoid"]),
    "tanh": (graph("y = Tanh(x)", IMAGE, IMAGE), ["TanH"]),
    "abs": (graph("y = Abs(x)", IMAGE, IMAGE), ["AbsVal"]),
    "softplus": (graph("y = Softplus(x)", IMAGE, IMAGE), ["BNLL"]),
    "exp": (graph("y = Exp(x)", IMAGE, IMAGE), ["Exp"]),
    "negative": (graph("y = Neg(x)", IMAGE, IMAGE), ["Power"]),
    "square": (graph("y = Pow(x, p)", IMAGE, IMAGE, p=np.float32(2)), ["Power", "Reshape"]),
    "hard sigmoid": (graph("y = HardSigmoid<alpha=0.3, beta=0.4>(x)", IMAGE, IMAGE), None),
    "hard swish": (graph("y = HardSwish(x)", IMAGE, IMAGE), None),
    "softmax": (graph("y = Softmax<axis=1>(x)", "[1,7]", "[1,7]"), ["Softmax"]),
    "softmax of an image": (graph("y = Softmax<axis=1>(x)", IMAGE, IMAGE), ["Softmax"]),
    "dense": (
        graph("y = Gemm<transB=1>(x, w, b)", "[1,6]", "[1,4]", w=seeded(4, 6), b=seeded(4)),
        ["InnerProduct"],
    ),
    "dense, alpha and beta": (
        graph("y = Gemm<alpha=0.5, beta=2.0>(x, w, b)", "[1,6]", "[1,4]", w=seeded(6, 4), b=seeded(1, 4)),
        ["InnerProduct"],
    ),
    "dense of matmul and add": (
        graph("t = MatMul(x, w) y = Add(t, b)", "[1,6]", "[1,4]", w=seeded(6, 4), b=seeded(4)),
        ["InnerProduct"],
    ),
    "flatten and dense": (
        graph("f = Flatten(x) y = MatMul(f, w)", IMAGE, "[1,4]", w=seeded(270, 4)),
        ["Flatten", "InnerProduct"],
    ),
    "channels last, flatten and dense": (
        graph(
            "t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, s) y = MatMul(f, w)",
            IMAGE,
            "[1,4]",
            s=ints(-1, 270),
            w=seeded(270, 4),
        ),
        ["Flatten", "InnerProduct"],
    ),
    "channels last throughout": (
        graph(
            "t = Transpose<perm=[0,3,1,2]>(x) c = Conv(t, w) y = Transpose<perm=[0,2,3,1]>(c)",
            "[1,9,10,3]",
            "[1,7,8,4]",
            w=W,
        ),
        ["Convolution"],
    ),
    "shift channels last, then turn": (
        graph(
            "s = Sub(x, m) t = Transpose<perm=[0,3,1,2]>(s) y = Relu(t)",
            "[1,9,10,3]",
            "[1,3,9,10]",
            m=seeded(3),
        ),
        ["Scale", "ReLU"],
    ),
    "add a number": (graph("y = Add(x, c)", IMAGE, IMAGE, c=np.float32(3)), ["Power"]),
    "number minus": (graph("y = Sub(c, x)", IMAGE, IMAGE, c=np.float32(3)), ["Power"]),
    "number over": (
        graph("e = Exp(x) y = Div(c, e)", IMAGE, IMAGE, c=np.float32(3)),
        ["Exp", "Power", "Reshape", "Power"],
    ),
    "add a channel's": (graph("y = Add(x, c)", IMAGE, IMAGE, c=seeded(3, 1, 1)), ["Scale"]),
    "times a channel's": (graph("y = Mul(x, c)", IMAGE, IMAGE, c=seeded(1, 3, 1, 1)), ["Scale"]),
    "times a map": (graph("y = Mul(x, c)", IMAGE, IMAGE, c=seeded(9, 10)), ["Reshape", "Scale"]),
    "times a whole": (
        graph("y = Div(x, c)", IMAGE, IMAGE, c=np.abs(seeded(3, 9, 10)) + 1),
        ["Reshape", "Scale"],
    ),
    "add two": (graph("r = Relu(x) y = Add(x, r)", IMAGE, IMAGE), ["ReLU", "Eltwise"]),
    "subtract two": (graph("r = Relu(x) y = Sub(r, x)", IMAGE, IMAGE), ["ReLU", "Eltwise"]),
    "multiply two": (graph("r = Sigmoid(x) y = Mul(r, x)", IMAGE, IMAGE), ["Sigmoid", "Eltwise"]),
    "divide two": (graph("r = Exp(x) y = Div(x, r)", IMAGE, IMAGE), ["Exp", "Power", "Eltwise"]),
    "larger of two": (graph("r = Neg(x) y = Max(r, x)", IMAGE, IMAGE), ["Power", "Eltwise"]),
    "smaller of two": (graph("r = Neg(x) y = Min(r, x)", IMAGE, IMAGE), None),
    "gate": (graph("p = GlobalAveragePool(x) y = Mul(x, p)", IMAGE, IMAGE), ["Pooling", "Flatten", "Scale"]),
    "gate first": (
        graph("p = GlobalAveragePool(x) y = Mul(p, x)", IMAGE, IMAGE),
        ["Pooling", "Flatten", "Scale"],
    ),
    "concat": (graph("r = Relu(x) y = Concat<axis=1>(x, r)", IMAGE, "[1,6,9,10]"), ["ReLU", "Concat"]),
    "concat, channels last": (
        graph(
            "t = Transpose<perm=[0,3,1,2]>(x) r = Relu(x) y = Concat<axis=-1>(x, r)",
            "[1,9,10,3]",
            "[1,9,10,6]",
        ),
        ["ReLU", "Concat"],
    ),
    "split": (
        graph("a, b = Split<axis=1>(x, s) r = Relu(a) y = Concat<axis=1>(b, r)", IMAGE, IMAGE, s=ints(1, 2)),
        ["Slice", "ReLU", "Concat"],
    ),
    "slice": (
        graph("y = Slice(x, s, e, a)", IMAGE, "[1,2,9,7]", s=ints(1, 2), e=ints(3, -1), a=ints(1, 3)),
        ["Slice", "Silence", "Slice", "Silence", "Power"],
    ),
    "slice by steps": (
        graph("y = Slice(x, s, e, a, t)", IMAGE, "[1,3,4,10]", s=ints(1), e=ints(9), a=ints(2), t=ints(2)),
        ["Slice", "Silence", "Pooling", "Slice", "Silence", "Power"],
    ),
    "pad": (graph("y = Pad(x, p)", IMAGE, "[1,3,12,11]", p=ints(0, 0, 1, 0, 0, 0, 2, 1)), ["Convolution"]),
    "reshape": (graph("y = Reshape(x, s)", IMAGE, "[1,9,30]", s=ints(0, 9, 30)), ["Reshape"]),
    "squeeze": (
        graph("p = GlobalMaxPool(x) y = Squeeze(p, a)", IMAGE, "[1,3]", a=ints(2, 3)),
        ["Pooling", "Flatten"],
    ),
    "nearest": (
        graph(
            'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">'
            "(x, , s)",
            IMAGE,
            "[1,3,18,30]",
            s=np.asarray([1, 1, 2, 3], np.float32),
        ),
        ["Deconvolution"],
    ),
    "depth to space": (
        graph("y = DepthToSpace<blocksize=2>(x)", "[1,8,3,4]", "[1,2,6,8]"),
        ["Deconvolution"],
    ),
    "depth to space, CRD": (
        graph('y = DepthToSpace<blocksize=2, mode="CRD">(x)', "[1,8,3,4]", "[1,2,6,8]"),
        ["Deconvolution"],
    ),
    "space to depth": (graph("y = SpaceToDepth<blocksize=2>(x)", "[1,2,6,8]", "[1,8,3,4]"), ["Convolution"]),
}

LINKS = {
    "conv": "Conv<pads=[1,1,1,1]>({}, w)",
    "depthwise": "Conv<group=4>({}, one)",
    "bn": "BatchNormalization<epsilon=0.001>({}, v1, v2, v3, v4)",
    "per channel": "Mul({}, c)",
    "channel shift": "Add({}, c)",
    "map": "Mul({}, m)",
    "map shift": "Add({}, m)",
    "one": "Mul({}, s)",
    "shift": "Sub({}, s)",
    "relu": "Relu({})",
    "clip": "Clip({}, low, s)",
    "leaky": "LeakyRelu<alpha=0.2>({})",
    "prelu": "PRelu({}, c)",
    "square": "Pow({}, two)",
    "lrn": "LRN<size=3, bias=2.0>({})",
    "sum": "Add({}, x)",
    "product": "Mul({}, x)",
    "max": "MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>({})",
    "mean": "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>({})",
    "sigmoid": "Sigmoid({})",
}
