"""Profile, placement and roofline: from made-up events with known answers, and from one real model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from optim.errors import GateNotMetError, UnsupportedModelError, UserError
from pipeline.bench.contender import Contender
from pipeline.bench.placement import placement, require_placement
from pipeline.bench.profile import profile
from pipeline.bench.records import Peaks, ReadRate
from pipeline.bench.roofline import least_bytes, measure_peaks, operations, roofline
from pipeline.bench.trace import CPU, NodeEvent, Trace, read_events, trace
from tests.bench.models import chain, feeds

CUDA = "CUDAExecutionProvider"


TRANSPOSED = ((1, 3, 5, 5),), ((1, 8, 9, 9),)


def event(node: str, op: str, us: float, *, provider: str = CPU, index: int = 0, **shapes: Any) -> NodeEvent:
    return NodeEvent(
        node=node,
        op=op,
        provider=provider,
        microseconds=us,
        input_shapes=shapes.get("inputs", ((1, 4),)),
        output_shapes=shapes.get("outputs", ((1, 4),)),
        output_dtypes=(shapes.get("dtype", "float"),),
        index=index,
    )


def three_runs(*nodes: NodeEvent) -> Trace:
    return Trace(events=(nodes, nodes, nodes), run_microseconds=(120.0, 100.0, 110.0))


def raw(name: str, ts: int, dur: int, **args: Any) -> dict[str, Any]:
    return {"cat": "Node", "name": name, "ts": ts, "dur": dur, "args": {"op_name": "Add", **args}}


def test_events_are_grouped_by_run_and_the_first_runs_left_out() -> None:
    events = [
        {"cat": "Session", "name": "model_run", "ts": 0, "dur": 10, "args": {}},
        raw("a_kernel_time", 1, 5, provider=CPU, node_index="3"),
        {"cat": "Session", "name": "model_run", "ts": 20, "dur": 12, "args": {}},
        raw("a_kernel_time", 21, 6, provider=CPU, node_index="3", output_type_shape=[{"float": [1, 2]}]),
        raw("a_fence_before", 20, 1),
    ]
    runs, durations = read_events(events, skip_runs=1)
    assert durations == (12.0,)
    assert [(e.node, e.microseconds, e.index, e.output_shapes) for e in runs[0]] == [("a", 6.0, 3, ((1, 2),))]


def test_times_of_nodes_on_a_gpu_are_not_passed_off_as_the_gpus() -> None:
    assert "launch" in profile(three_runs(event("conv", "Conv", 5, provider=CUDA))).note
    assert profile(three_runs(event("conv", "Conv", 5))).note == ""


def test_profile_ranks_nodes_and_counts_layout_work() -> None:
    found = profile(
        three_runs(
            event("reorder", "ReorderInput", 10, index=0),
            event("conv", "Conv", 60, index=1),
            event("conv2", "Conv", 20, index=2),
            event("loop", "Add", 5, index=3),
            event("loop", "Add", 5, index=3),  # twice in one run
        )
    )
    assert [n.node for n in found.nodes][:2] == ["conv", "conv2"]
    assert [(o.op, o.nodes, o.median_us) for o in found.ops] == [
        ("Conv", 2, 80.0), ("ReorderInput", 1, 10.0), ("Add", 1, 10.0)
    ]  # fmt: skip
    assert (found.layout_nodes, found.layout_share) == (1, pytest.approx(0.1))
    assert found.run_us == 110
    assert found.outside_us == pytest.approx(10)


@pytest.mark.parametrize("read", [profile, lambda t: placement(t, CPU)])
def test_nothing_executed_proves_nothing(read: Any) -> None:
    with pytest.raises(UserError, match="no executed node"):
        read(Trace(events=(), run_microseconds=()))


def test_a_fallback_is_an_error_that_names_the_node() -> None:
    found = placement(
        three_runs(event("c", "Conv", 1, provider=CUDA, index=0), event("odd", "NonZero", 1, index=1)), CUDA
    )
    assert not found.proved
    with pytest.raises(GateNotMetError, match=r"odd \(NonZero on CPUExecutionProvider\)"):
        require_placement(found)
    require_placement(found, allow_fallback=True)


def test_copies_between_devices_are_counted() -> None:
    found = placement(three_runs(event("m", "MemcpyToHost", 1, provider=CUDA)), CUDA)
    assert found.proved
    assert found.copies == 1


@pytest.mark.parametrize(
    ("made", "weights", "count"),
    [
        # 2 · (1·8·5·5) · (3·3·3)
        (event("c", "Conv", 1, inputs=((1, 3, 5, 5),), outputs=((1, 8, 5, 5),)), ((8, 3, 3, 3), (8,)), 10800),
        # depthwise: 2 · (1·8·5·5) · (1·3·3)
        (event("d", "Conv", 1, inputs=((1, 8, 5, 5),), outputs=((1, 8, 5, 5),)), ((8, 1, 3, 3),), 3600),
        # transposed: 2 · (1·3·5·5) · (8·2·2)
        (event("t", "ConvTranspose", 1, inputs=TRANSPOSED[0], outputs=TRANSPOSED[1]), ((3, 8, 2, 2),), 4800),
        (event("m", "MatMul", 1, inputs=((4, 16),), outputs=((4, 32),)), ((16, 32),), 4096),
        (event("g", "Gemm", 1, inputs=((4, 16),), outputs=((4, 32),)), ((32, 16), (32,)), 4096),
        (event("b", "MatMul", 1, inputs=((2, 4, 16), (2, 16, 8)), outputs=((2, 4, 8),)), (), 2048),
        (event("a", "Add", 1, inputs=((2, 3), (2, 3)), outputs=((2, 3),)), (), 6),
        (event("p", "GlobalAveragePool", 1, inputs=((1, 8, 7, 7),), outputs=((1, 8, 1, 1),)), (), 392),
        (event("r", "Reshape", 1), (), 0),
    ],
)  # fmt: skip
def test_operations(made: NodeEvent, weights: tuple[tuple[int, ...], ...], count: int) -> None:
    assert operations(made, weights) == count


def test_bytes_count_inputs_weights_and_outputs_once() -> None:
    assert least_bytes(event("a", "Conv", 1, inputs=((10,),), outputs=((5,),)), 100) == 160
    assert least_bytes(event("a", "Conv", 1, inputs=((10,),), outputs=((5,),), dtype="float16"), 0) == 30
    assert least_bytes(event("a", "Reshape", 1, inputs=((10,),), outputs=((5, 2),)), 16) == 0


def test_roofline_names_what_binds_each_node() -> None:
    made = Trace(
        events=((
            event("conv", "Conv", 100, inputs=((1, 64, 56, 56),), outputs=((1, 64, 56, 56),), index=0),
            event("add", "Add", 10, inputs=((1, 64, 56, 56),) * 2, outputs=((1, 64, 56, 56),), index=1),
        ),),
        run_microseconds=(115.0,),
        weight_shapes={"conv": ((64, 64, 3, 3),)},
        weight_bytes={"conv": 147456},
    )  # fmt: skip
    found = roofline(made, Peaks(threads=1, gflop_per_s=4000.0, gbyte_per_s=1000.0))
    by_name = {n.node: n for n in found.nodes}
    assert by_name["conv"].bound == "compute"
    assert by_name["conv"].limit_us == pytest.approx(2 * 64 * 56 * 56 * 576 / 4e6)
    assert by_name["add"].bound == "memory"
    assert by_name["add"].limit_us == pytest.approx(3 * 64 * 56 * 56 * 4 / 1e6)
    assert found.share_of_limit == pytest.approx(found.limit_us / 110)
    assert found.note == ""
    assert found.nodes[0].node == "conv"  # most to win


def test_a_real_model_is_traced_node_by_node(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = chain(tmp_path / "m.onnx", layers=5)
    traced = trace(Contender(name="m", kind="onnx", model=str(model)), feeds(batch=8), runs=4)
    assert len(traced.events) == len(traced.run_microseconds) == 4
    found = profile(traced)
    assert {o.op: o.nodes for o in found.ops} == {"MatMul": 5, "Tanh": 5}
    assert placement(traced, CPU).proved
    counted = roofline(traced, Peaks(threads=1, gflop_per_s=100.0, gbyte_per_s=10.0))
    assert counted.operations == 5 * (2 * 8 * 64 * 64 + 8 * 64)
    assert counted.least_bytes == 5 * 64 * 64 * 4 + 2 * 8 * 64 * 4


def test_a_file_that_is_no_model_cannot_be_traced(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    with pytest.raises(UnsupportedModelError, match="cannot be traced"):
        trace(Contender(name="m", kind="onnx", model=str(bad)), {})


def test_peaks_are_measured() -> None:
    peaks = measure_peaks(1)
    assert peaks.gflop_per_s > 0.1
    assert peaks.gbyte_per_s > 0.05
    sizes, rates = [c.bytes for c in peaks.cached], [c.gbyte_per_s for c in peaks.cached]
    assert sizes == sorted(sizes)
    assert rates == sorted(rates, reverse=True)
    assert peaks.gbyte_per_s_of(1 << 40) == peaks.gbyte_per_s


@pytest.mark.parametrize(
    ("working_set", "rate"),
    [(10, 90.0), (1 << 20, 90.0), ((4 << 20) - 1, 90.0), (4 << 20, 60.0), (1 << 40, 30.0)],
)
def test_what_a_cache_holds_is_read_at_its_rate(working_set: int, rate: float) -> None:
    cached = (
        ReadRate(bytes=1 << 20, gbyte_per_s=90.0),
        ReadRate(bytes=4 << 20, gbyte_per_s=60.0),
        ReadRate(bytes=64 << 20, gbyte_per_s=20.0),  # the copy was faster: a limit takes the better
    )
    peaks = Peaks(threads=1, gflop_per_s=1.0, gbyte_per_s=30.0, cached=cached)
    assert peaks.gbyte_per_s_of(working_set) == rate


def test_weights_are_as_near_as_the_whole_graph_and_activations_as_the_node() -> None:
    made = Trace(
        events=((event("fc", "MatMul", 100, inputs=((1, 1000),), outputs=((1, 1000),), index=0),),),
        run_microseconds=(100.0,),
        weight_bytes={"fc": 4_000_000},
    )
    cached = (ReadRate(bytes=1000, gbyte_per_s=100.0), ReadRate(bytes=4_000_000, gbyte_per_s=50.0))
    found = roofline(made, Peaks(threads=1, gflop_per_s=1e9, gbyte_per_s=10.0, cached=cached))
    assert found.nodes[0].bound == "memory"
    assert found.limit_us == pytest.approx(4_000_000 / 50e3 + 8_000 / 100e3)
