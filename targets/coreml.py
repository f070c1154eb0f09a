"""Core ML: ``model.mlpackage`` (an ML Program) from the rebuilt Keras model, float32 or float16.

Core ML runs on Apple's systems only, so elsewhere the package is written, read back and checked for its
inputs, outputs and weights, and called produced, not executed.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from optim import model as onnx_file
from optim.errors import UnsupportedModelError
from targets.bundle_context import bundle_context
from targets.child import ChildSession, export_in_child, signature_facts
from targets.contract import Artefact, Availability, Session
from targets.coreml_graph import frozen
from targets.coreml_memory import weights_left_alone
from targets.keras import build_model
from targets.keras_rebuild.rebuild import unsupported_nodes
from targets.options import TargetOptions, parse_options
from targets.runtime_probe import prove

PACKAGE: Final = "model.mlpackage"
SPEC_FILE: Final = f"{PACKAGE}/Data/com.apple.CoreML/model.mlmodel"
EXTRA: Final = "fairlead[coreml]"
F16_GATE: Final = {"max_abs_over_range": 1e-2, "snr_db": 45.0}
_LEAST_WEIGHTS: Final = 0.99  # shared constants may be stored once, never less than the parameters themselves


class CoreMlOptions(TargetOptions):
    """Options of the ``coreml`` target."""

    precision: Literal["f32", "f16"] = "f32"
    """What the program computes in. f16 is Core ML's own default and the Neural Engine's only type."""


@dataclass(frozen=True)
class CoreMl:
    """An ML Program for Core ML, from iOS 15 and macOS 12 on."""

    @property
    def name(self) -> str:
        return "coreml"

    @property
    def summary(self) -> str:
        return "Core ML package (ML Program, f32 or f16); runs on macOS only, checked for structure elsewhere"

    def available(self) -> Availability:
        """Builds and runs a one-node model on macOS; elsewhere there is nothing to run it."""
        if sys.platform == "darwin":
            return prove(self, "coremltools", EXTRA)
        try:
            version = importlib.metadata.version("coremltools")
        except importlib.metadata.PackageNotFoundError:
            return Availability(available=False, detail="coremltools is not installed", needs=EXTRA)
        return Availability(
            available=False, detail=f"coremltools {version} builds it", needs="macOS to run it"
        )

    def unsupported(self, model: Path) -> tuple[str, ...]:
        """What Keras cannot express, and inputs whose size is not fixed."""
        loaded = onnx_file.load(model)
        inputs, outputs = onnx_file.signature(loaded)
        free = tuple(
            f"input {spec.name}: shape {list(spec.shape)} has free dimensions; Core ML's are fixed here"
            for spec in inputs
            if not all(isinstance(d, int) for d in spec.shape[1:])
        )
        types = tuple(
            f"{spec.name}: Core ML passes no {spec.dtype}; cast it to float32"
            for spec in (*inputs, *outputs)
            if spec.dtype not in ("float32", "int32")
        )
        return (*free, *types, *unsupported_nodes(loaded))

    def build(self, model: Path, out: Path, options: Mapping[str, object]) -> Artefact:
        """Write ``model.mlpackage``; a free batch becomes 1.

        Raises:
            UnsupportedModelError: a node has no counterpart, or the package is not what was asked for.
            MissingRuntimeError: coremltools, tensorflow or keras is not installed.
        """
        chosen = parse_options(CoreMlOptions, self.name, options)
        if reasons := self.unsupported(model):
            raise UnsupportedModelError(reasons[0], where=str(model))
        signature = signature_facts(model)
        for side in ("inputs", "outputs"):
            for entry, name in zip(signature[side], _names(signature, side), strict=True):
                entry["coreml_name"] = name
        asked = {**chosen.model_dump(), "signature": signature, "labels": list(bundle_context(out).labels)}
        facts = export_in_child("targets.coreml:export", model, out, asked)
        written = sorted(f.relative_to(out).as_posix() for f in (out / PACKAGE).rglob("*") if f.is_file())
        recorded: dict[str, object] = {**chosen.model_dump(), "signature": signature, **facts}
        if chosen.precision == "f16":
            recorded["gate"] = F16_GATE
        files = (SPEC_FILE, *(name for name in written if name != SPEC_FILE))
        return Artefact(files, recorded, requires={"coremltools": str(facts["coremltools"])})

    def open(self, folder: Path, artefact: Artefact) -> Session:
        """The package in Core ML.

        Raises:
            MissingRuntimeError: this is not macOS, or coremltools is not installed.
        """
        return ChildSession(self.name, folder, artefact)


def _names(signature: Mapping[str, Any], side: str) -> list[str]:
    """Names that Core ML takes: letters, digits and underscores, unique over both sides."""
    words: list[str] = []
    taken: set[str] = set()
    for entry in (*signature["inputs"], *signature["outputs"]):
        word = re.sub(r"[^A-Za-z0-9_]", "_", entry["name"])
        word = word if re.match(r"[A-Za-z_]", word) else f"_{word}"
        while word in taken:
            word += "_"
        taken.add(word)
        words.append(word)
    count = len(signature["inputs"])
    return words[:count] if side == "inputs" else words[count:]


def export(model: Path, out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """In the child: rebuild in Keras, convert its concrete function, name both sides, read it back."""
    import coremltools as ct
    import tensorflow as tf

    work = out.parent / "keras"
    work.mkdir()
    built = build_model(model, work)
    signature = options["signature"]
    tensors = [
        tf.TensorSpec((t.shape[0] or 1, *t.shape[1:]), t.dtype, name=entry["coreml_name"])
        for t, entry in zip(built.inputs, signature["inputs"], strict=True)
    ]
    parameters = int(built.count_params())
    function = tf.function(lambda *arrays: built(list(arrays), training=False)).get_concrete_function(
        *tensors
    )
    graph = frozen(function)
    if graph is not None:
        del built, function  # the graph holds the weights now
    precision = ct.precision.FLOAT32 if options["precision"] == "f32" else ct.precision.FLOAT16
    try:
        with weights_left_alone(graph):
            package = ct.convert(
                [function] if graph is None else graph,
                source="tensorflow",
                convert_to="mlprogram",
                compute_precision=precision,
                minimum_deployment_target=ct.target.iOS15,
                skip_model_load=True,
            )
    except (ValueError, NotImplementedError, KeyError, RuntimeError, TypeError) as error:
        raise UnsupportedModelError(
            f"coremltools cannot convert it: {error}", hint="the onnxruntime target runs on macOS too"
        ) from error
    _rename(ct, package, signature)
    package.short_description = "Converted and checked; see MODEL_CARD.md."
    if options["labels"]:
        package.user_defined_metadata["classes"] = "\n".join(options["labels"])
    package.save(str(out / PACKAGE))
    _check(ct, out / PACKAGE, signature, parameters * (4 if options["precision"] == "f32" else 2))
    return {"coremltools": ct.__version__, "tensorflow": tf.__version__, "parameters": parameters}


def _rename(ct: Any, package: Any, signature: Mapping[str, Any]) -> None:
    """Give the outputs, which TensorFlow calls Identity, Identity_1, …, the names of the signature."""
    spec = package.get_spec()
    found = [feature.name for feature in spec.description.output]
    for name, entry in zip(sorted(found, key=_number), signature["outputs"], strict=True):
        ct.utils.rename_feature(spec, name, entry["coreml_name"], rename_inputs=False)
    package._spec = spec


def _number(name: str) -> int:
    digits = re.findall(r"\d+$", name)
    return int(digits[0]) if digits else 0


def _check(ct: Any, package: Path, signature: Mapping[str, Any], least_bytes: int) -> None:
    """Read the package back: both sides must be the signature's, and the weights must be in it."""
    description = ct.utils.load_spec(str(package)).description
    for side, features in (("inputs", description.input), ("outputs", description.output)):
        wanted = [entry["coreml_name"] for entry in signature[side]]
        found = [feature.name for feature in features]
        if sorted(found) != sorted(wanted):
            raise UnsupportedModelError(f"the package's {side} are {found}", expected=str(wanted))
    stored = sum(f.stat().st_size for f in package.rglob("*") if f.is_file())
    if stored < _LEAST_WEIGHTS * least_bytes:
        raise UnsupportedModelError(
            f"the package holds {stored} bytes", expected=f"at least {least_bytes} bytes of weights"
        )
