"""Write the zoo's files: whole or not at all, and the same bytes for the same content."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LARGE_BYTES = 1 << 22  # weights hardly compress; beyond this the time is not worth it
EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time a zip entry can carry


def write_whole(path: Path, content: bytes) -> Path:
    """Write ``content`` aside and move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def zip_bytes(entries: Iterable[tuple[str, bytes]]) -> bytes:
    """A zip of ``(name, content)`` without time stamps; compressed where it is not large."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            how = zipfile.ZIP_DEFLATED if len(content) <= LARGE_BYTES else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content, how)
    return buffer.getvalue()


def save_lines(path: Path, lines: Iterable[str]) -> Path:
    """A text file with one entry a line."""
    return write_whole(path, "".join(f"{line}\n" for line in lines).encode())


def save_arrays(path: Path, **arrays: npt.NDArray[Any]) -> Path:
    """An .npz that ``numpy.load(allow_pickle=False)`` reads."""
    entries = []
    for key, array in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
        entries.append((f"{key}.npy", buffer.getvalue()))
    return write_whole(path, zip_bytes(entries))


def save_keras(model: Any, path: Path) -> Path:
    """The network and its weights as a ``.keras`` file: no optimiser, no date.

    A trained model is saved through an uncompiled copy, since Keras stores loss and optimiser with a compiled
    one.
    """
    bare = model
    if model.compiled:
        bare = type(model).from_config(model.get_config())
        bare.set_weights(model.get_weights())
    with tempfile.TemporaryDirectory() as folder:
        dated = Path(folder) / "model.keras"
        bare.save(dated)
        with zipfile.ZipFile(dated) as archive:
            entries = [(name, archive.read(name)) for name in sorted(archive.namelist())]
    return write_whole(path, zip_bytes((name, _undated(name, content)) for name, content in entries))


def _undated(name: str, content: bytes) -> bytes:
    if name != "metadata.json":
        return content
    metadata = json.loads(content)
    metadata.pop("date_saved", None)
    return json.dumps(metadata, sort_keys=True).encode()
