"""Find a model's format from what it holds; the suffix only decides where the content cannot."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from optim.errors import UserError
from pipeline.sources.contract import SourceFormat

FACTORY_PREFIX = "python:"
_H5_MAGIC = b"\x89HDF\r\n\x1a\n"
_TFLITE_MAGIC = b"TFL3"
_ZIP_MAGIC = b"PK\x03\x04"
_READ = (
    "a SavedModel folder, .keras, .h5, TF1 checkpoint prefix or .meta, frozen .pb, .tflite, .onnx, "
    "Caffe's .prototxt or .caffemodel, or python:module:factory"
)
_TEXT_SUFFIXES = (".pbtxt", ".prototxt")
_CAFFE_TEXT = re.compile(rb"^\s*(layers?|input)\s*[:{]", re.MULTILINE)


def detect(model: str) -> SourceFormat:
    """The format of ``model``.

    Raises:
        UserError: there is no such file, or it is none of the formats read.
    """
    if model.startswith(FACTORY_PREFIX):
        return SourceFormat.TF_FUNCTION
    path = Path(model)
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_file(path)
    if checkpoint_prefix(path) is not None:
        return SourceFormat.TF1_CHECKPOINT
    raise UserError("no such file or folder", where=model, expected=_READ)


def checkpoint_prefix(path: Path) -> Path | None:
    """The prefix of the TF1 checkpoint that ``path`` names: itself, its .meta, .index or .data file."""
    name = path.name
    for suffix in (".meta", ".index"):
        if name.endswith(suffix):
            name = name.removesuffix(suffix)
    if ".data-" in name:
        name = name[: name.rindex(".data-")]
    prefix = path.with_name(name)
    return prefix if any(prefix.with_name(name + end).is_file() for end in (".meta", ".index")) else None


def _of_folder(path: Path) -> SourceFormat:
    if any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        return SourceFormat.SAVED_MODEL
    prefixes = sorted(index.name.removesuffix(".index") for index in path.glob("*.index"))
    hint = f"name the checkpoint itself, e.g. {path / prefixes[-1]}" if prefixes else ""
    raise UserError(
        "the folder holds no SavedModel", where=str(path), expected="saved_model.pb in it", hint=hint
    )


def _of_file(path: Path) -> SourceFormat:
    with path.open("rb") as stream:
        head = stream.read(1024)
    if not head:
        raise UserError("the file is empty", where=str(path), expected=_READ)
    if head.startswith(_H5_MAGIC):
        return SourceFormat.KERAS_H5
    if head.startswith(_ZIP_MAGIC):
        return _of_zip(path)
    if head[4:8] == _TFLITE_MAGIC:
        return SourceFormat.TFLITE
    if path.suffix == ".tflite":  # files from before the identifier was required
        return SourceFormat.TFLITE
    if path.name == "saved_model.pb":
        return SourceFormat.SAVED_MODEL
    if ".data-" in path.name or path.suffix in (".meta", ".index"):
        if checkpoint_prefix(path) is None:
            raise UserError("the checkpoint is incomplete", where=str(path), expected=".index beside it")
        return SourceFormat.TF1_CHECKPOINT
    if path.suffix == ".caffemodel" or (path.suffix == ".prototxt" and _CAFFE_TEXT.search(head)):
        return SourceFormat.CAFFE
    if path.suffix in _TEXT_SUFFIXES:
        return SourceFormat.FROZEN_GRAPH
    if head.startswith(b"version https://git-lfs"):
        raise UserError(
            "this is a Git LFS pointer, not the model", where=str(path), hint="run `git lfs pull`"
        )
    return _of_protobuf(path, head)


def _of_zip(path: Path) -> SourceFormat:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except zipfile.BadZipFile as error:
        raise UserError(
            f"a damaged zip file: {error}", where=str(path), hint="copy or save it again"
        ) from error
    if "config.json" in names:
        return SourceFormat.KERAS
    if any(name.endswith("saved_model.pb") for name in names):
        raise UserError("a zipped SavedModel", where=str(path), hint="unpack it and give the folder")
    raise UserError("a zip file that holds no Keras model", where=str(path), expected="config.json in it")


def _of_protobuf(path: Path, head: bytes) -> SourceFormat:
    """ONNX and GraphDef share no magic: field 1 is a varint in ModelProto, a node in GraphDef.

    Checkpoints without .index (format V1) are tables whose data lies in the file itself.
    """
    if path.suffix == ".onnx" or head[0] == 0x08:  # field 1, varint: ir_version
        return SourceFormat.ONNX
    if head[0] == 0x0A:  # field 1, length-delimited: NodeDef
        return SourceFormat.FROZEN_GRAPH
    if checkpoint_prefix(path) is not None:
        return SourceFormat.TF1_CHECKPOINT
    if path.suffix == ".pb":
        return SourceFormat.FROZEN_GRAPH
    raise UserError("none of the formats read", where=str(path), expected=_READ)
