"""The networks of the GPU matrix as ONNX files, made where they are measured: weights from a seed.

Only speed is measured on them, so random weights do; the graphs are those of the papers: He et al. 2016
(ResNet-50, v1.5: the stride in the 3x3), Sandler et al. 2018 (MobileNetV2), Tan & Le 2019 (EfficientNet-B0),
Simonyan & Zisserman 2015 (VGG-16), and the quickstart's small digit classifier. Batch norm is folded already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 20


class Network:
    """A graph that grows node by node; every method takes and returns the name of a value."""

    def __init__(self, seed: int = SEED) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        """Any operator with one output."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, *shape: int, scale: float) -> str:
        """Seeded normal weights."""
        array = self._rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(
        self, x: str, channels: tuple[int, int], k: int, *, stride: int = 1, group: int = 1, act: str = "",
        gain: float = 1.0,
    ) -> str:  # fmt: skip
        """Convolution with bias, padded by (k - 1) / 2, and an activation: "", relu, relu6, swish."""
        fan_in = channels[0] // group * k * k
        w = self.weight(channels[1], channels[0] // group, k, k, scale=gain * (2 / fan_in) ** 0.5)
        b = self.weight(channels[1], scale=0.01)
        pads = [(k - 1) // 2] * 4
        y = self.add("Conv", x, w, b, kernel_shape=[k, k], strides=[stride] * 2, pads=pads, group=group)
        return self.activate(y, act)

    def activate(self, x: str, act: str) -> str:
        """The named activation."""
        if act == "relu6":
            return self.add("Clip", x, self.scalar(0.0), self.scalar(6.0))
        if act == "swish":
            return self.add("Mul", x, self.add("Sigmoid", x))
        return self.add("Relu", x) if act == "relu" else x

    def scalar(self, value: float) -> str:
        """A constant of rank 0."""
        name = f"c{value:g}"
        if name not in {w.name for w in self.weights}:
            self.weights.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def dense(self, x: str, width: tuple[int, int], act: str = "") -> str:
        """Fully connected."""
        w = self.weight(*width, scale=(1 / width[0]) ** 0.5)
        return self.activate(self.add("Gemm", x, w, self.weight(width[1], scale=0.01)), act)

    def pooled(self, x: str, width: int, classes: int) -> str:
        """Global average pooling and a classifier."""
        flat = self.add("Flatten", self.add("GlobalAveragePool", x))
        return self.dense(flat, (width, classes))

    def save(self, path: Path, output: str, size: tuple[int, int, int], classes: int) -> Path:
        """Write the model; the batch is free."""
        self.nodes.append(helper.make_node("Softmax", [output], ["probabilities"], name="softmax", axis=-1))
        x = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *size])
        y = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes])
        graph = helper.make_graph(self.nodes, path.stem, [x], [y], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(model, path)
        return path


def resnet50(path: Path) -> Path:
    """25.6 million parameters."""
    net, width = Network(), 64
    x = net.conv("image", (3, 64), 7, stride=2, act="relu")
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 * 2**stage
        for block in range(blocks):
            stride = 2 if stage and block == 0 else 1
            shortcut = net.conv(x, (width, 4 * inner), 1, stride=stride) if block == 0 else x
            y = net.conv(x, (width, inner), 1, act="relu")
            y = net.conv(y, (inner, inner), 3, stride=stride, act="relu")
            # Without batch norm, branches of full size double the sum's variance sixteen times over: the
            # softmax would be one and zeros whatever is computed, and nothing to compare.
            y = net.conv(y, (inner, 4 * inner), 1, gain=0.2)
            x, width = net.add("Relu", net.add("Add", y, shortcut)), 4 * inner
    return net.save(path, net.pooled(x, width, 1000), (3, 224, 224), 1000)


def mobilenet_v2(path: Path) -> Path:
    """3.5 million parameters."""
    net, width = Network(), 32
    x = net.conv("image", (3, 32), 3, stride=2, act="relu6")
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
            (6, 320, 1, 1))  # fmt: skip
    for expand, out, repeat, first in rows:
        for k in range(repeat):
            stride = first if k == 0 else 1
            y = net.conv(x, (width, expand * width), 1, act="relu6") if expand > 1 else x
            inner = expand * width
            y = net.conv(y, (inner, inner), 3, stride=stride, group=inner, act="relu6")
            y = net.conv(y, (inner, out), 1)
            x = net.add("Add", x, y) if stride == 1 and width == out else y
            width = out
    x = net.conv(x, (width, 1280), 1, act="relu6")
    return net.save(path, net.pooled(x, 1280, 1000), (3, 224, 224), 1000)


def efficientnet_b0(path: Path) -> Path:
    """5.3 million parameters."""
    net, width = Network(), 32
    x = net.conv("image", (3, 32), 3, stride=2, act="swish")
    rows = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
            (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip
    for expand, out, repeat, first, size in rows:
        for k in range(repeat):
            stride, inner = first if k == 0 else 1, expand * width
            y = net.conv(x, (width, inner), 1, act="swish") if expand > 1 else x
            y = net.conv(y, (inner, inner), size, stride=stride, group=inner, act="swish")
            squeezed = net.conv(net.add("GlobalAveragePool", y), (inner, width // 4), 1, act="swish")
            y = net.add("Mul", y, net.add("Sigmoid", net.conv(squeezed, (width // 4, inner), 1)))
            y = net.conv(y, (inner, out), 1)
            x = net.add("Add", x, y) if stride == 1 and width == out else y
            width = out
    x = net.conv(x, (width, 1280), 1, act="swish")
    return net.save(path, net.pooled(x, 1280, 1000), (3, 224, 224), 1000)


def vgg16(path: Path) -> Path:
    """138.4 million parameters."""
    net, width, x = Network(), 3, "image"
    for out, repeat in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeat):
            x, width = net.conv(x, (width, out), 3, act="relu"), out
        x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.dense(net.add("Flatten", x), (512 * 49, 4096), act="relu")
    x = net.dense(x, (4096, 4096), act="relu")
    return net.save(path, net.dense(x, (4096, 1000)), (3, 224, 224), 1000)


def digits(path: Path) -> Path:
    """The quickstart's classifier: three convolutions and two dense layers."""
    net = Network()
    x = net.conv("image", (1, 16), 3, act="relu")
    x = net.conv(x, (16, 32), 3, stride=2, act="relu")
    x = net.conv(x, (32, 64), 3, act="relu")
    x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.dense(net.add("Flatten", x), (64 * 49, 64), act="relu")
    return net.save(path, net.dense(x, (64, 10)), (1, 28, 28), 10)


def in_half(single: Path, out: Path) -> str:
    """Write a network of this file with float16 weights, input and output; the reason where that fails.

    Every operator here takes either type, so types are all that changes. ONNX Runtime's own converter knows
    any graph, and takes half a minute for VGG-16.
    """
    try:
        model = onnx.load(single)
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                array = numpy_helper.to_array(tensor).astype(np.float16)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
        onnx.save(model, out)
    except (OSError, ValueError, MemoryError) as error:
        return f"no float16 variant: {type(error).__name__}: {error}"
    return ""


NETWORKS: Mapping[str, Callable[[Path], Path]] = {
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "efficientnet_b0": efficientnet_b0,
    "vgg16": vgg16,
    "digits": digits,
}
