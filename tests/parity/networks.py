"""Small real networks for the parity tests, with seeded weights and sane activations."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """Collects nodes and weights; every method returns the name of its result."""

    def __init__(self, seed: int, shape: tuple[int | str, ...]) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, op: str, *inputs: str, name: str = "", **attributes: object) -> str:
        name = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"

    def weight(self, value: np.ndarray, name: str = "") -> str:
        name = name or f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def conv(
        self,
        x: str,
        c_in: int,
        c_out: int,
        k: int = 3,
        *,
        group: int = 1,
        name: str = "",
        **attributes: object,
    ) -> str:
        scale = np.sqrt(2.0 / (c_in // group * k * k))
        w = (self.rng.normal(size=(c_out, c_in // group, k, k)) * scale).astype(np.float32)
        b = (self.rng.normal(size=c_out) * 0.1).astype(np.float32)
        attributes = {"kernel_shape": [k, k], "group": group, "pads": [k // 2] * 4, **attributes}
        if attributes.get("auto_pad"):
            del attributes["pads"]
        return self.node("Conv", x, self.weight(w), self.weight(b), name=name, **attributes)

    def batch_norm(self, x: str, c: int, epsilon: float = 1e-3, name: str = "") -> str:
        draw = self.rng.normal
        vectors = (
            1 + 0.2 * draw(size=c),
            0.2 * draw(size=c),
            0.2 * draw(size=c),
            np.exp(0.5 * draw(size=c)) * 0.05,
        )
        names = [self.weight(v.astype(np.float32)) for v in vectors]
        return self.node("BatchNormalization", x, *names, epsilon=epsilon, name=name)

    def dense(self, x: str, n_in: int, n_out: int, name: str = "") -> str:
        w = (self.rng.normal(size=(n_in, n_out)) * np.sqrt(1.0 / n_in)).astype(np.float32)
        b = (self.rng.normal(size=n_out) * 0.1).astype(np.float32)
        return self.node("Gemm", x, self.weight(w), self.weight(b), name=name)

    def model(self, output: str, opset: int = 17) -> ir.Model:
        self.nodes.append(helper.make_node("Identity", [output], ["y"], name="y"))
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            self.weights,
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def classifier(seed: int = 0, *, softmax: bool = True, size: int = 16) -> ir.Model:
    """conv-bn-relu, strided SAME convolution, depthwise, residual, pools, two dense layers; 10 classes."""
    b = Builder(seed, ("N", 3, size, size))
    x = b.node("Relu", b.batch_norm(b.conv("x", 3, 8), 8))
    x = b.node("Relu", b.batch_norm(b.conv(x, 8, 8, auto_pad="SAME_UPPER", strides=[2, 2]), 8))
    y = b.node("Relu", b.batch_norm(b.conv(x, 8, 8, group=8), 8))
    x = b.node("Add", x, b.batch_norm(b.conv(y, 8, 8, 1), 8))
    x = b.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    x = b.node("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    features = 8 * (size // 4) ** 2
    x = b.node("Relu", b.dense(b.node("Flatten", x), features, 20))
    x = b.dense(x, 20, 10, name="logits")
    return b.model(b.node("Softmax", x, axis=-1) if softmax else x)


def upscaler(seed: int = 0, size: int = 12) -> ir.Model:
    """Encoder and decoder: batch norms, bilinear and nearest Resize, ConvTranspose, Concat."""
    b = Builder(seed, ("N", 2, size, size))
    skip = b.node("Relu", b.batch_norm(b.conv("x", 2, 6), 6))
    x = b.node("MaxPool", skip, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
    x = b.node("LeakyRelu", b.batch_norm(b.conv(x, 6, 8, auto_pad="SAME_UPPER"), 8), alpha=0.2)
    x = b.node("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    x = b.node("HardSwish", b.batch_norm(b.conv(x, 8, 8, 5, group=2), 8))
    scales = b.weight(np.array([1, 1, 2, 2], np.float32))
    x = b.node("Resize", x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")
    x = b.node("Concat", x, skip, axis=1)
    x = b.node("Elu", b.batch_norm(b.conv(x, 14, 6), 6), alpha=1.0)
    w = (b.rng.normal(size=(6, 4, 3, 3)) * 0.2).astype(np.float32)
    x = b.node("ConvTranspose", x, b.weight(w), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    x = b.node("Sigmoid", b.conv(x, 4, 4, 1))
    x = b.node(
        "Resize",
        x,
        "",
        scales,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return b.model(b.conv(x, 4, 1, 3))


def mobile(seed: int = 0, size: int = 20, blocks: int = 4) -> ir.Model:
    """Inverted residuals with ReLU6 and squeeze-and-excite, as in the MobileNets."""
    b = Builder(seed, ("N", 3, size, size))
    zero, six = b.weight(np.float32(0)), b.weight(np.float32(6))
    relu6 = lambda value: b.node("Clip", value, zero, six)  # noqa: E731
    x = relu6(b.batch_norm(b.conv("x", 3, 8, auto_pad="SAME_UPPER", strides=[2, 2]), 8))
    for block in range(blocks):
        stride = 2 if block == blocks // 2 else 1
        y = relu6(b.batch_norm(b.conv(x, 8, 24, 1), 24))
        y = relu6(b.batch_norm(b.conv(y, 24, 24, group=24, auto_pad="SAME_UPPER", strides=[stride] * 2), 24))
        if block % 2:
            gate = b.node("Relu", b.conv(b.node("GlobalAveragePool", y), 24, 6, 1))
            y = b.node("Mul", y, b.node("HardSigmoid", b.conv(gate, 6, 24, 1)))
        y = b.batch_norm(b.conv(y, 24, 8, 1), 8)
        x = b.node("Add", x, y) if stride == 1 else y
    x = b.node("Flatten", b.node("GlobalAveragePool", x))
    return b.model(b.node("Softmax", b.dense(x, 8, 10), axis=-1))


NETWORKS = (classifier, upscaler, mobile)
