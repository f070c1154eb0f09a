"""The config: one frozen Pydantic model, the published schema, and nothing that reads files.

``load_config`` turns YAML into this; ``fairlead schema`` prints its JSON schema.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.sources.contract import EdgeLayout

Dimension = Annotated[int, Field(ge=-1, description="-1 leaves the dimension free")]
Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]
Scalar = bool | int | float

# Keys whose values are paths, relative to the file that holds them.
PATH_KEYS = (("model", "path"), ("data", "path"), ("data", "label_names"), ("bundle", "signing_key"))
FACTORY_PREFIX = "python:"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelConfig(_Frozen):
    """The trained model and how to read it."""

    path: str
    """File, folder or checkpoint prefix, relative to the config file; or `python:module:factory`."""
    inputs: dict[str, tuple[Dimension, ...] | None] = {}
    """Input tensor names with their shapes, where the model does not say them itself."""
    outputs: tuple[str, ...] = ()
    """Output tensor names; left empty, the inference head is found and the choice explained."""
    freeze: dict[str, Scalar] = {}
    """Placeholders to replace by a constant, e.g. `keep_prob: 1.0`."""
    opset: Annotated[int, Field(ge=13, le=23)] = 18
    """ONNX opset of the converted model."""
    edge_layout: EdgeLayout = EdgeLayout.SOURCE
    """Layout at the inputs and outputs: as in the source, `nhwc` or `nchw`."""
    graph_factory: str | None = None
    """`module:function` that builds the TF1 graph of a checkpoint without a .meta file."""
    allow_custom_code: bool = False
    """Run Python code that the model stores or names (Lambda layers, factories). Only for files you trust."""
    memory_limit_mib: Positive | None = None
    """Memory limit of the converting child process, in MiB."""
    time_limit_s: Annotated[float, Field(gt=0)] | None = None
    """Time limit of the converting child process, in seconds."""


class PreprocessConfig(_Frozen):
    """From raw data to the model's input: x = (raw * scale - mean) / std."""

    scale: float = 1.0
    """Factor applied first, e.g. 1/255."""
    mean: tuple[float, ...] = ()
    """Per-channel mean subtracted after scaling."""
    std: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Per-channel standard deviation divided by last."""


class DataConfig(_Frozen):
    """The user's data: arrays in an .npz, or a folder of images."""

    path: str | None = None
    """An .npz file, or a folder of images, relative to the config file."""
    input: str = "x"
    """Key in the .npz for the model's (first) input."""
    labels: str | None = None
    """Key in the .npz that holds integer class labels."""
    label_names: str | None = None
    """Text file with one class name a line; shipped in the bundle."""
    limit: Positive | None = None
    """Use only the first N examples."""
    preprocess: PreprocessConfig = PreprocessConfig()


class OptimizeConfig(_Frozen):
    """Graph passes."""

    recipe: str = "canonical"
    """Name of an ordered list in `optim/recipes.py`; `fairlead passes` prints them."""
    passes: tuple[str, ...] | None = None
    """Your own ordered list of pass names instead of a recipe."""
    simplify: bool = False
    """Also run onnxsim first, under the same certificate."""
    shapes: dict[str, tuple[Positive, ...]] = {}
    """Fix input shapes, e.g. `input: [1, 224, 224, 3]`."""


class GateConfig(_Frozen):
    """When two models count as the same. Defaults follow the float64 measurements in the docs."""

    max_abs_over_range: Annotated[float, Field(gt=0)] = 2e-5
    """Bound on max|Δ| divided by the reference's range (max - min)."""
    snr_db: float = 90.0
    """Least signal-to-noise ratio in dB."""
    source_error_factor: Annotated[float, Field(ge=1)] = 2.0
    """Where a float64 truth exists: error <= factor * the source framework's own error + 1e-6."""
    top1_agreement: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Least share of the data on which both models name the same class."""
    min_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """Least accuracy on labelled data, for source and converted model alike."""


class ParityConfig(_Frozen):
    """Inputs and bounds of the comparison."""

    seeds: tuple[Seed, ...] = (0,)
    """Seeds of the random inputs."""
    batch_sizes: tuple[Positive, ...] = (1, 2)
    """Batch sizes tried where the batch dimension is free."""
    float64: bool = True
    """Evaluate the graph in float64 and express every error as a multiple of the source's own."""
    layers: bool = True
    """Compare layer by layer on one input: mean, variance, error over depth, and pictures for the report."""
    gate: GateConfig = GateConfig()


ScenarioName = Literal["single_stream", "multi_stream", "offline", "server"]


class ScenarioConfig(_Frozen):
    """A load to put on, with LoadGen's names."""

    name: ScenarioName
    """`single_stream`, `multi_stream`, `offline` or `server`."""
    sessions: Positive = 1
    """Concurrent sessions, each with its own threads."""
    queries: Positive = 1000
    """Queries sent (batches, in the offline scenario); fewer where the benchmark's time would not do."""
    streams: Positive = 8
    """Samples of one multi_stream query."""
    rate_per_s: Annotated[float, Field(gt=0)] | None = None
    """Queries a second offered to a server; left empty, half of what its sessions can do, at most 2,000."""
    bound_ms: Annotated[float, Field(gt=0)] | None = None
    """Bound on a server's 99th percentile; where given, the highest rate that keeps it is searched."""
    seed: Seed = 0
    """Seed of the random arrivals."""


class TuneConfig(_Frozen):
    """The settings to race against each other, and for how long."""

    budget_s: Annotated[float, Field(gt=0)] = 60.0
    """Time for everything: variants of the graph, race, and the final comparison."""
    batch: Positive = 1
    """Batch size at which candidates race."""
    runtimes: tuple[Literal["onnxruntime", "openvino", "cuda"], ...] = ("onnxruntime", "openvino", "cuda")
    """On the CPU `onnxruntime`, `openvino`; on a GPU `cuda`. What is not there is left out and named."""
    threads: tuple[Positive, ...] = ()
    """Numbers of threads; left empty: one, two, four, … up to the usable CPUs."""
    allow_spinning: tuple[bool, ...] = (False, True)
    """Whether threads spin while they wait, with more than one thread."""
    optimization: tuple[Literal["basic", "extended", "all"], ...] = ("all", "extended")
    """ONNX Runtime's graph optimisation; only `all` blocks the layout of convolutions."""
    io_binding: tuple[bool, ...] = (False, True)
    """Inputs and outputs in buffers bound once (ONNX Runtime)."""
    layout: tuple[Literal["NCHW", "NHWC"], ...] = ("NCHW", "NHWC")
    """Layouts that the CUDA provider prefers for convolutions."""
    tf32: tuple[bool, ...] = (False, True)
    """Whether float32 products may be rounded to TF32 on the GPU; parity decides whether that is the same."""
    cuda_graph: tuple[bool, ...] = (False, True)
    """Replay a captured CUDA graph, with buffers bound once, where the shapes of all inputs are fixed."""
    recipes: tuple[str, ...] = ("fast",)
    """Further variants of the graph, from the optimiser, beside the converted and the optimised one."""
    precision: Annotated[float, Field(gt=0)] = 0.01
    """Candidates that are this close, relatively, count as equally good."""


class BenchmarkConfig(_Frozen):
    """What is timed, and how long."""

    contenders: tuple[Literal["source", "raw", "optimized"], ...] = ("source", "raw", "optimized")
    """Source framework, converted model, optimised model; interleaved in one run."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the models run."""
    batch: tuple[Positive, ...] = (1,)
    """Batch sizes."""
    threads: Positive | Annotated[tuple[Positive, ...], Field(min_length=1)] = 1
    """Intra-op threads of every contender; a list sweeps over them."""
    allow_spinning: bool = False
    """Let runtime threads spin while they wait; costs others on a shared machine."""
    min_duration_s: Annotated[float, Field(ge=0)] = 2.0
    """Least measured time per contender and batch size."""
    max_duration_s: Annotated[float, Field(gt=0)] = 30.0
    """Give up waiting for stability after this."""
    min_samples: Annotated[int, Field(ge=5)] = 100
    """Least number of timed runs per contender and batch size."""
    seed: Seed = 0
    """Seed of the random order of contenders and of the inputs."""
    scenarios: tuple[ScenarioName | ScenarioConfig, ...] = ()
    """Loads to put on each ONNX contender after the latencies."""
    profile: bool = True
    """Profile each ONNX contender node by node, and prove where every node ran."""
    roofline: bool = True
    """Measure this machine's peaks and how near each node comes to them."""
    allow_cpu_fallback: bool = False
    """Accept nodes that ran on the CPU in a CUDA run; without it that is an error."""
    tune: TuneConfig | None = None
    """Race settings for the fastest that is still the same model; they go into the bundle."""

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """Numbers of threads in the order given, each once."""
        given = (self.threads,) if isinstance(self.threads, int) else self.threads
        return tuple(dict.fromkeys(given))

    @property
    def loads(self) -> tuple[ScenarioConfig, ...]:
        """The scenarios, those given by name alone with their defaults."""
        return tuple(
            one if isinstance(one, ScenarioConfig) else ScenarioConfig(name=one) for one in self.scenarios
        )


class TargetConfig(_Frozen):
    """A place where the model shall run."""

    name: str
    """A name from `fairlead targets`."""
    options: dict[str, str | int | float | bool] = {}
    """Options of that target."""


class BundleConfig(_Frozen):
    """What every bundle carries besides the model."""

    licence: str | None = None
    """The model's licence, an SPDX expression such as `Apache-2.0`; without it the bundle says "unknown"."""
    signing_key: str | None = None
    """Private elliptic-curve key (PEM) to sign with; `fairlead verify --public-key` checks the signature."""


class ReportConfig(_Frozen):
    """The report."""

    title: str | None = None
    """Title of the page; default: the run's name."""
    html: bool = True
    """Write report.html."""
    markdown: bool = True
    """Write report.md."""


class Config(_Frozen):
    """A whole run: model -> convert -> optimize -> parity -> benchmark -> export -> report."""

    version: Literal[1] = 1
    """Version of this format."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name of the run; names its output folder."""
    description: str = ""
    """A sentence for the report and the bundle."""
    model: ModelConfig
    data: DataConfig = DataConfig()
    optimize: OptimizeConfig = OptimizeConfig()
    parity: ParityConfig = ParityConfig()
    benchmark: BenchmarkConfig | None = BenchmarkConfig()
    """`null` skips the benchmark."""
    targets: tuple[TargetConfig, ...] = (TargetConfig(name="onnxruntime"),)
    bundle: BundleConfig = BundleConfig()
    report: ReportConfig = ReportConfig()
    out: str = "runs"
    """Folder for results, relative to the working directory."""
    store: str = ".fairlead/store"
    """Folder of the content-addressed store, relative to the working directory."""

    base: Path = Field(default=Path(), exclude=True, repr=False)
    """Folder of the config file; paths in it are relative to this. Set by the loader."""

    @model_validator(mode="after")
    def _labels_need_data(self) -> Config:
        if self.data.labels is not None and self.data.path is None:
            raise ValueError("data.labels names a key, but data.path is not set")
        if self.parity.gate.min_accuracy is not None and self.data.labels is None:
            raise ValueError("parity.gate.min_accuracy needs data.labels")
        return self

    def resolve(self, path: str) -> Path:
        """A path of the config as the file system knows it."""
        given = Path(path).expanduser()
        return given if given.is_absolute() else self.base / given


def json_schema() -> dict[str, Any]:
    """The published JSON schema of a config file: the model above, plus the loader's ``extends``."""
    schema = Config.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "fairlead config"
    properties = schema["properties"]
    del properties["base"]
    path = {"type": "string"}
    properties["extends"] = {
        "anyOf": [path, {"type": "array", "items": path}],
        "description": "Config files to start from, relative to this one; later ones and this file win.",
    }
    # A file that extends another may leave the required keys to it.
    schema["anyOf"] = [{"required": schema.pop("required")}, {"required": ["extends"]}]
    return schema
