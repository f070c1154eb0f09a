"""Streaming a model gives the bytes that protobuf gives in one piece, and holds one weight at a time."""

from __future__ import annotations

import io
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx_ir import serde

from optim import stored_weights, stream_weights
from optim.model import load, save
from optim.stream_weights import large_initializers, write_streamed


@pytest.fixture
def low_limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """Weights from 200 bytes on count as large."""
    for module in (stored_weights, stream_weights):
        monkeypatch.setattr(module, "LARGE_BYTES", 200)
    return 200


def _model(sizes: Sequence[int]) -> ir.Model:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18], producer_name: "p", doc_string: "d">'
        " g (float[N, 2] X) => (float[N, 2] Y) { Y = Relu(X) }"
    )
    proto.metadata_props.add(key="k", value="v")
    model = ir.from_proto(proto)
    for index, size in enumerate(sizes):
        tensor = ir.Tensor(np.arange(size, dtype=np.float32) + index, name=f"w{index}")
        if index % 2:
            tensor.doc_string = "of the source"
            tensor.metadata_props["layer"] = str(index)
        shape, kind = ir.Shape([size]), ir.TensorType(ir.DataType.FLOAT)
        model.graph.initializers.add(ir.Value(name=f"w{index}", shape=shape, type=kind, const_value=tensor))
    return model


def _at_once(model: ir.Model) -> bytes:
    content: bytes = serde.serialize_model(model).SerializeToString(deterministic=True)
    return content


def _streamed(model: ir.Model) -> bytes:
    stream = io.BytesIO()
    write_streamed(model, stream)
    return stream.getvalue()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from([1, 30, 49, 50, 51, 200, 5000, 40_000]), max_size=6))
def test_the_same_bytes_as_in_one_piece(low_limit: int, sizes: list[int]) -> None:
    model = _model(sizes)
    before = [value.const_value for value in model.graph.initializers.values()]
    assert len(large_initializers(model)) == sum(4 * size >= low_limit for size in sizes)
    assert _streamed(model) == _at_once(model)
    assert all(v.const_value is t for v, t in zip(model.graph.initializers.values(), before, strict=True))


def test_weights_in_a_file_are_written_as_they_stand(low_limit: int, tmp_path: Path) -> None:
    file, again = tmp_path / "a.onnx", tmp_path / "b.onnx"
    file.write_bytes(_at_once(_model([3, 500, 60])))
    model = load(file)
    assert len(large_initializers(model)) == 2
    save(model, again)
    assert again.read_bytes() == file.read_bytes() == _streamed(model)


def test_what_is_still_in_its_message_is_written_as_it_came(low_limit: int) -> None:
    model = _model([])
    tensor = serde.TensorProtoTensor(
        onnx.TensorProto(name="w", data_type=1, dims=[100], float_data=range(100))
    )
    value = ir.Value(
        name="w", shape=ir.Shape([100]), type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor
    )
    model.graph.initializers.add(value)
    assert not large_initializers(model)
    written = onnx.ModelProto.FromString(_streamed(model))
    assert list(written.graph.initializer[0].float_data) == list(range(100))


def test_one_weight_at_a_time_is_held(low_limit: int) -> None:
    """Weights are computed one after the other, each when its turn comes and no earlier one is left."""
    model, made = _model([]), []

    def make(index: int) -> ir.Tensor:
        assert all(earlier() is None for earlier in made)
        array = np.full(100, index, np.float32)
        made.append(weakref.ref(array))
        return ir.Tensor(array)

    for index in range(4):
        shape, kind = ir.Shape([100]), ir.DataType.FLOAT
        lazy = ir.LazyTensor(lambda i=index: make(i), dtype=kind, shape=shape, name=f"w{index}")
        model.graph.initializers.add(
            ir.Value(name=f"w{index}", shape=shape, type=ir.TensorType(kind), const_value=lazy)
        )
    written = onnx.ModelProto.FromString(_streamed(model))
    assert len(made) == 4
    for index, tensor in enumerate(written.graph.initializer):
        assert set(numpy_helper.to_array(tensor)) == {index}


def test_the_model_is_whole_again_when_writing_fails(low_limit: int) -> None:
    model = _model([100, 100])
    before = _at_once(model)

    class Full(io.BytesIO):
        def write(self, _content: object) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_streamed(model, Full())
    assert _at_once(model) == before
