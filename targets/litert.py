"""LiteRT (TensorFlow Lite): ``model.tflite`` from the rebuilt Keras model, float32 or with float16 weights.

The way goes through a SavedModel with a static signature: converting a Keras 3 model's concrete function
directly drops its weights without a word. A file that still holds VAR_HANDLE ops is such a file, and is
refused.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from optim import model as onnx_file
from optim.errors import UnsupportedModelError
from targets.child import ChildSession, export_in_child, signature_facts
from targets.contract import Artefact, Availability, Session
from targets.keras import build_model
from targets.keras_rebuild.rebuild import unsupported_nodes
from targets.options import TargetOptions, parse_options
from targets.runtime_probe import prove_in_one_child

MODEL_FILE: Final = "model.tflite"
# Rounding each weight to 11 significant bits moves outputs by some 1e-3 of their range.
F16_GATE: Final = {"max_abs_over_range": 1e-2, "snr_db": 45.0}


class LiteRtOptions(TargetOptions):
    """Options of the ``litert`` target."""

    precision: Literal["f32", "f16"] = "f32"
    """How weights are stored. f16 halves the file and is gated by its own, wider bound."""


@dataclass(frozen=True)
class LiteRt:
    """LiteRT's interpreter on the CPU."""

    @property
    def name(self) -> str:
        return "litert"

    @property
    def summary(self) -> str:
        return "LiteRT (TFLite) flatbuffer, f32 or f16 weights, run by ai-edge-litert"

    def available(self) -> Availability:
        """Builds and runs a one-node model."""
        return prove_in_one_child(
            self.name,
            "ai-edge-litert",
            "fairlead[litert]",
            exporter="targets.litert:export",
            model_file=MODEL_FILE,
            options={"precision": "f32"},
        )

    def unsupported(self, model: Path) -> tuple[str, ...]:
        """What Keras cannot express, and inputs whose size is not fixed."""
        loaded = onnx_file.load(model)
        inputs, _ = onnx_file.signature(loaded)
        free = tuple(
            f"input {spec.name}: shape {list(spec.shape)} has free dimensions; LiteRT needs them fixed"
            for spec in inputs
            if not all(isinstance(d, int) for d in spec.shape[1:])
        )
        return (*free, *unsupported_nodes(loaded))

    def build(self, model: Path, out: Path, options: Mapping[str, object]) -> Artefact:
        """Write ``model.tflite``; a free batch becomes 1.

        Raises:
            UnsupportedModelError: a node has no counterpart, or the file would have lost its weights.
            MissingRuntimeError: tensorflow, keras or ai-edge-litert is not installed.
        """
        chosen = parse_options(LiteRtOptions, self.name, options)
        if reasons := self.unsupported(model):
            raise UnsupportedModelError(reasons[0], where=str(model))
        facts = export_in_child("targets.litert:export", model, out, chosen.model_dump())
        recorded: dict[str, object] = {**chosen.model_dump(), "signature": signature_facts(model), **facts}
        if chosen.precision == "f16":
            recorded["gate"] = F16_GATE
        return Artefact((MODEL_FILE,), recorded)

    def open(self, folder: Path, artefact: Artefact) -> Session:
        return ChildSession(self.name, folder, artefact)


def export(model: Path, out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """In the child: rebuild in Keras, export a SavedModel with a static signature, convert that."""
    import tensorflow as tf

    work = out.parent / "saved"
    work.mkdir()
    built = build_model(model, work)
    signature = [tf.TensorSpec((t.shape[0] or 1, *t.shape[1:]), t.dtype) for t in built.inputs]
    built.export(work / "model", verbose=False, input_signature=[signature])
    converter = tf.lite.TFLiteConverter.from_saved_model(str(work / "model"))
    if options["precision"] == "f16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    content = converter.convert()
    (out / MODEL_FILE).write_bytes(content)
    operators = _operators(out / MODEL_FILE)
    lost = sorted(set(operators) & {"VAR_HANDLE", "READ_VARIABLE"})
    flex = sorted(op for op in set(operators) if op.startswith("Flex"))
    if lost or flex:
        raise UnsupportedModelError(
            f"the converter left {', '.join(lost + flex)} in the file",
            expected="weights as constants and LiteRT's own operators only",
        )
    return {
        "tensorflow": tf.__version__,
        "ai_edge_litert": importlib.metadata.version("ai-edge-litert"),
        "operators": len(operators),
    }


def _operators(file: Path) -> list[str]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file))
    return [op["op_name"] for op in interpreter._get_ops_details()]
