"""Versioned JSON records: what each stage found, as it stands on disk and comes out of ``--json``.

Latencies are in milliseconds, sizes in bytes, durations in seconds unless the name says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from optim.contract import Numerics
from targets.contract import State

RECORD_VERSION = 1


def _float_in(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _float_out(value: float) -> float | str:
    """Strict JSON has no Infinity: an exact match's SNR is written as the string "inf"."""
    return value if value - value == 0 else str(value)


Real = Annotated[float, BeforeValidator(_float_in), PlainSerializer(_float_out, when_used="json")]


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Tensor(Record):
    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


# --- convert -------------------------------------------------------------------------------------


class FrozenInput(Record):
    name: str
    value: str
    why: str


class LayerRecord(Record):
    """A source layer and where it went."""

    name: str
    op: str
    outputs: tuple[str, ...]
    output_shape: tuple[int | None, ...]
    parameters: int
    weights: tuple[tuple[str, tuple[int, ...]], ...] = ()
    padding: str = ""
    inbound: tuple[str, ...] = ()


class SourceParityRecord(Record):
    feed: str
    output: str
    max_abs_over_range: Real
    snr_db: Real
    passed: bool


class ConvertRecord(Record):
    stage: Literal["convert"] = "convert"
    status: Literal["ok"] = "ok"
    output: str
    source_format: str
    framework: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    frozen: tuple[FrozenInput, ...]
    notes: tuple[str, ...]
    layers: tuple[LayerRecord, ...]
    parity: tuple[SourceParityRecord, ...]
    opset: int
    nodes: int
    weight_bytes: int
    sha256: str
    stage_seconds: dict[str, float]
    seconds: float
    peak_rss_mib: float


# --- optimize ------------------------------------------------------------------------------------


class RefusalRecord(Record):
    site: str
    reason: str


class RollbackRecord(Record):
    site: str
    measured: Real
    bound: float
    feed: str


class CertificateRecord(Record):
    feeds: tuple[str, ...]
    max_abs_over_range: Real
    snr_db: Real
    bound: float
    passed: bool


class LedgerLine(Record):
    """One pass of a recipe. Written to JSON with the key ``pass``."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    name: str = Field(validation_alias=AliasChoices("pass", "name"), serialization_alias="pass")
    why: str
    numerics: Numerics
    sites: int
    site_names: tuple[str, ...]
    refusals: tuple[RefusalRecord, ...]
    rolled_back: tuple[RollbackRecord, ...]
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    certificate: CertificateRecord | None
    seconds: float
    certificate_seconds: float


class OptimizeRecord(Record):
    stage: Literal["optimize"] = "optimize"
    status: Literal["ok"] = "ok"
    output: str
    recipe: str
    ledger: tuple[LedgerLine, ...]
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    ops_before: dict[str, int]
    ops_after: dict[str, int]
    sha256: str
    seconds: float


# --- parity --------------------------------------------------------------------------------------


class Metrics(Record):
    """Difference of one output tensor from its reference."""

    max_abs: Real
    max_abs_over_range: Real
    rms: Real
    snr_db: Real
    cosine: Real
    median_ulp: Real
    max_relative_clipped: Real
    """MaxRelativeDifference with the denominator clipped at 1e-8."""
    nan_count: int
    inf_count: int
    elements: int


class ComparisonRecord(Record):
    """One output on one input, one question."""

    question: Literal["source_vs_converted", "before_vs_after", "reference_vs_artefact"]
    a: str
    b: str
    feed: str
    output: str
    metrics: Metrics
    source_error: Real | None = None  # max|source - float64| / range
    b_error: Real | None = None  # max|b - float64| / range
    passed: bool
    reasons: tuple[str, ...] = ()


class AccuracyRecord(Record):
    contender: str
    examples: int
    accuracy: float | None
    top1_agreement: float | None  # with the source


class DivergenceRecord(Record):
    node: str
    tensor: str
    cause: str


class ParityRecord(Record):
    stage: Literal["parity"] = "parity"
    status: Literal["ok", "gate_not_met"] = "ok"
    passed: bool
    gate: dict[str, float | None]
    comparisons: tuple[ComparisonRecord, ...]
    accuracy: tuple[AccuracyRecord, ...]
    metrics: Metrics  # of the worst comparison
    first_divergence: DivergenceRecord | None = None
    runtime_settings: dict[str, str]
    notices: tuple[str, ...] = ()  # what the user should know although nothing failed
    reasons: tuple[str, ...] = ()  # bounds missed beside those of single comparisons: accuracy, agreement
    seconds: float


# --- benchmark -----------------------------------------------------------------------------------


class Grade(Record):
    """How far a measurement can be trusted."""

    letter: Literal["A", "B", "C", "D"]
    reasons: tuple[str, ...]


class Percentile(Record):
    """A percentile with its order-statistic interval, or how many samples are missing for it."""

    p: float
    value_ms: float | None
    interval_ms: tuple[float, float] | None
    samples_needed: int


class BenchResult(Record):
    model: str
    contender: str
    device: str
    batch: int
    threads: int
    latency_ms: float  # median
    interval_ms: tuple[float, float]  # 95 % order-statistic interval of the median
    percentiles: tuple[Percentile, ...]
    samples: int
    raw_ms: tuple[float, ...]
    session_creation_ms: float
    first_run_ms: float
    throughput_per_s: float
    peak_rss_mib: float
    file_bytes: int
    warmup_runs: int
    stable: bool
    grade: Grade


class BenchComparison(Record):
    a: str
    b: str
    device: str
    batch: int
    verdict: Literal["faster", "slower", "no_difference_shown"]  # of b against a
    ratio: float  # latency b / latency a
    interval: tuple[float, float]
    a_a_ratio_interval: tuple[float, float] | None = None


class BenchmarkRecord(Record):
    stage: Literal["benchmark"] = "benchmark"
    status: Literal["ok"] = "ok"
    results: tuple[BenchResult, ...]
    comparisons: tuple[BenchComparison, ...]
    host: dict[str, Any]
    skipped: tuple[str, ...] = ()
    seconds: float


# --- export --------------------------------------------------------------------------------------


class BundleRecord(Record):
    stage: Literal["export"] = "export"
    status: Literal["ok", "gate_not_met", "unsupported", "failed"] = "ok"
    target: str
    state: State
    path: str
    artefacts: tuple[str, ...]
    max_abs_over_range: Real | None
    snr_db: Real | None
    reasons: tuple[str, ...] = ()
    seconds: float


# --- run -----------------------------------------------------------------------------------------


class StepRecord(Record):
    """One step of the plan and whether the store already had it."""

    name: str
    key: str
    cached: bool
    reason: str  # why it ran
    seconds: float


class ParitySummary(Record):
    question: str
    passed: bool
    worst_max_abs_over_range: Real
    worst_snr_db: Real


class RunRecord(Record):
    version: Literal[1] = RECORD_VERSION  # type: ignore[assignment]
    status: Literal["ok", "gate_not_met"]
    name: str
    started: str  # ISO 8601, UTC
    seconds: float
    steps: tuple[StepRecord, ...]
    convert: ConvertRecord
    optimize: OptimizeRecord
    parity_detail: ParityRecord
    parity: tuple[ParitySummary, ...]
    benchmark: BenchmarkRecord | None
    bundles: tuple[BundleRecord, ...]
    environment: dict[str, Any]
    config: dict[str, Any]
    out: str
    report: str
