"""One graph, built in another order and with other running numbers, is written as the same bytes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st
from onnx_ir import serde

from pipeline.sources.canonical_names import canonicalise


def _model(numbers: list[int], swap: bool) -> ir.Model:
    """y = (x + c) · (x · d), with generated names that end in ``numbers``."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([f"unk__{numbers[0]}", 2]))
    weights = []
    for number, content in zip(numbers[1:3], (1.0, 2.0), strict=True):
        name = f"const_fold__{number}"
        tensor = ir.Tensor(np.full(2, content, np.float32), name=name)
        weights.append(ir.Value(name=name, type=x.type, shape=ir.Shape([2]), const_value=tensor))
    left = ir.node("Add", [x, weights[0]], name=f"add__{numbers[3]}__{numbers[0]}")
    right = ir.node("Mul", [x, weights[1]], name="model/kept")
    left.outputs[0].name, right.outputs[0].name = f"add__{numbers[3]}__{numbers[0]}:0", "model/kept:0"
    last = ir.node("Mul", [left.outputs[0], right.outputs[0]], name="last")
    last.outputs[0].name = "result__7"
    nodes = [right, left, last] if swap else [left, right, last]
    graph = ir.Graph(
        [x],
        last.outputs,
        nodes=nodes,
        initializers=weights[::-1] if swap else weights,
        opset_imports={"": 18},
        name="g",
    )
    return ir.Model(graph, ir_version=8)


@given(numbers=st.lists(st.integers(0, 99), min_size=4, max_size=4, unique=True), swap=st.booleans())
def test_numbers_and_order_of_the_converter_leave_no_trace(numbers: list[int], swap: bool) -> None:
    model, plain = _model(numbers, swap), _model([3, 1, 2, 5], swap=False)
    canonicalise(model)
    canonicalise(plain)
    got, want = (serde.serialize_model(one).SerializeToString(deterministic=True) for one in (model, plain))
    assert got == want
    names = [node.name for node in model.graph]
    assert "model/kept" in names
    assert model.graph.outputs[0].name == "result__7", "outputs keep the name that they were asked for"
