"""Load scenarios: arrivals and queueing against theory, real sessions in a child, and what makes them
invalid.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from optim.errors import UserError
from pipeline.affinity import usable_cpu_count
from pipeline.bench import load
from pipeline.bench.contender import Contender
from pipeline.bench.scenarios import (
    OFFLINE_REPEATS,
    ScenarioRecord,
    fitted,
    generator_notes,
    highest_rate,
    judge_scenario,
    run_scenario,
    run_scenarios,
)
from pipeline.bench.worker import Worker
from pipeline.config import ScenarioConfig
from tests.bench.models import chain, feeds

BUSY = Contender(name="busy", kind="busy_wait", model="500")


def test_arrivals_are_poisson() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    due = load.poisson_arrivals(1000.0, 5000, seed=3)
    assert len(due) == 5000
    assert abs(due[-1] - 5.0) < 4 * 5000**0.5 / 1000
    assert scipy_stats.kstest(np.diff(due), "expon", args=(0, 1e-3)).pvalue > 0.001
    assert np.array_equal(due, load.poisson_arrivals(1000.0, 5000, seed=3))


def test_waiting_in_the_queue_counts() -> None:
    """Ten queries due at once at one server of 3 ms: the last waits for nine others."""
    latencies = load.serve([lambda: time.sleep(0.003)], np.zeros(10)) / 1e6
    assert latencies[9] >= 30
    assert np.all(np.diff(latencies) >= 3)


def test_concurrent_sessions_really_run_at_once() -> None:
    meet = threading.Barrier(3, timeout=10)
    latencies = load.serve([meet.wait] * 3, np.zeros(3))  # breaks if one ran after the other
    assert len(latencies) == 3
    assert not meet.broken


def test_a_failure_in_a_thread_is_not_lost() -> None:
    def fail() -> None:
        raise UserError("bad input")

    with pytest.raises(UserError, match="bad input"):
        load.serve([fail, fail], np.zeros(4))


@pytest.mark.parametrize("name", ["single_stream", "multi_stream", "offline", "server"])
def test_scenarios_through_a_real_session(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    contender = Contender(name="m", kind="onnx", model=str(chain(tmp_path / "m.onnx", layers=3)))
    scenario = ScenarioConfig.model_validate(
        {"name": name, "sessions": 2, "queries": 50, "streams": 4, "rate_per_s": 100.0}
    )
    record = run_scenario(contender, scenario, feeds(batch=2), batch=2)
    assert record.throughput_per_s > 0
    assert record.queries == len(record.raw_ms)
    assert record.grade is not None
    assert record.scenario.sessions == (1 if name == "single_stream" else 2)
    if name == "offline":
        assert record.queries == OFFLINE_REPEATS
        assert record.valid
        low, high = record.throughput_interval_per_s or (0.0, 0.0)
        assert 0 < low <= record.throughput_per_s <= high
        # 100 samples in the time of a repeat
        assert record.throughput_per_s == pytest.approx(100 / (np.median(record.raw_ms) / 1e3))
    if name == "multi_stream":
        assert record.queries == 50
        assert not record.valid  # 50 queries say nothing about the 99th percentile
        assert "50 queries do not support percentile 99: " in record.reasons[0]
        assert int(record.reasons[0].split(": ")[1].split()[0]) >= 368 - 50
    assert ScenarioRecord.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize(
    ("scenario", "latencies_ms", "wall_s", "per_s"),
    [
        (ScenarioConfig(name="single_stream"), np.full(50, 2.0), 0.4, 500.0),
        # Eight streams in 2 ms; the generator's own 5 ms a query are not the model's.
        (ScenarioConfig(name="multi_stream", streams=8), np.full(50, 2.0), 0.35, 4000.0),
        (ScenarioConfig(name="offline", queries=40), np.full(7, 20.0), 0.2, 2000.0),
        (ScenarioConfig(name="server", rate_per_s=100.0), np.full(500, 2.0), 5.0 + load.START_S, 100.0),
    ],
)
def test_throughput_counts_the_time_of_work(
    scenario: ScenarioConfig, latencies_ms: np.ndarray, wall_s: float, per_s: float
) -> None:
    found = judge_scenario(BUSY, scenario, latencies_ms, wall_s, batch=1)
    assert found.throughput_per_s == pytest.approx(per_s)
    assert judge_scenario(BUSY, scenario, latencies_ms, wall_s, batch=3).throughput_per_s == pytest.approx(
        3 * per_s
    )


def test_more_sessions_than_the_machine_has_cpus_cost_the_grade(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    contender = Contender(name="m", kind="onnx", model=str(chain(tmp_path / "m.onnx", layers=3)))
    many = usable_cpu_count() + 1
    record = run_scenario(contender, ScenarioConfig(name="offline", sessions=many, queries=20), feeds())
    assert record.grade is not None
    assert any(reason.startswith(f"{many} threads on") for reason in record.grade.reasons)


def test_an_overloaded_server_is_invalid() -> None:
    scenario = ScenarioConfig(name="server", rate_per_s=100.0, bound_ms=5.0)
    fine = judge_scenario(BUSY, scenario, np.full(500, 2.0), 5.0, 1)
    assert fine.valid
    behind = judge_scenario(BUSY, scenario, np.full(500, 2.0), 10.0, 1)
    assert "50 queries a second done of 100 offered" in behind.reasons[0]
    late = judge_scenario(BUSY, scenario, np.full(500, 9.0), 5.0, 1)
    assert "over the bound" in late.reasons[0]


def test_highest_rate_is_found_by_bisection() -> None:
    """A server that does 320 queries a second at most: what it is offered beyond 5 % more, it cannot do."""
    scenario = ScenarioConfig(name="server", rate_per_s=1.0)

    def measure(rate: float) -> ScenarioRecord:
        last_due_s = float(load.poisson_arrivals(rate, 500, scenario.seed)[-1])
        wall = max(last_due_s, 500 / 320) + load.START_S
        return judge_scenario(BUSY, scenario.model_copy(update={"rate_per_s": rate}), np.ones(500), wall, 1)

    true_rate = 500 / float(load.poisson_arrivals(1.0, 500, scenario.seed)[-1])  # of these very arrivals
    found = highest_rate(measure, 10, 5000, steps=12) * true_rate
    assert 320 < found <= 320 / 0.95 * 1.02
    assert highest_rate(measure, 1000, 5000) == 0.0
    with pytest.raises(UserError, match="no range"):
        highest_rate(measure, 5, 5)


def test_what_a_scenario_leaves_open_follows_from_the_latency() -> None:
    server = fitted(ScenarioConfig(name="server", sessions=2), 10.0, most_seconds=2.0)
    assert server.rate_per_s == pytest.approx(100.0)  # half of 2 sessions x 100 a second
    assert server.queries == 200
    assert fitted(ScenarioConfig(name="server"), 0.01, 2.0).rate_per_s == 2000  # the generator's own limit
    assert fitted(ScenarioConfig(name="server", rate_per_s=7.0), 10.0, 1e9).rate_per_s == 7.0
    assert fitted(ScenarioConfig(name="multi_stream", streams=4), 10.0, 2.0).queries == 50
    assert fitted(ScenarioConfig(name="single_stream"), 1e4, 2.0).queries == 20
    assert fitted(ScenarioConfig(name="offline"), 10.0, 2.8).queries == 40  # in each of seven repeats


def test_every_scenario_on_every_contender_and_what_failed_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    good = Contender(name="good", kind="onnx", model=str(chain(tmp_path / "m.onnx", layers=3)))
    gone = good.model_copy(update={"name": "gone", "model": str(tmp_path / "gone.onnx")})
    loads = (
        ScenarioConfig(name="offline", queries=30),
        ScenarioConfig(name="server", queries=40, bound_ms=50),
    )
    found, failed = run_scenarios(
        [good, gone], loads, feeds(), batch=1, latencies_ms={"good": 1.0, "gone": 1.0}, most_seconds=0.5
    )
    assert [(r.contender, r.scenario.name) for r in found] == [("good", "offline"), ("good", "server")]
    assert found[1].highest_rate_per_s is not None
    assert len(failed) == 2
    assert failed[0].startswith("scenario offline of gone")


@pytest.mark.parametrize(
    ("name", "rate_per_s", "latency_ms", "said"),
    [
        ("server", None, 10.0, ""),
        ("server", None, 0.1, "offered 2,000 queries a second"),  # half of 10,000 would be 5,000
        ("server", 1500.0, 0.1, ""),
        ("server", 3000.0, 0.1, "3,000 queries a second are more than 2,000"),
        ("offline", None, 0.1, ""),
    ],
)
def test_where_the_generator_bounds_the_load_the_record_says_so(
    name: str, rate_per_s: float | None, latency_ms: float, said: str
) -> None:
    given = ScenarioConfig.model_validate({"name": name, "rate_per_s": rate_per_s})
    notes = generator_notes(given, latency_ms)
    assert len(notes) == bool(said)
    assert all(note.startswith(said) for note in notes)


def test_a_model_quicker_than_the_generator_is_searched_up_to_its_limit() -> None:
    quick = Contender(name="quick", kind="busy_wait", model="10")
    server = ScenarioConfig(name="server", queries=400, bound_ms=1e-6)  # nothing keeps this bound
    ((found,), failed) = run_scenarios(
        [quick], [server], {}, batch=1, latencies_ms={"quick": 0.01}, most_seconds=1.0
    )
    assert failed == ()
    assert found.highest_rate_per_s == 0.0
    assert found.scenario.rate_per_s == 2000.0
    offered, searched = found.notes
    assert offered.startswith("offered 2,000 queries a second")
    assert searched.startswith("the highest rate was searched up to 2,000/s only")


class Counting:
    """A loaded model that counts its calls."""

    runtime, creation_ms, inputs, outputs = "counting", 0.0, (), ()

    def __init__(self) -> None:
        self.calls, self.closed = 0, False

    def bind(self, _feeds: object) -> object:
        def call() -> None:
            self.calls += 1

        return call

    def close(self) -> None:
        self.closed = True


def test_further_sessions_are_warmed_as_the_first_was(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Counting] = []

    def open_counting(_contender: Contender) -> Counting:
        opened.append(Counting())
        return opened[-1]

    monkeypatch.setattr("pipeline.bench.worker.open_caller", open_counting)
    worker = Worker()
    worker.answer({"do": "open", "contender": BUSY.model_dump(mode="json")})
    worker.answer({"do": "run", "settle": 3, "runs": 20})
    worker.answer({"do": "run", "settle": 0, "runs": 7})
    offline = {"name": "offline", "sessions": 3, "queries": 0, "streams": 1, "rate_per_s": None, "seed": 0}
    none = {**offline, "name": "single_stream"}
    worker.answer({"do": "scenario", "settings": none})
    assert [one.calls for one in opened] == [30, 30, 30]
    worker.answer({"do": "scenario", "settings": {**offline, "queries": 30}})
    assert len(opened) == 3  # kept, and warm
    assert sum(one.calls for one in opened) == 90 + 30
    worker.close()
    assert all(one.closed for one in opened)
