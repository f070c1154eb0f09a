"""Names of a target's layers, from what the source called its own."""

from __future__ import annotations

import json

import onnx_ir as ir
import pytest

from optim.facts import SOURCE_KEY
from targets.layer_names import LayerNames


def node(name: str, op: str = "Conv", sources: tuple[str, ...] = ()) -> ir.Node:
    made = ir.node(op, [ir.Value(name="x")], name=name)
    made.outputs[0].name = f"{name}:0"
    if sources:
        made.metadata_props[SOURCE_KEY] = json.dumps(list(sources))
    return made


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("conv1/Conv2D"), node("conv1/Relu", "Relu")], ["conv1", "conv1/relu"]),
        ([node("bn1/cond/FusedBatchNormV3_1", "BatchNormalization")], ["bn1"]),
        ([node("relu1", "Relu"), node("pool1", "MaxPool")], ["relu1", "pool1"]),
        ([node("Net/a/Conv2D"), node("Net/b/Conv2D")], ["a", "b"]),  # a scope that all share says nothing
        ([node("Net/a/Conv2D"), node("Other/b/Conv2D")], ["Net/a", "Other/b"]),
        ([node("dense/BiasAdd", "Gemm", ("fc6/MatMul:0", "fc6/BiasAdd:0"))], ["fc6"]),
        ([node("a/x"), node("a/y"), node("a/z")], ["a", "a/conv", "a/conv_2"]),
        ([node("conv.1/weird name;other")], ["conv_1"]),  # dots part a layer from its output in OpenCV
        ([node("conv1/Conv2D__5")], ["conv1"]),
        ([node("", "Relu")], None),
        ([node("pad/Pad", "Conv", ("pad/Pad:0", "conv/Conv2D:0"))], ["conv"]),
        ([node("net_1/a_1/Conv2D"), node("net_1/b_1/Relu", "Relu")], ["a", "b"]),  # Keras counts them all
        ([node("net_1/a_1/Conv2D"), node("net_1/b_2/Conv2D"), node("net_1/c/Conv2D")], ["a_1", "b_2", "c"]),
    ],
)
def test_names(nodes: list[ir.Node], expected: list[str] | None) -> None:
    names = LayerNames(nodes)
    found = [names.of(one) for one in nodes]
    assert len(set(found)) == len(found)
    assert all(found)
    if expected is not None:
        assert found == expected


def test_parts_of_one_node_are_told_apart() -> None:
    one = node("conv1/Conv2D")
    names = LayerNames([one])
    assert [names.of(one), names.of(one, "slice"), names.of(one, "slice")] == [
        "conv1",
        "conv1/slice",
        "conv1/slice/conv",
    ]


def test_weights_name_a_node_that_the_converter_made() -> None:
    weight = ir.Value(name="net/conv1_1/convolution/ReadVariableOp:0")
    made = ir.node("Conv", [ir.Value(name="x"), weight], name="Conv__97")
    made.outputs[0].name = "Conv__98:0"
    assert LayerNames([made]).of(made) == "net/conv1_1"
