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
from pipeline.sources.keras_h5_weights import needs_repair, repair_weights
from pipeline.sources.keras_model import KerasSession, convert_keras
from pipeline.sources.keras_old_layers import as_keras_2_computes
from pipeline.sources.keras_refusal import lost_layer
from pipeline.sources.keras_repair import is_current, repair_config
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
            attributes = {key: file.attrs[key] for key in ("keras_version", "backend") if key in file.attrs}
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
    version = _text(attributes.get("keras_version", b"1"))
    repaired, notes = repair_config(config, version)
    if is_current(version):
        return load_trusted(path, request), ()
    with as_keras_2_computes(), tempfile.TemporaryDirectory() as folder:
        weights = needs_repair(config, version, _text(attributes.get("backend", b"")))
        if notes or weights:
            # The user's file is never written; Keras refuses links to it.
            copy = Path(folder) / "model.h5"
            shutil.copyfile(path, copy)
            copy.chmod(0o600)
            with h5py.File(copy, "r+") as file:
                del file.attrs["model_config"]
                file.attrs["model_config"] = json.dumps(repaired)
                if weights:
                    notes += repair_weights(file, config, version)
        model = load_trusted(copy if notes or weights else path, request, where=path)
    check_stated_outputs(model, config)
    if '"hard_sigmoid"' in text:
        notes += (f"hard_sigmoid is that of Keras {version}: min(max(0.2 x + 0.5, 0), 1)",)
    return model, notes


def check_stated_outputs(model: Any, config: Any) -> None:
    """Keras 1 stated the size that a transposed convolution gives; Keras 3 finds it, perhaps another.

    Raises:
        UnsupportedModelError: names the layer.
    """
    if isinstance(config, list):
        for one in config:
            check_stated_outputs(model, one)
    if not isinstance(config, dict):
        return
    inner = config.get("config")
    stated = inner.get("output_shape") if isinstance(inner, dict) else None
    if config.get("class_name") == "Deconvolution2D" and isinstance(inner, dict) and isinstance(stated, list):
        found = next((layer for layer in model.layers if layer.name == inner["name"]), None)
        if found is not None and list(found.output.shape)[1:] != stated[1:]:
            raise lost_layer(
                "Deconvolution2D",
                str(inner["name"]),
                f"it states an output of {stated[1:]}, its padding and strides give {found.output.shape[1:]}",
            )
    for one in config.values():
        check_stated_outputs(model, one)


def _text(stored: Any) -> str:
    return stored.decode() if isinstance(stored, bytes) else str(stored)
