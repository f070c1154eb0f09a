"""ONNX Runtime: a portable ``model.onnx`` in standard ops and, if wanted, the same in ORT's own ``.ort``
format, and a graph optimised ahead for this very host. Samples in C++ and Python come along.

The graph is written as it came: ONNX Runtime optimises it when the session is made. A graph saved *after*
that (``ORT_ENABLE_ALL``) holds ``com.microsoft.nchwc`` ops and runs only on CPUs like the one it was made on;
it is named after that host and opened on no other.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedFunctionsPass, RemoveUnusedOpsetsPass
from pydantic import Field

from optim import model as onnx_file
from optim.errors import MissingRuntimeError, UnsupportedModelError
from targets.contract import Artefact, Availability, Session
from targets.options import TargetOptions, parse_options
from targets.reference import OrtSession
from targets.runtime_probe import prove
from targets.standard_ops import nonstandard_nodes

MODEL_FILE: Final = "model.onnx"
DATA_FILE: Final = "model.onnx.data"
ORT_FILE: Final = "model.ort"
HOST_FILE: Final = "model.host.onnx"
SAMPLES: Final = Path(__file__).parent / "templates" / "onnxruntime"
SAMPLE_FILES: Final = ("predict.cpp", "CMakeLists.txt")


class OnnxRuntimeOptions(TargetOptions):
    """Options of the ``onnxruntime`` target."""

    ort: bool = False
    """Also write `model.ort`, for builds of ONNX Runtime without the ONNX parser."""
    preoptimized: bool = False
    """Also write `model.host.onnx`, optimised for CPUs like this one: sessions start faster, on no other."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Intra-op threads of the recorded session options; 0: one a core."""
    allow_spinning: bool = False
    """Let idle threads spin: lower latency on an idle machine, double on a shared one."""
    optimization: Literal["off", "basic", "extended", "all"] = "all"
    """Graph optimisation when the session is made."""
    io_binding: bool = False
    """Keep inputs and outputs in buffers that are bound to the session, as `runtime.py` then does."""


@dataclass(frozen=True)
class OnnxRuntime:
    """The CPU provider of ONNX Runtime."""

    @property
    def name(self) -> str:
        return "onnxruntime"

    @property
    def summary(self) -> str:
        return "portable .onnx (and .ort) with session options, run by ONNX Runtime"

    def available(self) -> Availability:
        """Builds and runs a one-node model."""
        return prove(self, "onnxruntime", "fairlead[cpu]")

    def unsupported(self, model: Path) -> tuple[str, ...]:
        """Nodes outside the standard domains that the model does not define as functions itself."""
        return tuple(
            f"{reason}; only some builds of ONNX Runtime have it"
            for reason in nonstandard_nodes(onnx_file.load(model))
        )

    def build(self, model: Path, out: Path, options: Mapping[str, object]) -> Artefact:
        """Write ``model.onnx`` (weights beside it where they are many), and ``model.ort`` if asked.

        Raises:
            UnsupportedModelError: see ``unsupported``.
            UserError: unknown options, or a file that is no ONNX model.
        """
        chosen = parse_options(OnnxRuntimeOptions, self.name, options)
        if reasons := self.unsupported(model):
            raise UnsupportedModelError(
                reasons[0], where=str(model), hint="export the model as it was before runtime-specific fusion"
            )
        loaded = onnx_file.load(model)
        RemoveUnusedFunctionsPass()(loaded)  # type: ignore[no-untyped-call]
        RemoveUnusedOpsetsPass()(loaded)
        weights = (v.const_value for v in loaded.graph.initializers.values())
        stored_apart = any(isinstance(w, ir.ExternalTensor) for w in weights)
        onnx_file.save(loaded, out / MODEL_FILE, external=True if stored_apart else None)
        files = [name for name in (MODEL_FILE, DATA_FILE) if (out / name).exists()]
        runnable = [MODEL_FILE]
        if chosen.ort:
            _optimised(out / MODEL_FILE, out / ORT_FILE, level="ORT_ENABLE_BASIC", form="ORT")
            files.append(ORT_FILE)
            runnable.append(ORT_FILE)
        if chosen.preoptimized:
            _optimised(out / MODEL_FILE, out / HOST_FILE, level="ORT_ENABLE_ALL", form="ONNX")
            files.append(HOST_FILE)
            runnable.append(HOST_FILE)
        (out / "cpp").mkdir()
        for name in SAMPLE_FILES:
            shutil.copyfile(SAMPLES / name, out / "cpp" / name)
            files.append(f"cpp/{name}")
        recorded = {
            **chosen.model_dump(),
            "providers": ["CPUExecutionProvider"],
            "runnable": runnable,
            "optional": [HOST_FILE] if chosen.preoptimized else [],
            "host": processor() if chosen.preoptimized else "",
        }
        return Artefact(files=tuple(files), options=recorded, requires={"onnxruntime": ">=1.14"})

    def open(self, folder: Path, artefact: Artefact) -> Session:
        """A session on the artefact's first file, with the recorded options.

        Raises:
            MissingRuntimeError: onnxruntime is not installed, or the file was optimised for another CPU.
        """
        ahead = artefact.files[0] == HOST_FILE
        if ahead and artefact.options["host"] != processor():
            raise MissingRuntimeError(
                f"it was optimised for {artefact.options['host']}, this is {processor()}"
            )
        known = {k: v for k, v in artefact.options.items() if k in OnnxRuntimeOptions.model_fields}
        chosen = parse_options(OnnxRuntimeOptions, self.name, known)
        return OrtSession(
            folder / artefact.files[0],
            optimization="off" if ahead else chosen.optimization,
            threads=chosen.threads,
            allow_spinning=chosen.allow_spinning,
        )


def processor() -> str:
    """Name of this machine's CPU, as its kernel says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _optimised(model: Path, out: Path, *, level: str, form: Literal["ORT", "ONNX"]) -> None:
    """Serialise through a session. At BASIC standard ops remain, and the file runs on every CPU.

    Raises:
        MissingRuntimeError: onnxruntime is not installed.
        UnsupportedModelError: ONNX Runtime itself refuses the graph.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingRuntimeError(str(error), hint="pip install 'fairlead[cpu]'") from error
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(out)
    options.add_session_config_entry("session.save_model_format", form)
    options.log_severity_level = 3
    try:
        ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UnsupportedModelError(f"ONNX Runtime refuses it: {error}", where=str(model)) from error
