"""Keras 3 ``.keras`` files: functional, Sequential, and subclassed models with a call signature."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optim.errors import FairleadError, UnsupportedModelError, UserError
from pipeline.sources.contract import Converted, ConvertRequest, Progress, no_progress
from pipeline.sources.frozen_inputs import with_frozen_inputs
from pipeline.sources.keras_model import KerasSession, convert_keras
from pipeline.sources.keras_trust import (
    refuse_code,
    refuse_escapes,
    refuse_outside_storage,
    refuse_stored_references,
)
from pipeline.sources.keras_weights import weights_by_reference
from targets.contract import Session

_WEIGHTS = "model.weights.h5"
_ZEROS: dict[str, object] = {
    "module": "keras.initializers",
    "class_name": "Zeros",
    "config": {},
    "registered_name": None,
}


class KerasFileSource:
    """A ``.keras`` file."""

    def __init__(self) -> None:
        self._loaded: tuple[str, Any] | None = None

    def convert(self, request: ConvertRequest, progress: Progress = no_progress) -> Converted:
        """Load and convert.

        Raises:
            UserError: the file is damaged, or shapes must be given.
            UnsupportedModelError: it needs code that is not here or not allowed.
        """
        started = time.perf_counter()
        model = self._load(request)
        progress("trace", 0.2)
        load_s = time.perf_counter() - started
        return convert_keras(model, request, notes=(), load_s=load_s, progress=progress)

    def open(self, request: ConvertRequest) -> Session:
        """The Keras model itself, in inference mode."""
        return with_frozen_inputs(KerasSession(self._load(request), request), request)

    def _load(self, request: ConvertRequest) -> Any:
        if self._loaded is None or self._loaded[0] != request.model:
            self._loaded = (request.model, load_keras(Path(request.model), request))
        return self._loaded[1]


def load_keras(path: Path, request: ConvertRequest) -> Any:
    """The model in ``path``, uncompiled."""
    refuse_escapes(path)
    with zipfile.ZipFile(path) as archive:
        try:
            config = json.loads(archive.read("config.json"))
        except (KeyError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(
                f"the file is damaged: {error}", where=str(path), hint="copy or save it again"
            ) from error
        lean = _WEIGHTS in archive.namelist() and not any(
            name.startswith("assets/") for name in archive.namelist()
        )
    refuse_code(config, str(path), allowed=request.allow_custom_code)
    if not lean:  # vocabularies and the like, which only Keras itself puts back
        refuse_stored_references(path)
        return load_trusted(path, request)
    return _telling_apart(lambda: _load_lean(path, config, request), path, request)


def _load_lean(path: Path, config: Any, request: ConvertRequest) -> Any:
    """What ``keras.models.load_model`` does, holding the weights once: read from disk instead of from
    a copy in memory, into variables that were made as zeros instead of random numbers."""
    import keras

    safe = not request.allow_custom_code
    model = keras.saving.deserialize_keras_object(
        {**without_initializers(config), "compile_config": None}, safe_mode=safe
    )
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        weights = Path(folder) / _WEIGHTS
        with archive.open(_WEIGHTS) as stored, weights.open("wb") as copy:
            shutil.copyfileobj(stored, copy, 1 << 20)
        refuse_outside_storage(weights, where=f"{path}/{_WEIGHTS}")
        with weights_by_reference():
            model.load_weights(weights)
    return model


def without_initializers(config: Any) -> Any:
    """A copy of a config in which Keras's initialisers make zeros: weights are stored anyway."""
    if isinstance(config, list):
        return [without_initializers(value) for value in config]
    if not isinstance(config, dict):
        return config
    return {
        key: dict(_ZEROS)
        if key.endswith("_initializer")
        and isinstance(value, dict)
        and value.get("module") == "keras.initializers"
        else without_initializers(value)
        for key, value in config.items()
    }


def load_trusted(path: Path, request: ConvertRequest, where: Path | None = None) -> Any:
    """``keras.models.load_model`` with its errors told apart.

    Raises:
        UnsupportedModelError: a class is unknown, or the stored config makes no sense to this Keras.
        UserError: the file is damaged.
    """
    import keras

    def load() -> Any:
        with weights_by_reference():
            return keras.models.load_model(path, compile=False, safe_mode=not request.allow_custom_code)

    return _telling_apart(load, where or path, request)


def _telling_apart(load: Callable[[], Any], where: Path, request: ConvertRequest) -> Any:
    """The result of ``load``, with what Keras raises turned into errors of ours."""
    import keras

    shown = str(where)
    if request.allow_custom_code:
        for folder in (str(Path.cwd()), str(where.absolute().parent)):
            if folder not in sys.path:
                sys.path.append(folder)
    try:
        return load()
    except FairleadError:
        raise
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(
            f"the file cannot be read: {str(error)[:300]}", where=shown, hint="copy or save it again"
        ) from error
    except Exception as error:  # Keras raises whatever its layers raise
        text = str(error)
        custom = "custom" in text.lower() or "Could not locate" in text or "Unknown layer" in text
        raise UnsupportedModelError(
            f"Keras {keras.__version__} cannot load it: {type(error).__name__}: {text[:500]}",
            where=shown,
            hint=(
                "make the class importable and pass --allow-custom-code"
                if custom
                else "save it again with the Keras it was written with, in .keras format"
            ),
        ) from error
