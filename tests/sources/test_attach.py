"""Weights attached by reference: rearrangements before them fold without copying."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from pipeline.sources.tf.attach import attach_weights


def _value(name: str, shape: list[int]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))


def test_transpose_and_reshape_fold_into_a_lazy_initializer() -> None:
    x, w = _value("x", [2, 6]), _value("w:0", [2, 3, 2])
    turn = ir.node("Transpose", [w], {"perm": [2, 1, 0]})
    shape = ir.Value(name="s", const_value=ir.Tensor(np.array([6, 2], np.int64), name="s"))
    shape.type, shape.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([2])
    flat = ir.node("Reshape", [turn.outputs[0], shape])
    product = ir.node("MatMul", [x, flat.outputs[0]])
    for node, name in ((turn, "t"), (flat, "f"), (product, "y")):
        node.outputs[0].name = name
    graph = ir.Graph(
        [x, w], product.outputs, nodes=[turn, flat, product], initializers=[shape], opset_imports={"": 18}
    )
    model = ir.Model(graph, ir_version=8)
    array = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    attach_weights(model, {"w": array})
    assert [node.op_type for node in graph] == ["MatMul"]
    assert [value.name for value in graph.inputs] == ["x"]
    weight = product.inputs[1]
    assert weight is not None
    tensor = weight.const_value
    assert isinstance(tensor, ir.LazyTensor)
    np.testing.assert_array_equal(tensor.numpy(), array.transpose(2, 1, 0).reshape(6, 2))
    assert "w" not in graph.initializers


def test_a_weight_used_as_it_is_shares_the_frameworks_memory() -> None:
    x, w = _value("x", [1, 3]), _value("w:0", [3, 2])
    product = ir.node("MatMul", [x, w])
    product.outputs[0].name = "y"
    graph = ir.Graph([x, w], product.outputs, nodes=[product], opset_imports={"": 18})
    array = np.ones((3, 2), np.float32)
    attach_weights(ir.Model(graph, ir_version=8), {"w": array})
    tensor = graph.initializers["w"].const_value
    assert tensor is not None
    assert np.shares_memory(tensor.numpy(), array)
