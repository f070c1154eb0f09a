"""Keras ``.h5`` files of Keras 1 to 3: the stored config is repaired; nobody needs an old Keras."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from optim.errors import UserError
from pipeline.sources.contract import Converted, ConvertRequest, Progress, no_progress
from pipeline.sources.frozen_inputs import with_frozen_inputs
from pipeline.sources.keras_file import load_trusted
from pipeline.sources.keras_model import KerasSession, convert_keras
from pipeline.sources.keras_repair import repair_config
from pipeline.sources.keras_trust import refuse_code, refuse_outside_storage
from targets.contract import Session


class KerasH5Source:
    """A whole model in HDF5: config and weights."""

    def __init__(self) -> None:
        self._loaded: tuple[str, Any, tuple[str, ...]] | None = None

    def convert(self, request: ConvertRequest, progress: Progress = no_progress) -> Converted:
        """Load and convert.

        Raises:
            UserError: the file is damaged, holds only weights, or shapes must be given.
            UnsupportedModelError: Keras cannot load it, or an op cannot be carried over.
        """
        started = time.perf_counter()
        model, notes = self._load(request)
        progress("trace", 0.2)
        load_s = time.perf_counter() - started
        return convert_keras(model, request, notes=notes, load_s=load_s, progress=progress)

    def open(self, request: ConvertRequest) -> Session:
        """The Keras model itself, in inference mode."""
        return with_frozen_inputs(KerasSession(self._load(request)[0], request), request)

    def _load(self, request: ConvertRequest) -> tuple[Any, tuple[str, ...]]:
        if self._loaded is None or self._loaded[0] != request.model:
            model, notes = load_h5(Path(request.model), request)
            self._loaded = (request.model, model, notes)
        return self._loaded[1], self._loaded[2]


def load_h5(path: Path, request: ConvertRequest) -> tuple[Any, tuple[str, ...]]:
    """The model in ``path``, uncompiled, and what was repaired in its config."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            stored = file.attrs.get("model_config")
            attributes = {key: file.attrs[key] for key in ("keras_version",) if key in file.attrs}
    except OSError as error:
        raise UserError(
            f"not an HDF5 file, or damaged: {error}", where=str(path), hint="copy or save it again"
        ) from error
    if stored is None:
        raise UserError(
            "the file holds weights but no model",
            where=str(path),
            hint="build the model, load_weights(), and save it whole as .keras",
        )
    refuse_outside_storage(path, where=str(path))
    text = stored.decode() if isinstance(stored, bytes) else str(stored)
    try:
        config = json.loads(text)
    except ValueError as error:
        raise UserError(f"the stored config is damaged: {error}", where=str(path)) from error
    refuse_code(config, str(path), allowed=request.allow_custom_code)
    version = attributes.get("keras_version", b"1")
    repaired, notes = repair_config(config, version.decode() if isinstance(version, bytes) else str(version))
    if not notes:
        return load_trusted(path, request), ()
    with tempfile.TemporaryDirectory() as folder:
        # The user's file is never written; Keras refuses links to it.
        copy = Path(folder) / "model.h5"
        shutil.copyfile(path, copy)
        copy.chmod(0o600)
        with h5py.File(copy, "r+") as file:
            del file.attrs["model_config"]
            file.attrs["model_config"] = json.dumps(repaired)
        return load_trusted(copy, request, where=path), notes
