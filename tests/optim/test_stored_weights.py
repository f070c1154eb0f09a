"""Large weights stay in their file: what is read, when, and what is refused."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from optim import stored_weights
from optim.errors import UserError
from optim.model import load, save
from optim.stored_weights import LARGE_BYTES, StoredTensor, parse

_ROWS = LARGE_BYTES // 4 // 64  # of a float32 matrix [_ROWS, 64] that is just large enough


def _proto(*tensors: onnx.TensorProto) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[N, 64] X) => (float[N, 64] Y) { Y = Relu(X) }'
    )
    proto.graph.initializer.extend(tensors)
    return proto


def _array(dtype: np.dtype | type = np.float32, scale: int = 1) -> np.ndarray:
    size = LARGE_BYTES // np.dtype(dtype).itemsize * scale
    return (np.arange(size) % 251).astype(dtype).reshape(-1, 64)


def _written(folder: Path, *tensors: onnx.TensorProto) -> Path:
    file = folder / "m.onnx"
    file.write_bytes(_proto(*tensors).SerializeToString())
    return file


def _weight(model: ir.Model, name: str = "w") -> ir.TensorProtocol:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor


@pytest.mark.parametrize(
    "dtype",
    [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.int64, np.bool_],
    ids=lambda dtype: np.dtype(dtype).name,
)
def test_weights_are_what_they_were(tmp_path: Path, dtype: type) -> None:
    array = _array(dtype)
    small = numpy_helper.from_array(np.arange(3, dtype=np.float32), "small")
    kind = ir.DataType.from_numpy(np.dtype(dtype))
    large = onnx.TensorProto(name="w", data_type=int(kind), dims=array.shape, raw_data=array.tobytes())
    model = load(_written(tmp_path, small, large))
    tensor = _weight(model)
    assert isinstance(tensor, StoredTensor)
    assert not isinstance(_weight(model, "small"), StoredTensor)
    assert (tensor.dtype, tuple(tensor.shape), tensor.nbytes) == (kind, array.shape, array.nbytes)
    assert tensor.numpy().dtype == array.dtype
    assert tensor.tobytes() == array.tobytes()
    if tensor.dtype.is_floating_point():
        np.testing.assert_array_equal(tensor.astype(np.float64), array.astype(np.float64))


def test_the_message_is_parsed_without_them(tmp_path: Path) -> None:
    file = _written(tmp_path, *(numpy_helper.from_array(_array(), name) for name in "abc"))
    parsed = parse(file)
    assert parsed is not None
    assert sorted(parsed.places) == ["a", "b", "c"]
    assert parsed.proto.ByteSize() < 1000 < 3 * LARGE_BYTES < file.stat().st_size


def test_nobody_but_the_reader_holds_what_was_read(tmp_path: Path) -> None:
    model = load(_written(tmp_path, numpy_helper.from_array(_array(), "w")))
    tensor, copy = _weight(model), _weight(model.clone())
    assert copy is tensor  # a copy of the graph is no copy of its weights
    first, second = tensor.numpy(), tensor.numpy()
    assert not np.shares_memory(first, second)
    alive = weakref.ref(first)
    del first
    assert alive() is None


def test_a_file_that_was_replaced_is_read_on(tmp_path: Path) -> None:
    file = _written(tmp_path, numpy_helper.from_array(_array(), "w"))
    model = load(file)
    other = tmp_path / "other.onnx"
    other.write_bytes(_proto(numpy_helper.from_array(_array() * 2, "w")).SerializeToString())
    other.replace(file)
    np.testing.assert_array_equal(_weight(model).numpy(), _array())
    assert isinstance(_weight(model), StoredTensor)
    assert not _weight(model).file.in_place
    assert _weight(load(file)).file.in_place
    np.testing.assert_array_equal(_weight(load(file)).numpy(), _array() * 2)


def test_a_model_is_saved_over_the_file_it_is_read_from(tmp_path: Path) -> None:
    file = _written(tmp_path, numpy_helper.from_array(_array(), "w"))
    model = load(file)
    save(model, file)
    save(model, file)
    np.testing.assert_array_equal(_weight(load(file)).numpy(), _array())


@pytest.mark.parametrize("change", ["shorter", "rewritten"])
def test_a_file_changed_in_place_is_refused(tmp_path: Path, change: str) -> None:
    file = _written(tmp_path, numpy_helper.from_array(_array(), "w"))
    tensor = _weight(load(file))
    if change == "shorter":
        os.truncate(file, LARGE_BYTES // 2)
    else:
        with file.open("r+b") as stream:
            stream.seek(LARGE_BYTES // 2)
            stream.write(b"other")
        os.utime(file, ns=(0, 0))
    for read in (tensor.numpy, lambda: tensor.astype(np.float64)):
        with pytest.raises(UserError, match="changed while it was in use"):
            read()


def _typed() -> onnx.TensorProto:
    return onnx.TensorProto(
        name="w", data_type=onnx.TensorProto.FLOAT, dims=_array().shape, float_data=_array().reshape(-1)
    )


def _int4() -> onnx.TensorProto:
    raw = bytes(2 * LARGE_BYTES)
    return onnx.TensorProto(name="w", data_type=onnx.TensorProto.INT4, dims=[4 * LARGE_BYTES], raw_data=raw)


@pytest.mark.parametrize("tensor", [_typed(), _int4()], ids=["numbers one by one", "packed bits"])
def test_other_forms_are_parsed_whole(tmp_path: Path, tensor: onnx.TensorProto) -> None:
    loaded = _weight(load(_written(tmp_path, tensor)))
    assert not isinstance(loaded, StoredTensor)
    np.testing.assert_array_equal(loaded.numpy(), ir.from_proto(tensor).numpy())


def test_two_weights_of_one_name_are_left_to_the_parser(tmp_path: Path) -> None:
    twice = (numpy_helper.from_array(_array(), "w"), numpy_helper.from_array(_array(), "w"))
    assert parse(_written(tmp_path, *twice)) is None
    half = (numpy_helper.from_array(_array(), "w"), numpy_helper.from_array(_array()[:1], "w"))
    assert parse(_written(tmp_path, *half)) is None


def test_small_files_are_left_to_the_parser(tmp_path: Path) -> None:
    file = _written(tmp_path, numpy_helper.from_array(_array()[:10], "w"))
    assert parse(file) is None
    assert not isinstance(_weight(load(file)), StoredTensor)


def test_damage_is_said_as_before(tmp_path: Path) -> None:
    short = numpy_helper.from_array(_array(scale=2), "w")
    short.dims[0] += 1
    with pytest.raises(UserError, match="'w' holds 2097152 bytes"):
        load(_written(tmp_path, short))
    file = _written(tmp_path, numpy_helper.from_array(_array(scale=2), "w"))
    for size in (file.stat().st_size - 1, LARGE_BYTES + 10):
        os.truncate(file, size)
        with pytest.raises(UserError, match="damaged"):
            load(file)


def test_the_descriptor_is_closed_with_the_last_weight(tmp_path: Path) -> None:
    parsed = parse(_written(tmp_path, numpy_helper.from_array(_array(), "w")))
    assert parsed is not None
    descriptor = parsed.file._descriptor
    os.fstat(descriptor)
    del parsed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_the_least_size_is_one_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    array = np.arange(64, dtype=np.float32)[None]
    file = _written(tmp_path, numpy_helper.from_array(array, "w"))
    monkeypatch.setattr(stored_weights, "LARGE_BYTES", 200)
    tensor = _weight(load(file))
    assert isinstance(tensor, StoredTensor)
    np.testing.assert_array_equal(tensor.numpy(), array)
