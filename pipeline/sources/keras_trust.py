"""What a stored Keras model may hold without permission: Keras's own classes, plain numbers, own storage.

Refused: stored Python code (``Lambda``), classes and functions that are not Keras's own, layers that read
files or other models by path, archive entries that leave the archive, and HDF5 links, datasets or virtual
datasets whose data lie in other files.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from optim.errors import UnsupportedModelError

# Namespaces of Keras that hold model parts and nothing else.
_MODEL_PARTS = frozenset(
    {"layers", "models", "initializers", "regularizers", "constraints", "activations", "losses", "metrics",
     "optimizers", "ops", "operations", "dtype_policies", "quantizers", "random", "backend", "applications"}
)  # fmt: skip
_CODE = frozenset({"Lambda", "__lambda__"})
_BY_PATH = {
    "TFSMLayer": "filepath",
    "TorchModuleWrapper": "module",
    "StringLookup": "vocabulary",
    "IntegerLookup": "vocabulary",
    "IndexLookup": "vocabulary",
    "TextVectorization": "vocabulary",
}
_HINT = "only if you trust the file: --allow-custom-code"


@dataclass(frozen=True)
class _Finding:
    kind: str
    name: str
    what: str


def refuse_code(config: object, where: str, *, allowed: bool) -> None:
    """Refuse a stored config that asks for code other than Keras's own.

    Raises:
        UnsupportedModelError: names the layer or class.
    """
    if allowed:
        return
    for found in _findings(config):
        raise UnsupportedModelError(
            found.what, where=where, op=found.kind, node=found.name, layer=found.name, hint=_HINT
        )


def _findings(config: object) -> Iterator[_Finding]:
    if isinstance(config, list):
        for value in config:
            yield from _findings(value)
    if not isinstance(config, dict):
        return
    if isinstance(config.get("class_name"), str):
        yield from _of_object(config)
    for value in config.values():
        yield from _findings(value)


def _of_object(stored: dict[str, Any]) -> Iterator[_Finding]:
    kind, inner = str(stored["class_name"]), stored.get("config")
    named = inner.get("name") if isinstance(inner, dict) else inner
    name = named if isinstance(named, str) and named else kind
    if kind in _CODE:
        yield _Finding("Lambda", name, f"Lambda layer '{name}' stores Python code, which is not run")
        return
    module = stored.get("module")
    if isinstance(module, str) and not _is_keras(module, kind):
        yield _Finding(kind, name, f"'{name}' is {module}.{kind}, which is not Keras's own; it is not run")
        return
    registered = stored.get("registered_name")
    if isinstance(registered, str) and ">" in registered:
        yield _Finding(kind, name, f"'{name}' is the custom class {registered}; custom code is not run")
        return
    key = _BY_PATH.get(kind)
    if key is not None and isinstance(inner, dict) and isinstance(inner.get(key), str):
        yield _Finding(kind, name, f"{kind} layer '{name}' reads the file '{inner[key]}', outside the model")


def _is_keras(module: str, kind: str) -> bool:
    if module == "builtins":  # how Keras writes its own functions, by name only
        return kind == "function" or kind.startswith("__")
    parts = module.split(".")
    if parts[0] not in ("keras", "tensorflow") or (parts[0] == "tensorflow" and kind != "__typespec__"):
        return False
    below = [part for part in parts[1:] if part != "src"]
    return not below or below[0] in _MODEL_PARTS


def refuse_escapes(path: Path) -> None:
    """Refuse an archive with entries that would land outside the folder it is unpacked to.

    Raises:
        UnsupportedModelError: names the entry.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            inside = PurePosixPath(entry.filename.replace("\\", "/"))
            is_link = (entry.external_attr >> 16) & 0o170000 == 0o120000
            drive = ":" in (inside.parts[0] if inside.parts else "")
            if inside.is_absolute() or ".." in inside.parts or is_link or drive:
                raise UnsupportedModelError(
                    f"archive entry '{entry.filename}' points outside the archive",
                    where=str(path),
                    expected="entries below the archive's own root",
                    hint="do not use this file; save the model again",
                )


def refuse_stored_references(path: Path) -> None:
    """Refuse an archive that holds HDF5 files which refer to other files.

    Raises:
        UnsupportedModelError: names the entry, and the link or dataset in it.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith((".h5", ".hdf5")):
                with tempfile.TemporaryDirectory() as folder:
                    copy = Path(folder) / "weights.h5"
                    with archive.open(entry) as stored, copy.open("wb") as stream:
                        shutil.copyfileobj(stored, stream, 1 << 20)
                    refuse_outside_storage(copy, where=f"{path}/{entry.filename}")


def refuse_outside_storage(file: Path, where: str) -> None:
    """Refuse an HDF5 file that refers to other files. A file that is no HDF5 is left for the reader to judge.

    Raises:
        UnsupportedModelError: names the link or dataset.
    """
    import h5py

    try:
        with h5py.File(file, "r") as stored:
            found = next(_outside(stored, "", set()), None)
    except OSError:
        return
    if found is not None:
        raise UnsupportedModelError(
            f"{found} refers to another file",
            where=where,
            expected="all data in the file itself",
            hint="do not use this file; save the model again",
        )


def _outside(group: Any, place: str, seen: set[int]) -> Iterator[str]:
    """Links and datasets below ``group`` whose data lie in another file."""
    import h5py

    address = h5py.h5o.get_info(group.id).addr
    if address in seen:  # hard links may form a circle
        return
    seen.add(address)
    for name in group:
        path = f"{place}/{name}"
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            yield f"link '{path}' → {link.filename}:{link.path}"
            continue
        if isinstance(link, h5py.SoftLink):
            continue  # its target, if in this file, is visited where it stands
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _outside(item, path, seen)
        elif isinstance(item, h5py.Dataset):
            if item.external:
                yield f"dataset '{path}' → {item.external[0][0]}"
            elif item.is_virtual and any(source.file_name != "." for source in item.virtual_sources()):
                yield f"virtual dataset '{path}'"
