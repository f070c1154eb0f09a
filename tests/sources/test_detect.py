"""A format is found from what a file holds; what is none is named."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from optim.errors import UserError
from pipeline.sources.contract import SourceFormat
from pipeline.sources.detect import checkpoint_prefix, detect

CONTENT = (
    ("model.bin", b"\x89HDF\r\n\x1a\n" + bytes(8), SourceFormat.KERAS_H5),
    ("model.hdf5", b"\x89HDF\r\n\x1a\n" + bytes(8), SourceFormat.KERAS_H5),
    ("model.bin", b"\x1c\x00\x00\x00TFL3" + bytes(8), SourceFormat.TFLITE),
    ("net.pb", b"\x0a\x05\x0a\x01x\x12\x00", SourceFormat.FROZEN_GRAPH),
    ("net.pb", b"\x08\x08\x12\x00", SourceFormat.ONNX),
    ("net.onnx", b"\x3a\x00", SourceFormat.ONNX),
    ("net.pbtxt", b"node { name: 'x' }", SourceFormat.FROZEN_GRAPH),
    ("saved_model.pb", b"\x08\x01", SourceFormat.SAVED_MODEL),
)


@pytest.mark.parametrize(("name", "content", "expected"), CONTENT)
def test_content_decides(tmp_path: Path, name: str, content: bytes, expected: SourceFormat) -> None:
    (tmp_path / name).write_bytes(content)
    assert detect(str(tmp_path / name)) is expected


def test_zip_files_are_looked_into(tmp_path: Path) -> None:
    keras, other = tmp_path / "a.keras", tmp_path / "b.zip"
    with zipfile.ZipFile(keras, "w") as archive:
        archive.writestr("config.json", "{}")
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "")
    assert detect(str(keras)) is SourceFormat.KERAS
    with pytest.raises(UserError, match="no Keras model"):
        detect(str(other))


@pytest.mark.parametrize(
    "given", ["model.ckpt", "model.ckpt.meta", "model.ckpt.index", "model.ckpt.data-00000-of-00001"]
)
def test_every_file_of_a_checkpoint_names_it(tmp_path: Path, given: str) -> None:
    for suffix in (".meta", ".index", ".data-00000-of-00001"):
        (tmp_path / f"model.ckpt{suffix}").write_bytes(b"\x00content")
    assert detect(str(tmp_path / given)) is SourceFormat.TF1_CHECKPOINT
    assert checkpoint_prefix(tmp_path / given) == tmp_path / "model.ckpt"


def test_factories_are_named_as_such() -> None:
    assert detect("python:zoo.nets:build") is SourceFormat.TF_FUNCTION


MISTAKES = (
    ("nothing.h5", None, "no such file"),
    ("empty.pb", b"", "empty"),
    ("pointer.pb", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ("notes.txt", b"hello", "none of the formats"),
)


@pytest.mark.parametrize(("name", "content", "message"), MISTAKES)
def test_what_is_no_model_is_the_users_mistake(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        detect(str(tmp_path / name))


def test_a_folder_of_checkpoints_is_told_how_to_name_one(tmp_path: Path) -> None:
    (tmp_path / "model-7.index").write_bytes(b"x")
    with pytest.raises(UserError, match="no SavedModel") as refused:
        detect(str(tmp_path))
    assert "model-7" in refused.value.hint
