"""Pictures of a benchmark: what they are made of, and that they hold for any figures."""

from __future__ import annotations

import itertools
import re

import pytest

from pipeline.bench.records import NodeRoofline, Peaks, RooflineRecord
from pipeline.report.bench_plots import Point, front, pareto_chart, roofline_chart, sweep, sweep_chart
from pipeline.report.place_labels import Box
from tests.bench.test_gate import result

pytest.importorskip("matplotlib")


def node(name: str, operations: int, moved: int, us: float, bound: str) -> NodeRoofline:
    return NodeRoofline.model_validate(
        {
            "node": name, "op": "Conv", "operations": operations, "bytes": moved, "median_us": us,
            "limit_us": us / 2, "bound": bound, "share_of_limit": 0.5,
        }
    )  # fmt: skip


def roofline(*nodes: NodeRoofline) -> RooflineRecord:
    return RooflineRecord(
        peaks=Peaks(threads=1, gflop_per_s=100, gbyte_per_s=20),
        operations=sum(n.operations for n in nodes), least_bytes=1, limit_us=1, measured_us=2,
        share_of_limit=0.5, note="", nodes=nodes,
    )  # fmt: skip


def test_curves_run_over_one_quantity_with_the_other_held() -> None:
    results = [
        result(contender=name, model=name[:3], batch=batch, threads=threads)
        for name, threads in (("raw", 1), ("opt", 1), ("raw, 2 threads", 2), ("opt, 2 threads", 2))
        for batch in (8, 1)
    ]
    by_batch = sweep(results, "batch")
    assert [c.name for c in by_batch] == ["raw", "opt"]
    assert [r.batch for r in by_batch[0].results] == [1, 8]
    by_threads = sweep(results, "threads")
    assert [(c.name, [r.threads for r in c.results]) for c in by_threads] == [
        ("raw", [1, 2]),
        ("opt", [1, 2]),
    ]
    assert sweep(results[:1], "batch") == sweep([], "batch") == ()
    svg = sweep_chart(by_batch, "batch")
    assert "examples per second" in svg
    assert "raw: 1: 10.0 ms, 8: 10.0 ms" in svg


def test_the_front_is_what_nothing_beats_in_both() -> None:
    a, b, c = (Point(n, ms, e, "contender") for n, ms, e in (("a", 1, 3e-6), ("b", 2, 1e-6), ("c", 3, 2e-6)))
    assert front((c, b, a)) == (a, b)


def test_error_against_latency_shows_gate_source_and_names_but_not_those_of_candidates() -> None:
    points = (Point("raw <x>", 2.0, 1e-7, "contender"), Point("hidden", 1.0, 0.0, "candidate"))
    svg = pareto_chart(points, 2e-5, 10.0)
    assert "gate" in svg
    assert "source 10.0 ms" in svg
    assert "raw &lt;x&gt;" in svg
    assert "hidden" not in svg


def test_names_of_close_points_stand_apart() -> None:
    points = tuple(Point(f"way {k}", 1.0 + 0.01 * k, 1e-7 * (1 + 0.05 * k), "contender") for k in range(4))
    svg = pareto_chart(points, 2e-5, 10.0)
    boxes = []
    for name in (point.name for point in points):
        (place,) = re.findall(rf'<text[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>{name}</text>', svg)
        boxes.append(Box(float(place[0]), float(place[1]), 25, 8.5))
    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))


def test_a_roofline_names_its_largest_nodes() -> None:
    found = roofline(
        node("big", 10**9, 10**6, 900, "compute"), node("small", 10, 10**6, 90, "memory"),
        *(node(f"n{k}", 10**6, 10**6, 1, "memory") for k in range(10)),
    )  # fmt: skip
    svg = roofline_chart(found)
    assert "big" in svg
    assert "100 GFLOP/s" in svg
    assert "20.0 GB/s" in svg
    assert "n9" not in svg
    assert roofline_chart(roofline(node("only moves", 0, 10, 1, "memory")))  # nothing to place
