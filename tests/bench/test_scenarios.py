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
from pipeline.bench import load
from pipeline.bench.contender import Contender
from pipeline.bench.scenarios import (
    Scenario,
    ScenarioRecord,
    highest_rate,
    judge_scenario,
    run_scenario,
    thread_variants,
)
from tests.bench.models import chain, feeds

BUSY = Contender(name="busy", kind="busy_wait", model="500")


def test_arrivals_are_poisson() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    due = load.poisson_arrivals(1000.0, 5.0, seed=3)
    assert abs(len(due) - 5000) < 4 * 5000**0.5
    assert scipy_stats.kstest(np.diff(due), "expon", args=(0, 1e-3)).pvalue > 0.001
    assert np.array_equal(due, load.poisson_arrivals(1000.0, 5.0, seed=3))


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
    scenario = Scenario.model_validate(
        {"name": name, "sessions": 2, "queries": 50, "streams": 4, "rate_per_s": 100.0}
    )
    record = run_scenario(contender, scenario, feeds(batch=2), batch=2)
    assert record.throughput_per_s > 0
    assert record.queries == len(record.raw_ms)
    if name == "offline":
        assert record.queries == 1
        assert record.valid
        # 100 samples in the time of the whole
        assert record.throughput_per_s <= 100 / (record.raw_ms[0] / 1e3)
    if name == "multi_stream":
        assert record.queries == 50
        assert not record.valid  # 50 queries say nothing about the 99th percentile
        assert "do not support" in record.reasons[0]
    assert ScenarioRecord.model_validate_json(record.model_dump_json()) == record


def test_an_overloaded_server_is_invalid() -> None:
    scenario = Scenario(name="server", rate_per_s=100.0, bound_ms=5.0)
    fine = judge_scenario(BUSY, scenario, np.full(500, 2.0), 5.0, 1)
    assert fine.valid
    behind = judge_scenario(BUSY, scenario, np.full(500, 2.0), 10.0, 1)
    assert "50 queries a second done of 100 offered" in behind.reasons[0]
    late = judge_scenario(BUSY, scenario, np.full(500, 9.0), 5.0, 1)
    assert "over the bound" in late.reasons[0]


def test_highest_rate_is_found_by_bisection() -> None:
    scenario = Scenario(name="server", rate_per_s=1.0)

    def measure(rate: float) -> ScenarioRecord:
        wall = 500 / rate if rate <= 320 else 500 / 320
        return judge_scenario(BUSY, scenario.model_copy(update={"rate_per_s": rate}), np.ones(500), wall, 1)

    assert 280 < highest_rate(measure, 10, 5000, steps=8) <= 340
    assert highest_rate(measure, 1000, 5000) == 0.0
    with pytest.raises(UserError, match="no range"):
        highest_rate(measure, 5, 5)


def test_thread_variants_have_names_of_their_own() -> None:
    assert [(c.name, c.threads) for c in thread_variants(BUSY, (1, 2))] == [
        ("busy (1 threads)", 1),
        ("busy (2 threads)", 2),
    ]
