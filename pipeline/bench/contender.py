"""What is timed: a small record that crosses the border to the child process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from optim.contract import TensorSpec
from pipeline.sources.contract import ConvertRequest

OrtLevel: TypeAlias = Literal["off", "basic", "extended", "all"]
"""ONNX Runtime's own graph optimisation; only "all" also blocks the layout of convolutions."""
Kind: TypeAlias = Literal["source", "onnx", "openvino", "busy_wait"]


class CudaOptions(BaseModel):
    """What is stated to ONNX Runtime's CUDA provider; of what is not stated, its default counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal["NCHW", "NHWC"] = "NCHW"
    tf32: bool = False
    graph: bool = False  # replay a captured CUDA graph
    cpu_fallback: bool = False  # nodes that the GPU cannot run may run on the CPU


class Contender(BaseModel):
    """A model and how it is opened.

    ``source`` is opened in its own framework by ``pipeline.sources.open_native(request)``; ``onnx`` by ONNX
    Runtime; ``openvino`` is an ONNX file in OpenVINO's CPU plugin at float32; ``busy_wait`` spins for
    ``model`` microseconds and tells the cost of the measuring itself. ``io_binding`` (ONNX Runtime only)
    keeps inputs and outputs in buffers that are bound once. On ``cuda`` without ``cuda`` options the provider
    is as the package installs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    model: str
    request: ConvertRequest | None = None
    optimization: OrtLevel = "all"
    threads: Annotated[int, Field(gt=0)] = 1
    allow_spinning: bool = False
    io_binding: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    cuda: CudaOptions | None = None

    @model_validator(mode="after")
    def _options_fit(self) -> Contender:
        if self.cuda is not None and (self.kind, self.device) != ("onnx", "cuda"):
            raise ValueError("CUDA options are for ONNX Runtime on cuda")
        if self.cuda is not None and self.cuda.graph and not self.io_binding:
            raise ValueError("a CUDA graph needs bound buffers")
        return self

    def file_bytes(self) -> int:
        """Size of the file, with its external data, or of all files of the folder."""
        path = Path(self.model)
        if path.is_dir():
            return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        if not path.is_file():
            return 0
        if path.suffix == ".onnx":
            return path.stat().st_size + sum(f.stat().st_size for f in _external_files(path))
        return path.stat().st_size


def _external_files(model: Path) -> list[Path]:
    """Files beside ``model`` that hold its weights; names that lead out of the folder are not followed."""
    import onnx_ir as ir

    loaded = ir.load(model)
    names = {
        Path(value.const_value.location)
        for value in loaded.graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    folder = model.parent.resolve()
    files = [(folder / name).resolve() for name in names]
    return [f for f in files if f.is_relative_to(folder) and f.is_file()]


class Opened(BaseModel):
    """What a child process says once its model is loaded. Shapes and dtypes as in the session."""

    model_config = ConfigDict(frozen=True)

    session_creation_ms: float
    runtime: str  # "onnxruntime 1.31.1"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Usage(BaseModel):
    """What a child process has used so far."""

    model_config = ConfigDict(frozen=True)

    peak_rss_mib: float
    cpu_s: float  # user + system, all threads
    involuntary_switches: int
