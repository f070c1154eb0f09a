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


class ReadRate(Record):
    """How fast a working set of this size is read again and again: caches serve the small ones."""

    bytes: int
    gbyte_per_s: float


class Peaks(Record):
    """What this machine reached in this measurement, with so many threads."""

    threads: int
    gflop_per_s: float  # float32 matrix product, the best of several sizes and libraries
    gbyte_per_s: float  # arrays beyond the caches
    cached: tuple[ReadRate, ...] = ()  # ascending sizes, no rate above the one before

    def gbyte_per_s_of(self, working_set: int) -> float:
        """Rate at which ``working_set`` bytes can be read, each time anew: the next smaller size's."""
        held = [one.gbyte_per_s for one in self.cached if one.bytes <= working_set]
        fastest = [one.gbyte_per_s for one in self.cached[:1]]
        return max(self.gbyte_per_s, *(held[-1:] or fastest or [0.0]))


class NodeRoofline(Record):
    """One node against its limit."""

    node: str
    op: str
    operations: int
    bytes: int
    weight_bytes: int = 0  # of these
    median_us: float
    limit_us: float
    bound: Literal["compute", "memory"]
    share_of_limit: float  # limit / measured


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

    # Stated always: the runtime's own default is on. On for fp16 too: with it off, ONNX Runtime passes over
    # every convolution plan that uses tensor cores, those for float16 among them.
    tf32: bool = False
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
        numbers = "fp16" if self.precision == "fp16" else "fp32, TF32" if self.tf32 else "fp32, TF32 off"
        parts = [numbers, self.layout]
        parts += ["graph"] if self.graph else []
        parts += ["TensorRT"] if self.runtime == "tensorrt" else []
        return ", ".join([*parts, "bound" if self.bound else "plain session.run"])


class Timing(Record):
    """A median with its interval, in milliseconds, and every sample."""

    median_ms: float
    interval_ms: tuple[float, float] | None
    samples: int
    raw_ms: tuple[float, ...] = ()
    rounds: int = 0  # the samples are so many blocks of equal size, a round each; 0: not taken in rounds


class CudaPeaks(Record):
    """What this GPU reached through ONNX Runtime itself, the best of several sizes; None: not measured."""

    fp32_tflop_per_s: float | None = None  # matrix product with TF32 off in the whole process
    tf32_tflop_per_s: float | None = None
    fp16_tflop_per_s: float | None = None
    gbyte_per_s: float | None = None  # an elementwise node beyond the L2 cache, bytes read and written
    l2_bytes: int = 0
    failed: tuple[str, ...] = ()


class CudaLimit(Record):
    """A cell against what the GPU could do at best with the whole model: no run can be quicker.

    Operations are those of convolutions and matrix products, a multiply-add two; bytes are weights, inputs
    and outputs, once each. What lies between the nodes may stay on the chip, so it is not counted.
    """

    operations: int
    least_bytes: int
    limit_us: float
    bound: Literal["compute", "memory"]
    share_of_limit: float  # limit / measured
    note: str = ""


class CudaResult(Record):
    """One model, precision, batch and cell. None: not measured in this cell; never zero in its place.

    Cells that differ only in how they are called (``bound``) share a session, and so its creation, its first
    run and its memory.
    """

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
    beyond_l2: bool = True  # between two uses of a set, twice the L2 cache or more is read
    warmup_runs: int = 0
    # That the session took beside its inputs: at this batch size and the smaller ones that it ran before.
    device_memory_mib: float
    energy_mj: float | None = None  # per inference call
    energy_note: str = ""
    error: float | None = None  # max|Δ| / range from the CPU's answer; None: not compared in this cell
    heat: str = ""  # whose rounds it was measured in, see CudaHeat
    limit: CudaLimit | None = None
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


class CudaHeat(Record):
    """Cells that were measured together: sessions open at the same time, in rounds, in random order.

    In each round every cell has one short block, so that drift hits all. ``session.run`` as installed takes
    part twice, in two sessions: their ratio should be 1, and what it is instead calibrates the verdicts.
    """

    name: str
    model: str
    batch: int
    cells: int  # beside the baseline
    rounds: int
    baseline: CudaSettings | None  # None: it could not run
    baseline_ms: Timing | None = None
    twin_ms: Timing | None = None  # the same in another session, new in each heat
    a_a_ratio: float | None = None  # twin / baseline
    a_a_interval: tuple[float, float] | None = None


class CudaComparison(Record):
    """A cell against what ``session.run`` on NumPy arrays gives as the package installs, on the same inputs.

    Paired by round: both had a block in each. The interval joins what rounds differ by (signed-rank) and
    what sessions of the same model differ by (Student's t, from all pairs of baselines in the record).
    float16 is compared with the float32 file that the user had, where there is one.
    """

    model: str = ""
    batch: int
    settings: CudaSettings
    baseline: CudaSettings
    figure: Literal["inputs on the device", "from NumPy arrays", "from page-locked NumPy arrays"]
    ratio: float  # the cell's latency / session.run's
    interval: tuple[float, float]
    confidence: float
    rounds: int
    a_a_interval: tuple[float, float] | None  # of the same heat; None: the verdict is not calibrated
    verdict: Verdict


class CudaRecord(Record):
    """A matrix, or the plain statement that it was not measured."""

    stage: Literal["cuda"] = "cuda"
    status: Literal["measured", "not measured"]
    reason: str = ""  # why not measured
    device: str = ""
    results: tuple[CudaResult, ...] = ()
    launch_gaps: tuple[LaunchGap, ...] = ()
    heats: tuple[CudaHeat, ...] = ()
    comparisons: tuple[CudaComparison, ...] = ()  # with session.run as installed, in the same heat
    peaks: CudaPeaks | None = None
    # Of one node no limit is drawn: its time on the GPU is not known here.
    nodes: str = (
        "not measured: ONNX Runtime's package is built without CUPTI, so that its profile holds what nodes "
        "take to launch, not what they take to run"
    )
    failed: tuple[str, ...] = ()  # cells that could not run, with the runtime's words; or were not reached


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
