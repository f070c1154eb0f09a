"""What a benchmark found, as it stands on disk and comes out of ``--json``.

Latencies are in milliseconds, times of single nodes in microseconds, sizes in bytes or MiB as named.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pipeline.bench.contender import Contender
from pipeline.config import ScenarioConfig
from pipeline.record import Real, Record

Verdict: TypeAlias = Literal["faster", "slower", "no_difference_shown"]

# --- latency -------------------------------------------------------------------------------------


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
    """One contender at one batch size and number of threads."""

    model: str
    contender: str
    device: str
    batch: int
    threads: int
    latency_ms: float  # median
    interval_ms: tuple[float, float]  # 95 % order-statistic interval of the median, widened by the processes
    percentiles: tuple[Percentile, ...]
    samples: int
    raw_ms: tuple[float, ...]
    session_creation_ms: float
    first_run_ms: float
    throughput_per_s: float
    peak_rss_mib: float  # the greatest of the processes
    peak_rss_interval_mib: tuple[float, float] | None = None  # least and greatest over the processes
    file_bytes: int
    processes: int = 1
    warmup_runs: int
    stable: bool
    grade: Grade


class BenchComparison(Record):
    """Contender b against contender a, measured in the same rounds."""

    a: str
    b: str
    device: str
    batch: int
    verdict: Verdict  # of b against a
    ratio: float  # latency b / latency a
    interval: tuple[float, float]
    confidence: float = 0.98  # of the interval
    a_a_ratio_interval: tuple[float, float] | None = None


# --- where the time goes -------------------------------------------------------------------------


class NodeProfile(Record):
    """One node of the graph as it ran."""

    node: str
    op: str
    provider: str
    median_us: float
    share: float  # of the sum over all nodes
    output_shapes: tuple[tuple[int, ...], ...]


class OpProfile(Record):
    """All nodes of one operator."""

    op: str
    nodes: int
    median_us: float  # sum of the nodes' medians
    share: float


class ProfileRecord(Record):
    """A profile of steady runs. Times are what the profiler saw, its own cost included: use the shares."""

    runs: int
    run_us: float  # median of a whole run
    nodes_us: float  # sum of the nodes' medians
    outside_us: float  # of a run, outside the kernels: scheduling, allocation, the profiler itself
    nodes: tuple[NodeProfile, ...]  # slowest first
    ops: tuple[OpProfile, ...]  # slowest first
    layout_nodes: int  # nodes that only move data
    layout_share: float
    reorders: int  # of those, changes between plain and blocked layout that the runtime put in
    note: str = ""  # what the times are not


class PlacedNode(Record):
    """One executed node."""

    node: str
    op: str
    provider: str


class PlacementRecord(Record):
    """Where every executed node ran."""

    wanted: str
    nodes: tuple[PlacedNode, ...]
    elsewhere: tuple[PlacedNode, ...]  # ran under another provider than wanted
    copies: int  # between host and device, put in by the runtime

    @property
    def proved(self) -> bool:
        """Every executed node ran where it was wanted."""
        return not self.elsewhere


class Peaks(Record):
    """What this machine reached in this measurement, with so many threads."""

    threads: int
    gflop_per_s: float  # float32 matrix product
    gbyte_per_s: float  # read and write of arrays beyond the caches


class NodeRoofline(Record):
    """One node against its limit."""

    node: str
    op: str
    operations: int
    bytes: int
    median_us: float
    limit_us: float
    bound: Literal["compute", "memory"]
    share_of_limit: float  # limit / measured; above 1 where the caches served it


class RooflineRecord(Record):
    """A model against the machine's limits."""

    peaks: Peaks
    operations: int
    least_bytes: int  # of the whole graph if nothing but weights, inputs and outputs touched memory
    limit_us: float  # sum of the nodes' limits
    measured_us: float  # sum of the nodes' medians
    share_of_limit: float
    note: str  # empty, or why the shares must not be believed
    nodes: tuple[NodeRoofline, ...]  # those with most time to win first


class DissectionRecord(Record):
    """One model taken apart, node by node; ``failed`` says why it could not be, and then the rest is None."""

    contender: str
    device: str
    batch: int
    threads: int
    profile: ProfileRecord | None = None
    placement: PlacementRecord | None = None
    roofline: RooflineRecord | None = None
    failed: str = ""


# --- scenarios -----------------------------------------------------------------------------------


class ScenarioRecord(Record):
    """What came out. ``valid`` tells whether the scenario's own conditions held; ``reasons`` why not."""

    stage: Literal["scenario"] = "scenario"
    contender: str
    device: str
    scenario: ScenarioConfig
    batch: int
    queries: int
    median: Percentile
    tail: Percentile  # the scenario's own percentile
    throughput_per_s: float  # examples done per second of work
    throughput_interval_per_s: tuple[float, float] | None = None  # offline: of its repeats' median
    highest_rate_per_s: float | None = None  # of a server, where a bound was given; 0: not even the least
    raw_ms: tuple[float, ...]  # a query each; for offline the whole, a repeat each
    valid: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what bounded the load, where that was not the config
    grade: Grade | None = None  # None: measured before scenarios were graded


# --- tuning --------------------------------------------------------------------------------------


class Dropped(Record):
    """A candidate that left the race."""

    name: str
    stage: int  # 0: before the race
    reason: str
    ratio: float | None = None  # to the leader of its heat
    interval: tuple[float, float] | None = None


class Raced(Record):
    """A candidate, what it came to, and how far it is from the source."""

    contender: Contender
    latency_ms: float | None = None  # as last measured in the race; None: it never ran
    error: Real | None = None  # max|Δ| / range on the references; None: not compared
    stages: int = 0  # it took part in


class TunedChoice(Record):
    """The best settings of one runtime, measured against the default in fresh processes after the race."""

    runtime: Literal["onnxruntime", "openvino", "cuda"]  # cuda: ONNX Runtime on the GPU
    contender: Contender
    recipe: str
    latency_ms: float
    interval_ms: tuple[float, float]  # to expect on this machine
    ratio: float  # to the default
    ratio_interval: tuple[float, float]
    verdict: Verdict


class TuneRecord(Record):
    """What the race found."""

    stage: Literal["tune"] = "tune"
    status: Literal["ok"] = "ok"
    default: str
    batch: int
    winner: TunedChoice
    choices: tuple[TunedChoice, ...]  # one a runtime, the winner among them
    undecided: tuple[str, ...]  # not shown to be slower than the winner of their runtime
    dropped: tuple[Dropped, ...]
    raced: tuple[Raced, ...]
    stages: int
    seconds: float
    budget_s: float
    out_of_time: bool
    host: str  # fingerprint

    def choice_for(self, runtime: str) -> TunedChoice | None:
        """The best settings of a runtime, if it took part."""
        return next((one for one in self.choices if one.runtime == runtime), None)


class ExpectationRecord(Record):
    """A bundle's latency against the interval in its manifest."""

    contender: str
    expected_ms: float
    expected_interval_ms: tuple[float, float]
    latency_ms: float
    interval_ms: tuple[float, float]
    verdict: Literal["as_expected", "faster", "slower", "not_comparable"]
    reason: str = ""  # why not comparable


# --- CUDA ----------------------------------------------------------------------------------------


class CudaSettings(Record):
    """One cell of the matrix."""

    tf32: bool = False  # stated always: the runtime's own default is on
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    graph: bool = False  # replay a captured CUDA graph
    bound: bool = True  # inputs and outputs stay on the device; False: session.run on NumPy arrays
    precision: Literal["fp32", "fp16"] = "fp32"  # of the model file
    runtime: Literal["onnxruntime", "tensorrt", "torch.compile"] = "onnxruntime"
    stock: bool = False  # the package as it installs: no options stated, so TF32 on
    cpu_fallback: bool = False  # nodes that the GPU cannot run may run on the CPU

    @property
    def title(self) -> str:
        if self.stock:
            return f"{self.precision}, session.run as installed"
        if self.runtime == "torch.compile":
            return f"{self.precision}, torch.compile with CUDA graphs"
        parts = [self.precision, "TF32" if self.tf32 else "TF32 off", self.layout]
        parts += ["graph"] if self.graph else []
        parts += ["TensorRT"] if self.runtime == "tensorrt" else []
        return ", ".join([*parts, "bound" if self.bound else "plain session.run"])


class Timing(Record):
    """A median with its interval, in milliseconds, and every sample."""

    median_ms: float
    interval_ms: tuple[float, float] | None
    samples: int
    raw_ms: tuple[float, ...] = ()


class CudaResult(Record):
    """One model, precision, batch and cell. None: not measured in this cell; never zero in its place."""

    model: str
    batch: int
    settings: CudaSettings
    session_creation_ms: float
    first_run_ms: float
    gpu: Timing | None = None  # by events round the run on its own stream
    host: Timing  # until the results are there, on the host's clock
    host_to_device_pageable: Timing | None = None
    host_to_device_pinned: Timing | None = None
    device_to_host: Timing | None = None
    # From NumPy arrays to NumPy arrays on the host's clock, measured as a whole.
    end_to_end_pageable: Timing | None = None
    end_to_end_pinned: Timing | None = None  # the arrays lie in page-locked memory
    input_sets: int  # rotated
    beyond_l2: bool = True  # all sets together are twice the L2 cache or more
    warmup_runs: int = 0
    device_memory_mib: float
    energy_mj: float | None = None  # per inference call
    energy_note: str = ""
    error: float | None = None  # max|Δ| / range from the CPU's answer; None: not compared in this cell
    grade: Grade | None = None

    @property
    def end_to_end_pageable_ms(self) -> float | None:
        """The median."""
        return None if self.end_to_end_pageable is None else self.end_to_end_pageable.median_ms

    @property
    def end_to_end_pinned_ms(self) -> float | None:
        """The median."""
        return None if self.end_to_end_pinned is None else self.end_to_end_pinned.median_ms


class LaunchGap(Record):
    """What launching kernels one by one costs: GPU time without the graph less GPU time with it."""

    model: str = ""
    batch: int
    precision: str = "fp32"
    tf32: bool
    layout: str
    gap_ms: float


class CudaComparison(Record):
    """A cell against what ``session.run`` on NumPy arrays gives as the package installs, on the same inputs.

    The cells ran one after the other, in random order: the grades tell whether the GPU was the same all
    along.
    """

    model: str = ""
    batch: int
    settings: CudaSettings
    figure: Literal["inputs on the device", "from NumPy arrays"]
    ratio: float  # the cell's latency / session.run's
    interval: tuple[float, float] | None  # None: too few samples for one
    verdict: Verdict


class CudaRecord(Record):
    """A matrix, or the plain statement that it was not measured."""

    stage: Literal["cuda"] = "cuda"
    status: Literal["measured", "not measured"]
    reason: str = ""  # why not measured
    device: str = ""
    results: tuple[CudaResult, ...] = ()
    launch_gaps: tuple[LaunchGap, ...] = ()
    comparisons: tuple[CudaComparison, ...] = ()  # with session.run as installed
    failed: tuple[str, ...] = ()  # cells that could not run, with the runtime's words


# --- the whole -----------------------------------------------------------------------------------


class BenchmarkRecord(Record):
    """All that was measured."""

    stage: Literal["benchmark"] = "benchmark"
    status: Literal["ok"] = "ok"
    results: tuple[BenchResult, ...]
    comparisons: tuple[BenchComparison, ...]
    host: dict[str, Any]
    skipped: tuple[str, ...] = ()
    dissections: tuple[DissectionRecord, ...] = ()
    scenarios: tuple[ScenarioRecord, ...] = ()
    tune: TuneRecord | None = None
    expectations: tuple[ExpectationRecord, ...] = ()
    cuda: CudaRecord | None = None
    seconds: float
