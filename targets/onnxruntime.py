"""ONNX Runtime: a portable ``model.onnx`` in standard ops and, if wanted, the same in ORT's own ``.ort``
format, and a graph optimised ahead for this very host. Samples in C++ and Python come along.

The graph is written as it came: ONNX Runtime optimises it when the session is made. A graph saved *after*
that (``ORT_ENABLE_ALL``) holds ``com.microsoft.nchwc`` ops and runs only on CPUs like the one it was made on;
it is named after that host and opened on no other.

With ``device: cuda`` the same file is for the CUDA provider, whose options are recorded in full. It is opened
by the very ``runtime.py`` that the bundle ships, in a process of its own: once with those options, once on
the CPU. Where there is no GPU, the CPU's answers are judged and CUDA is named as not executed.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedFunctionsPass, RemoveUnusedOpsetsPass
from pydantic import Field

from optim import model as onnx_file
from optim.errors import MissingRuntimeError, UnsupportedModelError, UserError
from targets.child import ChildSession, signature_facts
from targets.contract import Artefact, Availability, Session
from targets.cpp_sample import write_cpp_sample
from targets.cuda_provider import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    process_environment,
    provider_options,
    session_entries,
)
from targets.options import TargetOptions, parse_options
from targets.reference import OrtSession
from targets.runtime_probe import prove
from targets.standard_ops import nonstandard_nodes

MODEL_FILE: Final = "model.onnx"
DATA_FILE: Final = "model.onnx.data"
ORT_FILE: Final = "model.ort"
HOST_FILE: Final = "model.host.onnx"
GPU_PACKAGE: Final = "onnxruntime-gpu"
CUDA_OPTIONS: Final = ("layout", "tf32", "cuda_graph", "cpu_fallback", "cpu_optimization")
Level: TypeAlias = Literal["off", "basic", "extended", "all"]
ON_CPU: Final = "`fairlead verify BUNDLE --device cpu` judges the same file on the CPU"


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
    optimization: Level = "all"
    """Graph optimisation when the session is made."""
    io_binding: bool = False
    """Keep inputs and outputs in buffers that are bound to the session, as `runtime.py` then does."""
    device: Literal["cpu", "cuda"] = "cpu"
    """The provider that the bundle is made for; `cuda` needs onnxruntime-gpu where it runs."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """cuda: the layout that the provider prefers for convolutions."""
    tf32: bool = False
    """cuda: let float32 products be rounded to TF32; off, it is off for the whole process. On for a float16
    model: with it off, ONNX Runtime passes over every plan that uses tensor cores."""
    cuda_graph: bool = False
    """cuda: replay a captured CUDA graph; needs `io_binding` and fixed shapes of all inputs."""
    cpu_fallback: bool = False
    """cuda: let nodes without a CUDA kernel run on the CPU; else such a node is an error."""
    cpu_optimization: Level | None = None
    """cuda: graph optimisation of `--device cpu`, whose kernels are others; left empty: `optimization`."""

    @property
    def graph(self) -> bool:
        """``cuda_graph``, by the name that ``provider_options`` asks for."""
        return self.cuda_graph

    @property
    def level_on_cpu(self) -> Level:
        """Graph optimisation of a session on the CPU."""
        return self.cpu_optimization or self.optimization


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime on the CPU, or in its CUDA provider."""

    @property
    def name(self) -> str:
        return "onnxruntime"

    @property
    def summary(self) -> str:
        return "portable .onnx (and .ort) with session options, run by ONNX Runtime on the CPU or with CUDA"

    def available(self) -> Availability:
        """Builds and runs a one-node model."""
        return prove(self, _package(), "fairlead[cpu]")

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
        _refuse_unfit(chosen, loaded)
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
        optional = []
        if chosen.preoptimized:
            _optimised(out / MODEL_FILE, out / HOST_FILE, level="ORT_ENABLE_ALL", form="ONNX")
            files.append(HOST_FILE)
            runnable.append(HOST_FILE)
            optional.append(HOST_FILE)
        recorded: dict[str, object] = {
            **chosen.model_dump(exclude=set(CUDA_OPTIONS)),
            "providers": [CPU_PROVIDER],
            "runnable": runnable,
            "optional": optional,
            "host": processor() if chosen.preoptimized else "",
        }
        if chosen.device == "cuda":
            recorded |= _cuda_facts(chosen, runnable, optional)
        files += write_cpp_sample(out / "cpp", recorded)
        needs = {GPU_PACKAGE: ">=1.20"} if chosen.device == "cuda" else {"onnxruntime": ">=1.14"}
        return Artefact(files=tuple(files), options=recorded, requires=needs)

    def open(self, folder: Path, artefact: Artefact) -> Session:
        """A session on the artefact's first file, with the recorded options.

        Of an artefact for CUDA ``model.onnx#cuda`` and ``model.onnx#cpu`` are that file on either device.

        Raises:
            MissingRuntimeError: onnxruntime is not installed, the file was optimised for another CPU, or this
                machine has no CUDA.
        """
        chosen = recorded_options(artefact.options)
        file, _, device = artefact.files[0].partition("#")
        ahead = file == HOST_FILE
        if ahead and artefact.options["host"] != processor():
            raise MissingRuntimeError(
                f"it was optimised for {artefact.options['host']}, this is {processor()}"
            )
        if chosen.device == "cuda":
            return _as_shipped(folder, artefact, device or chosen.device)
        return OrtSession(
            folder / file,
            optimization="off" if ahead else chosen.optimization,
            threads=chosen.threads,
            allow_spinning=chosen.allow_spinning,
        )


def recorded_options(options: Mapping[str, object]) -> OnnxRuntimeOptions:
    """The target's own options among those that an artefact records.

    Raises:
        UserError: one of them is not what this version knows.
    """
    known = {k: v for k, v in options.items() if k in OnnxRuntimeOptions.model_fields}
    return parse_options(OnnxRuntimeOptions, "onnxruntime", known)


def processor() -> str:
    """Name of this machine's CPU, as its kernel says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _package() -> str:
    """The distribution that brings the runtime here; on a machine with a GPU often not the plain one."""
    try:
        importlib.metadata.version(GPU_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "onnxruntime"
    return GPU_PACKAGE


def _refuse_unfit(chosen: OnnxRuntimeOptions, model: ir.Model) -> None:
    """What the user asked for together and cannot have together.

    Raises:
        UserError: options of CUDA on the CPU; a CUDA graph without bound buffers or fixed shapes.
    """
    if chosen.device == "cpu":
        given = [name for name in CUDA_OPTIONS if name in chosen.model_fields_set]
        if given:
            raise UserError(
                f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} of the CUDA provider; this "
                "bundle is for the CPU",
                where=f"targets.onnxruntime.options.{given[0]}",
                hint=f"give device: cuda, or leave {'it' if len(given) == 1 else 'them'} out",
            )
        return
    if chosen.cuda_graph and not chosen.io_binding:
        raise UserError(
            "a CUDA graph replays on buffers that stay where they are",
            where="targets.onnxruntime.options.cuda_graph",
            expected="io_binding: true beside it",
            hint="give io_binding: true, or leave cuda_graph out",
        )
    inputs, _outputs = onnx_file.signature(model)
    free = [one.name for one in inputs if not all(isinstance(size, int) for size in one.shape)]
    if chosen.cuda_graph and free:
        raise UserError(
            f"a CUDA graph replays fixed shapes; those of {', '.join(free)} are free",
            where="targets.onnxruntime.options.cuda_graph",
            expected="a number for every dimension of every input",
            hint="fix them (optimize.shapes, `fairlead export --inputs`), or leave cuda_graph out",
        )


def _cuda_facts(chosen: OnnxRuntimeOptions, runnable: list[str], optional: list[str]) -> dict[str, object]:
    """What the manifest of a bundle for CUDA states beside the rest; what else it holds runs on the CPU."""
    return {
        **chosen.model_dump(include=set(CUDA_OPTIONS)),
        "cpu_optimization": chosen.level_on_cpu,
        "providers": [[CUDA_PROVIDER, provider_options(chosen)]],
        "session_config": session_entries(cpu_fallback=chosen.cpu_fallback),
        "environment": process_environment(tf32=chosen.tf32),
        "runnable": [f"{MODEL_FILE}#cuda", *(f"{name}#cpu" for name in runnable)],
        "optional": [f"{name}#cpu" for name in optional],
        "notes": [f"made for the CUDA provider: {in_words(chosen)}"],
    }


def in_words(chosen: OnnxRuntimeOptions) -> str:
    """Settings of the CUDA provider as people read them."""
    words = [chosen.layout, "TF32" if chosen.tf32 else "TF32 off"]
    words += ["bound buffers"] if chosen.io_binding else []
    words += ["CUDA graph"] if chosen.cuda_graph else []
    words += ["nodes on the CPU allowed"] if chosen.cpu_fallback else []
    return ", ".join(words)


def _as_shipped(folder: Path, artefact: Artefact, device: str) -> Session:
    """Opened by the bundle's own ``runtime.py`` in a process of its own, which has TF32 as the options say.

    Raises:
        UserError: the manifest states what this version does not know; some options are addresses in memory.
        MissingRuntimeError: there is no CUDA here, or no ONNX Runtime.
    """
    if unknown := _unknown_facts(artefact.options):
        raise UserError(
            f"the manifest's {unknown} holds what this version does not know",
            where=artefact.files[0],
            hint="a newer fairlead may; else do not trust the bundle",
        )
    signature = signature_facts(folder / MODEL_FILE)
    told = replace(artefact, options={**artefact.options, "signature": signature})
    try:
        return ChildSession("onnxruntime", folder, told, gpu=device == "cuda")
    except MissingRuntimeError as error:
        hint = ON_CPU if device == "cuda" else "pip install 'fairlead[cpu]'"
        raise MissingRuntimeError(error.what, hint=hint) from error


def _unknown_facts(options: Mapping[str, object]) -> str:
    """Which of the facts of CUDA is none that a build writes; empty where all are."""
    chosen = recorded_options(options)
    known = _cuda_facts(chosen, [], [])
    match options.get("providers"):
        case [[name, dict(stated)]] if name == CUDA_PROVIDER and set(stated) <= set(provider_options(chosen)):
            pass
        case _:
            return "providers"
    for name in ("session_config", "environment"):
        if options.get(name) != known[name]:
            return name
    return ""


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
