# ruff: noqa: E501 - graphs in tables are easier to read in one line
"""Models are read safely, written whole, and named by their content."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from optim.errors import UserError
from optim.model import load, op_counts, save, sha256, signature, weight_bytes
from tests.optim.table import graph, normal

_TEXT = "g (float[N, 600] X) => (float[N, 4] Y) { A = MatMul(X, W) Y = Relu(A) }"
_WEIGHTS = {"W": normal(600, 4)}


def _saved(path: Path, *, external: bool = False) -> Path:
    save(graph(_TEXT, _WEIGHTS), path, external=external)
    return path


@pytest.mark.parametrize("external", [False, True])
def test_round_trip(tmp_path: Path, external: bool) -> None:
    file = _saved(tmp_path / "new" / "m.onnx", external=external)
    assert sorted(p.name for p in file.parent.iterdir()) == ["m.onnx", "m.onnx.data"][: 1 + external]
    model = load(file)
    onnx.checker.check_model(str(file))
    assert np.array_equal(model.graph.initializers["W"].const_value.numpy(), _WEIGHTS["W"])
    assert weight_bytes(model) == 600 * 4 * 4
    assert op_counts(model) == {"MatMul": 1, "Relu": 1}
    inputs, outputs = signature(model)
    assert (inputs[0].name, inputs[0].dtype, inputs[0].shape) == ("X", "float32", ("N", 600))
    assert [o.name for o in outputs] == ["Y"]


@pytest.mark.parametrize("external", [False, True])
def test_same_model_same_bytes(tmp_path: Path, external: bool) -> None:
    a, b = (_saved(tmp_path / name / "m.onnx", external=external) for name in ("a", "b"))
    assert a.read_bytes() == b.read_bytes()
    assert sha256(a) == sha256(b)
    if not external:
        assert sha256(a) == hashlib.sha256(a.read_bytes()).hexdigest()


def test_the_fingerprint_covers_external_data(tmp_path: Path) -> None:
    file = _saved(tmp_path / "m.onnx", external=True)
    before = sha256(file)
    data = file.with_name("m.onnx.data")
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    assert sha256(file) != before


def test_saving_over_the_model_that_is_read(tmp_path: Path) -> None:
    file = _saved(tmp_path / "m.onnx", external=True)
    model = load(file)
    save(model, file, external=True)
    assert np.array_equal(load(file).graph.initializers["W"].const_value.numpy(), _WEIGHTS["W"])
    assert np.array_equal(model.graph.initializers["W"].const_value.numpy(), _WEIGHTS["W"])


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _saved(tmp_path / "m.onnx")
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        save(graph(_TEXT, _WEIGHTS), file)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_damaged_files(tmp_path: Path) -> None:
    file = _saved(tmp_path / "m.onnx")
    whole = file.read_bytes()
    for broken in (b"", b"not a model", whole[: len(whole) // 2], whole[:-1000], b"\x00" * 500):
        file.write_bytes(broken)
        with pytest.raises(UserError, match=r"m\.onnx"):
            load(file)
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "absent.onnx")


def test_every_truncation_is_refused_or_whole(tmp_path: Path) -> None:
    file = _saved(tmp_path / "m.onnx")
    whole = file.read_bytes()
    for cut in range(0, len(whole), 131):
        file.write_bytes(whole[:cut])
        with pytest.raises(UserError):
            load(file)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "a/../../secret.bin", "link.bin"])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"\x00" * 16)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(secret)
    tensor = onnx.TensorProto(
        name="W", dims=[4], data_type=onnx.TensorProto.FLOAT, data_location=onnx.TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value=location)
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[4] X) => (float[4] Y) { Y = Add(X, W) }'
    )
    proto.graph.initializer.append(tensor)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UserError, match="outside"):
        load(folder / "m.onnx")
    with pytest.raises(UserError, match="outside"):
        sha256(folder / "m.onnx")


def test_missing_and_short_external_data(tmp_path: Path) -> None:
    file = _saved(tmp_path / "m.onnx", external=True)
    data = file.with_name("m.onnx.data")
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        load(file)
    data.unlink()
    with pytest.raises(UserError, match="missing"):
        load(file)


def test_old_models_list_no_weights_among_inputs(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 3, opset_import: ["" : 8]> g (float[N, 2] X, float[2, 2] W) => (float[N, 2] Y) { Y = MatMul(X, W) }'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(normal(2, 2), "W"))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    model = load(tmp_path / "m.onnx")
    assert [s.name for s in signature(model)[0]] == ["X"]
    assert [v.name for v in model.graph.inputs] == ["X"]
