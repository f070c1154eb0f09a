"""Triton's model repository: the model, its pre-processing as a model of its own, and an ensemble of both.

``config.pbtxt`` is written through Triton's own protobuf (tritonclient's ``model_config_pb2``), so a field
that does not exist cannot be written. Verified by asking a server of the V2 inference protocol over HTTP: the
one at ``TRITON_URL``, or ``tritonserver`` where it is on PATH.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from optim import model as onnx_file
from optim.contract import TensorSpec
from optim.errors import UnsupportedModelError
from targets.bundle_context import LABELS_FILE, bundle_context
from targets.child import ChildSession, signature_facts
from targets.contract import Artefact, Availability, Session
from targets.options import TargetOptions, parse_options
from targets.standard_ops import nonstandard_nodes
from targets.triton_config import DTYPES, ModelPlan, ensemble_config, model_config, preprocess_config, text_of
from targets.triton_preprocess import RAW, preprocessing_model

REPOSITORY: Final = "model_repository"
CONFIG_FILE: Final = "config.pbtxt"
MODEL_FILE: Final = "model.onnx"
PLACEHOLDER: Final = "README"  # an ensemble has no file of its own, yet Triton wants its version folder


class TritonOptions(TargetOptions):
    """Options of the ``triton`` target."""

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = "model"
    """Name of the model in the repository."""
    max_batch_size: Annotated[int, Field(ge=1)] = 8
    """Largest batch that requests are gathered to, where the model's batch is free."""
    max_queue_delay_us: Annotated[int, Field(ge=0)] = 100
    """How long a request waits for others, in microseconds."""
    instances: Annotated[int, Field(ge=1)] = 1
    """Copies of the model that run at once, on each device."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where the instances live; auto: the GPU where the server has one."""
    accelerator: Literal["none", "tensorrt", "openvino"] = "none"
    """Execution accelerator of ONNX Runtime in the server. TensorRT is asked for float32."""
    warmup: bool = True
    """Run once with zeros before the model is called ready."""


@dataclass(frozen=True)
class Triton:
    """A repository for NVIDIA Triton Inference Server, model run by its ONNX Runtime backend."""

    @property
    def name(self) -> str:
        return "triton"

    @property
    def summary(self) -> str:
        return "Triton model repository with ensemble and config.pbtxt, asked over HTTP where a server is"

    def available(self) -> Availability:
        """Whether a server can be asked: one that answers at TRITON_URL, or ``tritonserver`` on PATH."""
        try:
            importlib.metadata.version("tritonclient")
        except importlib.metadata.PackageNotFoundError:
            needs = "fairlead[triton]"
            return Availability(available=False, detail="tritonclient is not installed", needs=needs)
        needs = "tritonserver on PATH, or a server of the V2 protocol at TRITON_URL"
        url = os.environ.get("TRITON_URL", "")
        if url:
            return _asked(url if "://" in url else f"http://{url}", needs)
        if shutil.which("tritonserver"):
            return Availability(available=True, detail="tritonserver is on PATH")
        return Availability(available=False, detail="builds; there is no server to ask", needs=needs)

    def unsupported(self, model: Path) -> tuple[str, ...]:
        """Nodes outside the standard, and tensors that Triton's protocol cannot carry."""
        loaded = onnx_file.load(model)
        inputs, outputs = onnx_file.signature(loaded)
        reasons = [f"{reason}; Triton's backend lacks it" for reason in nonstandard_nodes(loaded)]
        for spec in (*inputs, *outputs):
            if spec.dtype not in DTYPES:
                reasons.append(f"{spec.name}: type {spec.dtype} does not travel in the V2 protocol; cast it")
            if not spec.shape or (_batched(inputs, outputs) and len(spec.shape) == 1):
                reasons.append(f"{spec.name}: Triton takes no scalars; give it an axis of size 1")
        return tuple(reasons)

    def build(self, model: Path, out: Path, options: Mapping[str, object]) -> Artefact:
        """Write ``model_repository/``.

        Raises:
            UnsupportedModelError: see ``unsupported``.
            MissingRuntimeError: tritonclient is not installed.
        """
        chosen = parse_options(TritonOptions, self.name, options)
        if reasons := self.unsupported(model):
            raise UnsupportedModelError(reasons[0], where=str(model))
        loaded = onnx_file.load(model)
        inputs, outputs = onnx_file.signature(loaded)
        context = bundle_context(out)
        shapes = {k: v.shape for reference in context.references for k, v in reference.feeds.items()}
        plan = ModelPlan(
            name=chosen.model_name,
            inputs=inputs,
            outputs=outputs,
            max_batch_size=chosen.max_batch_size if _batched(inputs, outputs) else 0,
            max_queue_delay_us=chosen.max_queue_delay_us,
            instances=chosen.instances,
            device=chosen.device,
            accelerator=chosen.accelerator,
            warmup={spec.name: _warm_shape(spec, shapes) for spec in inputs} if chosen.warmup else {},
            labels=LABELS_FILE if context.labels else "",
        )
        configured = text_of(model_config(plan))  # first: without tritonclient nothing is written
        home = out / REPOSITORY / chosen.model_name
        onnx_file.save(loaded, home / "1" / MODEL_FILE)
        (home / CONFIG_FILE).write_text(configured, encoding="utf-8")
        if context.labels:
            shutil.copyfile(out / LABELS_FILE, home / LABELS_FILE)
        ensemble = _write_ensemble(out / REPOSITORY, plan, context.preprocess)
        recorded: dict[str, object] = {
            **chosen.model_dump(),
            "max_batch_size": plan.max_batch_size,
            "ensemble": f"{plan.name}_ensemble" if ensemble else "",
            "ensemble_input": RAW if ensemble else "",
            "signature": signature_facts(model),
        }
        first = f"{REPOSITORY}/{plan.name}/1/{MODEL_FILE}"
        written = sorted(f.relative_to(out).as_posix() for f in (out / REPOSITORY).rglob("*") if f.is_file())
        files = (first, *(name for name in written if name != first))
        return Artefact(files, recorded, requires={"tritonserver": ">=2.40"})

    def open(self, folder: Path, artefact: Artefact) -> Session:
        """A client of the server.

        Raises:
            MissingRuntimeError: there is no server, or it does not serve this model.
        """
        return ChildSession(self.name, folder, artefact)


def _write_ensemble(repository: Path, plan: ModelPlan, preprocess: Mapping[str, object]) -> bool:
    """Pre-processing as a model and the ensemble with it, where the input is an image; whether it is."""
    encoder = preprocessing_model(plan, preprocess)
    if encoder is None:
        return False
    before, whole = repository / f"{plan.name}_preprocess", repository / f"{plan.name}_ensemble"
    onnx_file.save(encoder, before / "1" / MODEL_FILE)
    raw, _ = onnx_file.signature(encoder)
    (before / CONFIG_FILE).write_text(text_of(preprocess_config(plan, raw[0])), encoding="utf-8")
    (whole / "1").mkdir(parents=True)
    (whole / "1" / PLACEHOLDER).write_text("The ensemble's steps are in config.pbtxt.\n", encoding="utf-8")
    (whole / CONFIG_FILE).write_text(text_of(ensemble_config(plan, raw[0])), encoding="utf-8")
    return True


def _batched(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> bool:
    """Whether requests can be gathered: the first axis of every tensor is free."""
    return all(spec.shape and not isinstance(spec.shape[0], int) for spec in (*inputs, *outputs))


def _warm_shape(spec: TensorSpec, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Sizes to warm up with: those of a reference, where free sizes are known from one; else 1."""
    known = shapes.get(spec.name, (1,) * len(spec.shape))
    return tuple(d if isinstance(d, int) else k for d, k in zip(spec.shape, known, strict=True))


def _asked(url: str, needs: str) -> Availability:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url.rstrip('/')}/v2/health/ready", timeout=10):
            return Availability(available=True, detail=f"a server answers at {url}")
    except (OSError, urllib.error.URLError, ValueError) as error:
        return Availability(available=False, detail=f"{url} does not answer: {error}", needs=needs)
