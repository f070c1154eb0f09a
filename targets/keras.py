"""Keras 3 and SavedModel, rebuilt from the canonical graph as a readable functional model, channels last.

``architecture.py`` is both documentation and the thing itself: the model is made by running it.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optim import model as onnx_file
from optim.errors import InternalError, UnsupportedModelError
from targets.child import ChildSession, export_in_child, signature_facts
from targets.contract import Artefact, Availability, Session
from targets.keras_rebuild.rebuild import rebuild, unsupported_nodes
from targets.layer_table import OPTION, TargetLayer, recorded
from targets.options import TargetOptions, parse_options
from targets.runtime_probe import prove_in_one_child

KERAS_FILE: Final = "model.keras"
SAVED_MODEL: Final = "saved_model"
LAYERS_FILE: Final = "keras_layers.py"
ARCHITECTURE_FILE: Final = "architecture.py"
LAYERS_SOURCE: Final = Path(__file__).parent / "templates" / LAYERS_FILE


class KerasOptions(TargetOptions):
    """Options of the ``keras`` target."""

    saved_model: bool = True
    """Also export a TensorFlow SavedModel."""


@dataclass(frozen=True)
class Keras:
    """A Keras functional model on the TensorFlow backend."""

    @property
    def name(self) -> str:
        return "keras"

    @property
    def summary(self) -> str:
        return "Keras 3 functional model with its Python source, and a TensorFlow SavedModel"

    def available(self) -> Availability:
        """Builds and runs a one-node model."""
        return prove_in_one_child(
            self.name,
            "keras",
            "fairlead[tensorflow]",
            exporter="targets.keras:export",
            model_file=KERAS_FILE,
            options={"saved_model": False},
        )

    def unsupported(self, model: Path) -> tuple[str, ...]:
        return unsupported_nodes(onnx_file.load(model))

    def build(self, model: Path, out: Path, options: Mapping[str, object]) -> Artefact:
        """Write ``model.keras``, ``keras_layers.py``, ``architecture.py`` and ``saved_model/``.

        Raises:
            UnsupportedModelError: a node has no exact Keras counterpart.
            MissingRuntimeError: keras or tensorflow is not installed.
        """
        chosen = parse_options(KerasOptions, self.name, options)
        facts = export_in_child("targets.keras:export", model, out, chosen.model_dump())
        folder = out / SAVED_MODEL
        saved = (
            sorted(f.relative_to(out).as_posix() for f in folder.rglob("*") if f.is_file())
            if folder.is_dir()
            else []
        )
        runnable = [KERAS_FILE, *(f for f in saved if f.endswith("saved_model.pb"))]
        told = {**chosen.model_dump(), "signature": signature_facts(model), "runnable": runnable, **facts}
        return Artefact((KERAS_FILE, LAYERS_FILE, ARCHITECTURE_FILE, *saved), told)

    def open(self, folder: Path, artefact: Artefact) -> Session:
        return ChildSession(self.name, folder, artefact)


def export(model: Path, out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """In the child: draw the architecture, run it, set the weights, save."""
    keras_model, tensors = build_with_tensors(model, out)
    keras_model.save(out / KERAS_FILE)
    if options["saved_model"]:
        keras_model.export(out / SAVED_MODEL, verbose=False)
    import keras
    import tensorflow as tf

    return {
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "parameters": int(keras_model.count_params()),
        OPTION: recorded(_told(keras_model.get_layer(name), tensor) for name, tensor in tensors.items()),
    }


def _told(layer: Any, tensor: str) -> TargetLayer:
    """A layer in Keras's words."""
    weights = tuple((str(w.name), tuple(w.shape)) for w in layer.weights)
    padding = getattr(layer, "padding", "")
    return TargetLayer(str(layer.name), type(layer).__name__, tensor, weights, str(padding or ""))


def build_model(model: Path, folder: Path) -> Any:
    """The Keras model of an ONNX file; see ``build_with_tensors``."""
    return build_with_tensors(model, folder)[0]


def build_with_tensors(model: Path, folder: Path) -> tuple[Any, dict[str, str]]:
    """The Keras model of an ONNX file, and the ONNX tensor that each layer's node computes, by layer name.

    Leaves ``architecture.py`` and ``keras_layers.py`` in ``folder``.

    Raises:
        UnsupportedModelError: a node has no exact Keras counterpart.
    """
    drawn = rebuild(onnx_file.load(model))
    shutil.copyfile(LAYERS_SOURCE, folder / LAYERS_FILE)
    (folder / ARCHITECTURE_FILE).write_text(drawn.source, encoding="utf-8")
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("architecture", folder / ARCHITECTURE_FILE)
    if spec is None or spec.loader is None:
        raise InternalError("the drawn architecture is no module", where=str(folder))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        built = module.build()
        for name in tuple(drawn.weights):  # each is dropped once Keras has its own copy
            built.get_layer(name).set_weights(drawn.weights.pop(name))
    except (ValueError, TypeError) as error:
        raise UnsupportedModelError(
            f"Keras refuses the drawn architecture: {error}", where=str(model)
        ) from error
    here = {layer.name for layer in built.layers}
    return built, {name: tensor for name, tensor in drawn.tensors.items() if name in here}
