"""Versioned JSON records: what each stage found, as it stands on disk and comes out of ``--json``.

Latencies are in milliseconds, sizes in bytes, durations in seconds unless the name says otherwise.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, ConfigDict, Field

from optim.contract import Numerics
from pipeline.bench.records import BenchComparison, BenchmarkRecord, BenchResult, Grade, Percentile
from pipeline.record import Real, Record
from targets.contract import State

RECORD_VERSION = 1

# Moved to where they belong; this module stays the one place that all records are imported from.
__all__ = ["BenchComparison", "BenchResult", "BenchmarkRecord", "Grade", "Percentile", "Real", "Record"]


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

    @property
    def idle(self) -> bool:
        """Whether the pass found nothing at all: no site, nothing that it refused or took back."""
        return self.certificate is None and not (self.sites or self.refusals or self.rolled_back)


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


class WorstElement(Record):
    """One element of an output."""

    index: tuple[int, ...]
    reference: Real
    got: Real


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
    worst: tuple[WorstElement, ...] = ()  # the elements farthest apart, worst first


class AccuracyRecord(Record):
    contender: str
    examples: int
    accuracy: float | None
    top1_agreement: float | None  # with the source
    top5_agreement: float | None = None  # share of the source's five first classes among the contender's


class DivergenceRecord(Record):
    node: str
    tensor: str
    cause: str
    detail: str = ""
    feed: str = ""
    folder: str = ""  # of the smallest models that show it, their input and a script


class Moments(Record):
    """Mean and population variance of a tensor."""

    mean: Real
    variance: Real


class LayerStudyRow(Record):
    """One source layer on every side: ``source``, ``converted``, ``optimized``, those that show it."""

    layer: str
    op: str
    tensor_before: str
    tensor_after: str  # empty where the layer was merged into the next
    shape: tuple[int, ...]  # of the converted model's tensor
    moments: dict[str, Moments]  # by side
    errors: dict[str, Real]  # by side: max|Δ| / range against the float64 run of the converted graph
    source_vs_converted: Metrics | None = None
    before_vs_after: Metrics | None = None
    digits: tuple[str, ...] = ()  # means and variances that print otherwise, and why
    note: str = ""


class SourceTruthRecord(Record):
    """The source in its own framework and the converted graph, both in float64."""

    state: Literal["exact", "within_rounding", "apart", "not_evaluated"]
    max_abs_over_range: Real | None = None  # between the two float64 runs, at its worst
    source_rounding: Real | None = None  # of the source's own float32 run, likewise
    feed: str = ""  # where it is worst
    feeds: tuple[str, ...] = ()  # all that were evaluated
    reason: str = ""  # why it was not evaluated
    seconds: float


class ParityRecord(Record):
    stage: Literal["parity"] = "parity"
    status: Literal["ok", "gate_not_met"] = "ok"
    passed: bool
    gate: dict[str, float | None]
    comparisons: tuple[ComparisonRecord, ...]
    accuracy: tuple[AccuracyRecord, ...]
    metrics: Metrics  # of the worst comparison
    source_float64: SourceTruthRecord | None = None  # None: no float64 was asked for
    first_divergence: DivergenceRecord | None = None
    runtime_settings: dict[str, str]
    notices: tuple[str, ...] = ()  # what the user should know although nothing failed
    layers: tuple[LayerStudyRow, ...] = ()
    layers_feed: str = ""  # the input that the layers were compared on
    reasons: tuple[str, ...] = ()  # bounds missed beside those of single comparisons: accuracy, agreement
    seconds: float


class GoldenTensor(Record):
    """One array of a golden file; ``key``: OutputForZeros, RandomInput or OutputForRandom."""

    key: str
    name: str
    dtype: str
    shape: tuple[int, ...]


class GoldenRecord(Record):
    """What ``record`` wrote."""

    status: Literal["ok"] = "ok"
    output: str
    model: str
    seed: int
    tensors: tuple[GoldenTensor, ...]


# --- export --------------------------------------------------------------------------------------


class LayerCheckRow(Record):
    """One layer in the source framework and in the target, on the same examples."""

    layer: str
    target_layer: str
    shape: tuple[int, ...]  # of one example
    mean_source: Real
    mean_target: Real
    variance_source: Real
    variance_target: Real
    same_digits: bool  # both print alike with two decimals
    max_abs_over_range: Real


class PredictionRow(Record):
    """The class that each side names for one example, with its value."""

    source: str
    source_value: Real
    target: str
    target_value: Real


class TargetLayerRecord(Record):
    """A layer in the target's own words."""

    name: str
    op: str
    tensor: str  # the ONNX tensor that it computes
    weights: tuple[tuple[str, tuple[int, ...]], ...] = ()
    axes: tuple[tuple[int, ...] | None, ...] = ()
    """For each weight: the order in which the source's axes stand; None where the shapes leave doubt."""
    padding: str = ""


class LayerPlaceRecord(Record):
    """A source layer and the target's layers that carry it; none where it was merged into another."""

    layer: str
    target: tuple[TargetLayerRecord, ...]


class BundleRecord(Record):
    stage: Literal["export"] = "export"
    status: Literal["ok", "gate_not_met", "unsupported", "failed", "not_executed"] = "ok"
    """``not_executed``: a verification that lacked a runtime it needs; an export is ok without."""
    target: str
    state: State
    path: str
    artefacts: tuple[str, ...]
    max_abs_over_range: Real | None
    snr_db: Real | None
    error: Real | None = None  # max|error| / range of the artefact against float64
    source_error: Real | None = None  # of the source framework, on the same references
    error_multiple: Real | None = None  # the one as a multiple of the other
    reasons: tuple[str, ...] = ()
    not_executed: tuple[str, ...] = ()  # models of the artefact without a runtime here, and why
    hint: str = ""  # what brings the runtime that a verification lacked
    notes: tuple[str, ...] = ()  # what the target wants known, such as what it was calibrated on
    layer_map: tuple[LayerPlaceRecord, ...] = ()  # where the target's format names its layers
    layers: tuple[LayerCheckRow, ...] = ()  # where the target's option `layer_checks` asks for it
    predictions: tuple[PredictionRow, ...] = ()
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
    error_multiple: Real | None = None  # worst error against float64 over the source's own worst


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
