"""OpenVINO IR: ``model.xml`` + ``model.bin``, weights in float32 or float16, verified on the CPU plugin.

The CPU plugin computes in bfloat16 where the processor has it unless told otherwise; the recorded options pin
``INFERENCE_PRECISION_HINT=f32``, or parity would measure that instead of the conversion.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from optim import model as onnx_file
from optim.errors import UnsupportedModelError
from targets.child import ChildSession, export_in_child, signature_facts
from targets.contract import Artefact, Availability, Session
from targets.options import TargetOptions, parse_options
from targets.runtime_probe import prove
from targets.standard_ops import nonstandard_nodes

FILES: Final = ("model.xml", "model.bin")
# Rounding each weight to 11 significant bits moves outputs by some 1e-3 of their range.
F16_GATE: Final = {"max_abs_over_range": 1e-2, "snr_db": 45.0}


class OpenVinoOptions(TargetOptions):
    """Options of the ``openvino`` target."""

    precision: Literal["f32", "f16"] = "f32"
    """How weights are stored. f16 halves the file and is gated by its own, wider bound."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Threads of the recorded configuration."""


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO's intermediate representation on its CPU plugin."""

    @property
    def name(self) -> str:
        return "openvino"

    @property
    def summary(self) -> str:
        return "OpenVINO IR (f32 or f16 weights), run by the CPU plugin at pinned precision"

    def available(self) -> Availability:
        """Builds and runs a one-node model."""
        return prove(self, "openvino", "fairlead[openvino]")

    def unsupported(self, model: Path) -> tuple[str, ...]:
        return nonstandard_nodes(onnx_file.load(model))

    def build(self, model: Path, out: Path, options: Mapping[str, object]) -> Artefact:
        """Write ``model.xml`` and ``model.bin``.

        Raises:
            UnsupportedModelError: OpenVINO's frontend has no translation for an op; its message names it.
            MissingRuntimeError: openvino is not installed.
        """
        chosen = parse_options(OpenVinoOptions, self.name, options)
        if reasons := self.unsupported(model):
            raise UnsupportedModelError(reasons[0], where=str(model))
        facts = export_in_child("targets.openvino:export", model, out, chosen.model_dump())
        recorded: dict[str, object] = {
            **chosen.model_dump(),
            "config": {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": chosen.threads},
            "signature": signature_facts(model),
            **facts,
        }
        if chosen.precision == "f16":
            recorded["gate"] = F16_GATE
        return Artefact(FILES, recorded)

    def open(self, folder: Path, artefact: Artefact) -> Session:
        return ChildSession(self.name, folder, artefact)


def export(model: Path, out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """In the child: read the ONNX file with OpenVINO's own frontend and save IR."""
    import openvino as ov

    try:
        read = ov.Core().read_model(str(model))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = next(
            (line for line in lines if "operation" in line.lower() or "op " in line.lower()), lines[-1]
        )
        raise UnsupportedModelError(
            f"OpenVINO cannot read it: {told[:300]}", hint="try another opset"
        ) from error
    ov.save_model(read, str(out / FILES[0]), compress_to_fp16=options["precision"] == "f16")
    return {"openvino": importlib.metadata.version("openvino")}
