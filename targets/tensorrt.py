"""TensorRT, as a recipe: the ONNX model, shape profiles and precision, and the scripts that build and check.

An engine runs only on the kind of GPU and the version it was built with, so none is in the bundle:
``runtime.py`` builds one on the machine that asks, and keeps it in a cache under a name that says both.
Executed where TensorRT, cuda-python and an NVIDIA GPU are; produced, not executed, elsewhere.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from optim import model as onnx_file
from optim.contract import TensorSpec
from optim.errors import UnsupportedModelError, UserError
from targets.bundle_context import bundle_context
from targets.child import ChildSession, signature_facts
from targets.contract import Artefact, Availability, Session
from targets.options import TargetOptions, parse_options
from targets.runtime_probe import prove_with
from targets.tensorrt_support import refusals

MODEL_FILE: Final = "model.onnx"
DATA_FILE: Final = "model.onnx.data"
PROFILES_FILE: Final = "profiles.json"
SCRIPT: Final = "build_engine.sh"
SCRIPT_SOURCE: Final = Path(__file__).parent / "templates" / "tensorrt" / SCRIPT
NEEDS: Final = "TensorRT 10 with its Python package, cuda-python, and an NVIDIA GPU"
# TF32 rounds the factors of a product to 11 significant bits, float16 all values.
REDUCED_GATE: Final = {"max_abs_over_range": 1e-2, "snr_db": 45.0}
_TYPES: Final = frozenset({"float32", "float16", "int32", "int64", "int8", "uint8", "bool"})


class TensorRtOptions(TargetOptions):
    """Options of the ``tensorrt`` target."""

    precision: Literal["fp32", "tf32", "fp16"] = "fp32"
    """fp32 forbids TF32 too, which TensorRT otherwise uses without asking."""
    min_batch: Annotated[int, Field(ge=1)] = 1
    """Smallest batch of the engine, where the model's batch is free."""
    opt_batch: Annotated[int, Field(ge=1)] = 1
    """The batch it is tuned for."""
    max_batch: Annotated[int, Field(ge=1)] = 16
    """Largest batch of the engine."""
    workspace_mib: Annotated[int, Field(ge=1)] = 2048
    """Most scratch memory that a kernel may take, in MiB."""


@dataclass(frozen=True)
class TensorRt:
    """An engine built from ONNX by TensorRT's own parser, on the machine that runs it."""

    @property
    def name(self) -> str:
        return "tensorrt"

    @property
    def summary(self) -> str:
        return "TensorRT recipe: ONNX, shape profiles, scripts; the engine is built where it runs"

    def available(self) -> Availability:
        """Builds and runs an engine of one node, where TensorRT is."""
        for module in ("tensorrt", "cuda"):
            if importlib.util.find_spec(module) is None:
                return Availability(available=False, detail=f"builds; no {module} to run it", needs=NEEDS)
        return prove_with(self, NEEDS)

    def unsupported(self, model: Path) -> tuple[str, ...]:
        """What the ONNX parser lacks, and input types that an engine does not take."""
        loaded = onnx_file.load(model)
        inputs, outputs = onnx_file.signature(loaded)
        types = tuple(
            f"{spec.name}: an engine takes no {spec.dtype}"
            for spec in (*inputs, *outputs)
            if spec.dtype not in _TYPES
        )
        free = tuple(
            f"input {spec.name}: shape {list(spec.shape)} leaves more than the batch free; freeze it"
            for spec in inputs
            if not all(isinstance(d, int) for d in spec.shape[1:])
        )
        return (*types, *free, *refusals(loaded))

    def build(self, model: Path, out: Path, options: Mapping[str, object]) -> Artefact:
        """Write ``model.onnx``, ``profiles.json`` and ``build_engine.sh``.

        Raises:
            UnsupportedModelError: see ``unsupported``.
            UserError: the batches are not in order.
        """
        chosen = parse_options(TensorRtOptions, self.name, options)
        if not chosen.min_batch <= chosen.opt_batch <= chosen.max_batch:
            raise UserError(
                f"min_batch {chosen.min_batch}, opt_batch {chosen.opt_batch}, max_batch {chosen.max_batch}",
                where="targets.tensorrt.options",
                expected="min_batch ≤ opt_batch ≤ max_batch",
            )
        if reasons := self.unsupported(model):
            raise UnsupportedModelError(reasons[0], where=str(model), hint="export to onnxruntime instead")
        loaded = onnx_file.load(model)
        inputs, _ = onnx_file.signature(loaded)
        references = bundle_context(out).references
        largest = max((len(x) for r in references for x in r.feeds.values() if x.ndim), default=1)
        profiles = _profiles(inputs, chosen, max(chosen.max_batch, largest))
        onnx_file.save(loaded, out / MODEL_FILE)
        (out / PROFILES_FILE).write_text(json.dumps(profiles, indent=1) + "\n", encoding="utf-8")
        shutil.copyfile(SCRIPT_SOURCE, out / SCRIPT)
        files = (MODEL_FILE, *((DATA_FILE,) if (out / DATA_FILE).exists() else ()), PROFILES_FILE, SCRIPT)
        recorded: dict[str, object] = {
            **chosen.model_dump(),
            "profiles": profiles,
            "trtexec": _trtexec_flags(profiles, chosen),
            "signature": signature_facts(model),
        }
        if chosen.precision != "fp32":
            recorded["gate"] = REDUCED_GATE
        return Artefact(files, recorded, requires={"tensorrt": ">=10,<11", "cuda-python": ">=12"})

    def open(self, folder: Path, artefact: Artefact) -> Session:
        """An engine, from the cache or built now.

        Raises:
            MissingRuntimeError: there is no TensorRT or no GPU.
        """
        return ChildSession(self.name, folder, artefact, gpu=True)


def _profiles(
    inputs: tuple[TensorSpec, ...], chosen: TensorRtOptions, most: int
) -> dict[str, dict[str, list[int]]]:
    """Input → least, best and largest shape, for inputs whose batch is free."""
    profiles = {}
    for spec in inputs:
        if all(isinstance(d, int) for d in spec.shape):
            continue
        inner = [d for d in spec.shape[1:] if isinstance(d, int)]
        batches = {"min": chosen.min_batch, "opt": chosen.opt_batch, "max": most}
        profiles[spec.name] = {word: [batch, *inner] for word, batch in batches.items()}
    return profiles


def _trtexec_flags(profiles: Mapping[str, Mapping[str, list[int]]], chosen: TensorRtOptions) -> list[str]:
    """The same build as flags of NVIDIA's trtexec."""
    flags = [f"--memPoolSize=workspace:{chosen.workspace_mib}"]
    flags += {"fp32": ["--noTF32"], "tf32": [], "fp16": ["--fp16"]}[chosen.precision]
    for word in ("min", "opt", "max"):
        shapes = [f"{name}:{'x'.join(map(str, profile[word]))}" for name, profile in profiles.items()]
        flags += [f"--{word}Shapes={','.join(shapes)}"] if shapes else []
    return flags
