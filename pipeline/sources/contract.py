"""What a source is: a trained model file in some framework's format, converted in a child process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from optim.contract import TensorSpec
from targets.contract import Session

if TYPE_CHECKING:  # loading it takes half a second
    import onnx_ir as ir

Progress: TypeAlias = Callable[[str, float], None]
"""Called with a short text and the fraction done in [0, 1]."""


def no_progress(_text: str, _fraction: float) -> None:
    """The progress callback that shows nothing."""


class SourceFormat(StrEnum):
    """Formats fairlead reads; found from the file itself, not only from its suffix."""

    KERAS = "keras"  # Keras 3 .keras
    KERAS_H5 = "keras_h5"  # .h5 written by Keras 1-3
    SAVED_MODEL = "saved_model"
    TF_FUNCTION = "tf_function"  # python:module:factory
    TF1_CHECKPOINT = "tf1_checkpoint"  # prefix, .meta, or .index
    FROZEN_GRAPH = "frozen_graph"  # GraphDef .pb / .pbtxt
    TFLITE = "tflite"
    ONNX = "onnx"
    CAFFE = "caffe"  # .prototxt with .caffemodel


class EdgeLayout(StrEnum):
    """Layout of rank-4/5 tensors at the converted model's inputs and outputs."""

    SOURCE = "source"
    NHWC = "nhwc"
    NCHW = "nchw"


@dataclass(frozen=True)
class ConvertRequest:
    """Everything a conversion depends on.

    ``inputs`` maps a source tensor name to its shape (None: as in the source; -1 inside a shape: free).
    ``freeze`` maps a placeholder's tensor name to the constant that replaces it.
    """

    model: str  # a path, or "python:module:factory"
    inputs: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    freeze: Mapping[str, float | int | bool] = field(default_factory=dict)
    opset: int = 18
    edge_layout: EdgeLayout = EdgeLayout.SOURCE
    allow_custom_code: bool = False
    graph_factory: str | None = None  # "module:function" that builds the TF1 graph where there is no .meta
    memory_limit_mib: int | None = None
    time_limit_s: float | None = None


@dataclass(frozen=True)
class SourceLayer:
    """One layer of the source model as its framework names it, in execution order."""

    name: str
    op: str  # the framework's word: Conv2D, BatchNormalization, ...
    outputs: tuple[str, ...]  # tensor names in the converted ONNX graph that carry its result
    output_shape: tuple[int | None, ...]
    parameters: int  # number of scalars, as the framework's own summary counts them
    weights: tuple[tuple[str, tuple[int, ...]], ...] = ()  # (variable name, shape in the source)
    padding: str = ""  # the framework's word: same, valid
    inbound: tuple[str, ...] = ()  # names of the layers it reads


class AnyLayer(Protocol):
    """A source layer, fresh or read back from a record."""

    @property
    def name(self) -> str: ...

    @property
    def op(self) -> str: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    @property
    def output_shape(self) -> tuple[int | None, ...]: ...


@dataclass(frozen=True)
class Frozen:
    """A placeholder or random op that was set to its inference value."""

    name: str
    value: str
    why: str


@dataclass(frozen=True)
class SourceParity:
    """Converted model against the source framework on one input."""

    feed: str  # "zeros" or "random(seed=0)"
    output: str
    max_abs_over_range: float
    snr_db: float
    passed: bool


@dataclass(frozen=True)
class Conversion:
    """What ``convert`` did. ``output`` is written only when every check passed."""

    output: Path
    source_format: SourceFormat
    framework: str  # "tensorflow 2.21.0, keras 3.15.1"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    frozen: tuple[Frozen, ...]
    notes: tuple[str, ...]  # choices explained: outputs found, config repaired, nodes cut away
    layers: tuple[SourceLayer, ...]
    parity: tuple[SourceParity, ...]
    opset: int
    nodes: int
    weight_bytes: int
    sha256: str
    seconds: Mapping[str, float]  # load, convert, check, parity, total
    peak_rss_mib: float  # of the child process


@dataclass(frozen=True)
class Converted:
    """What a source module makes of a model, inside the child process, before the common checks.

    ``model`` may hold its large weights by reference (memory-mapped or shared arrays).
    """

    model: ir.Model
    framework: str
    frozen: tuple[Frozen, ...] = ()
    notes: tuple[str, ...] = ()
    layers: tuple[SourceLayer, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)  # load, convert
    # Output name -> bound on max|difference| in its own unit, where the source computes in integers and its
    # own kernels differ by more than the common gate; empty for floating-point models.
    tolerance: Mapping[str, float] = field(default_factory=dict)


class Source(Protocol):
    """One module a format; one line in ``pipeline/sources/catalog.py``. Runs only in the child process."""

    def convert(self, request: ConvertRequest, progress: Progress = no_progress) -> Converted:
        """Read the model and convert it.

        Raises:
            UserError: the file is missing or damaged, or shapes must be given (with the line to add).
            UnsupportedModelError: an op cannot be carried over; names op, node and source layer.
        """
        ...

    def open(self, request: ConvertRequest) -> Session:
        """Load the model in its own framework, frozen for inference, with the converted model's names."""
        ...
