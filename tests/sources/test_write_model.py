"""Streamed files are the files that protobuf itself reads."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from optim import model as onnx_file
from pipeline.sources import write_model as writing
from targets.reference import OrtSession


def _model(arrays: list[np.ndarray]) -> ir.Model:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    node = ir.node("Identity", [x])
    node.outputs[0].name = "y"
    graph = ir.Graph([x], [node.outputs[0]], nodes=[node], opset_imports={"": 18}, name="g")
    for index, array in enumerate(arrays):
        value = ir.Value(
            name=f"w{index}",
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape(array.shape),
            const_value=ir.Tensor(array, name=f"w{index}"),
        )
        graph.initializers.add(value)
    return ir.Model(graph, ir_version=8)


@settings(deadline=None, max_examples=40)
@given(
    shapes=st.lists(st.lists(st.integers(0, 40), min_size=0, max_size=3), min_size=0, max_size=4),
    dtype=st.sampled_from(["float32", "float64", "int8", "int64", "float16", "bool"]),
)
def test_streamed_initializers_read_back_equal(shapes: list[list[int]], dtype: str) -> None:
    rng = np.random.default_rng(0)
    arrays = [(rng.integers(0, 2, shape)).astype(dtype) for shape in shapes]
    model = _model(arrays)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "STREAMED_BYTES", 64)
        file = Path(folder) / "m.onnx"
        written = writing.write_model(model, file)
        proto = onnx.load(file)
        with writing.mapped(written, writing.skeleton(model)) as view:
            assert view.stat().st_size < 2000
            mapped = onnx.load(view)
        assert view == file or not view.exists()
        twice = Path(folder) / "n.onnx"
        writing.write_model(model, twice)
        assert file.read_bytes() == twice.read_bytes()
    for one in (proto, mapped):
        read = {tensor.name: numpy_helper.to_array(tensor) for tensor in one.graph.initializer}
        assert sorted(read) == [f"w{i}" for i in range(len(arrays))]
        for index, array in enumerate(arrays):
            assert read[f"w{index}"].dtype == array.dtype
            np.testing.assert_array_equal(read[f"w{index}"], array)
    assert (
        list(model.graph.initializers) == sorted(model.graph.initializers, key=lambda n: int(n[1:])) or arrays
    )


def test_lazy_tensors_are_computed_when_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "STREAMED_BYTES", 16)
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    model = _model([])
    lazy = ir.LazyTensor(
        lambda: ir.Tensor(np.ascontiguousarray(base.T)),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape([4, 3]),
        name="t",
    )
    value = ir.Value(
        name="t", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([4, 3]), const_value=lazy
    )
    model.graph.initializers.add(value)
    writing.write_model(model, tmp_path / "m.onnx")
    tensor = onnx.load(tmp_path / "m.onnx").graph.initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), base.T)


def test_what_does_not_fit_in_one_message_goes_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "INLINE_LIMIT_BYTES", 1000)
    array = np.arange(4000, dtype=np.float32)
    (tmp_path / "aside").mkdir()
    written = writing.write_model(_model([array]), tmp_path / "aside" / "m.onnx")
    written.move_to(tmp_path / "m.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["aside", "m.onnx", "m.onnx.data"]
    loaded = onnx_file.load(tmp_path / "m.onnx")
    tensor = loaded.graph.initializers["w0"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), array)


def test_a_runtime_computes_the_same_from_mapped_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "STREAMED_BYTES", 64)
    rng = np.random.default_rng(0)
    weights = {"odd": rng.integers(0, 9, 67), "w": rng.standard_normal((31, 17))}
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2, 31]))
    model = _model([])
    model.graph.inputs[0] = x
    product = ir.node("MatMul", [x, ir.Value(name="w")])
    for name, dtype in {"odd": "int8", "w": "float32"}.items():  # 67 bytes first: the other is not aligned
        array = weights[name].astype(dtype)
        value = ir.Value(name=name, const_value=ir.Tensor(array, name=name))
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
        model.graph.initializers.add(value)
    product.replace_input_with(1, model.graph.initializers["w"])
    product.outputs[0].name = "y"
    old = model.graph[0]
    model.graph.append(product)
    model.graph.outputs[0] = product.outputs[0]
    model.graph.remove(old)
    written = writing.write_model(model, tmp_path / "m.onnx")
    assert written.places[-1].offset % 4 or written.places[0].offset % 4
    feeds = {"x": rng.standard_normal((2, 31)).astype(np.float32)}
    with writing.mapped(written, writing.skeleton(model)) as view:
        answers = []
        for file in (written.file, view):
            with OrtSession(file) as session:
                answers.append(session.run(feeds)["y"])
    np.testing.assert_array_equal(answers[0], answers[1])
