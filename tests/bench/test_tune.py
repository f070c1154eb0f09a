"""The tuner on simulated contenders of known speed, and once on real processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from optim.errors import GateNotMetError, UserError
from pipeline.bench.candidates import cpu_candidates, cuda_candidates, refinements
from pipeline.bench.contender import Contender
from pipeline.bench.measure import Schedule
from pipeline.bench.race_cost import timing_s
from pipeline.bench.stats import Groups
from pipeline.bench.tune import MOST_PROCESSES, Measure, Race, Sameness, tune
from pipeline.config import TuneConfig


def named(*names: str) -> list[Contender]:
    return [Contender(name=n, kind="busy_wait", model="1") for n in names]


def simulated(speeds: dict[str, float], log: list[list[str]], seed: int = 0) -> Measure:
    """Latencies with 1 % between processes and 2 % between rounds."""
    rng = np.random.default_rng(seed)

    def measure(contenders: Sequence[Contender], processes: int, schedule: Schedule) -> Groups:
        log.append([c.name for c in contenders])
        rounds = max(24, int(schedule.min_duration_s * 100))
        load = rng.normal(0, 0.1, rounds)
        return {
            c.name: [
                [
                    np.array([speeds[c.name] * np.exp(b + load[r] + rng.normal(0, 0.02))])
                    for r in range(rounds)
                ]
                for b in rng.normal(0, 0.01, processes)
            ]
            for c in contenders
        }

    return measure


def test_the_fastest_wins_and_the_slow_leave_early() -> None:
    log: list[list[str]] = []
    speeds = {"default": 2.0, "fast": 1.0, "slow": 5.0, "near": 1.3}
    record = tune(named(*speeds), {}, Race(budget_s=60), measure=simulated(speeds, log))
    assert record.winner.contender.name == "fast"
    assert record.winner.ratio_interval[0] < 0.5 < record.winner.ratio_interval[1]
    assert {d.name: d.stage for d in record.dropped}["slow"] == 1
    assert log[-1] == ["default", "fast"]
    assert sum("slow" in stage for stage in log) == 1
    assert not record.out_of_time


@pytest.mark.parametrize("seed", range(20))
def test_the_winner_is_within_three_percent_of_the_best(seed: int) -> None:
    rng = np.random.default_rng(seed)
    speeds = {f"c{k}": float(v) for k, v in enumerate(rng.uniform(1.0, 1.5, 8))}
    record = tune(named(*speeds), {}, Race(budget_s=60, seed=seed), measure=simulated(speeds, [], seed))
    assert speeds[record.winner.contender.name] <= 1.03 * min(speeds.values())


def test_parity_comes_before_speed() -> None:
    speeds = {"default": 2.0, "wrong": 1.0}
    log: list[list[str]] = []
    record = tune(
        [named("default")[0], Contender(name="wrong", kind="busy_wait", model="2")],
        {},
        Race(budget_s=60),
        parity=lambda c: Sameness(0.1, "max|Δ| 0.1 over the bound") if c.model == "2" else Sameness(1e-7),
        measure=simulated(speeds, log),
    )
    assert record.winner.contender.name == "default"
    assert (record.winner.ratio, record.winner.ratio_interval) == (1.0, (1.0, 1.0))
    assert record.dropped[0].reason == "parity: max|Δ| 0.1 over the bound"
    assert all("wrong" not in stage for stage in log)
    with pytest.raises(GateNotMetError, match="same model"):
        tune(
            named("a"),
            {},
            Race(budget_s=60),
            parity=lambda _: Sameness(1.0, "no"),
            measure=simulated({"a": 1}, []),
        )


def test_an_interrupted_race_goes_on_where_it_was(tmp_path: Path) -> None:
    speeds = {"default": 1.0, "slow": 3.0, "near": 1.004}
    state = tmp_path / "race.json"
    calls: list[list[str]] = []
    real = simulated(speeds, calls)

    def killed_in_the_second_stage(c: Sequence[Contender], p: int, s: Schedule) -> Groups:
        if calls:
            raise KeyboardInterrupt
        return real(c, p, s)

    race = Race(budget_s=60, state=state)
    with pytest.raises(KeyboardInterrupt):
        tune(named(*speeds), {}, race, measure=killed_in_the_second_stage)
    assert state.is_file()
    again: list[list[str]] = []
    record = tune(named(*speeds), {}, race, measure=simulated(speeds, again))
    assert "slow" not in again[0]  # eliminated in the first try
    assert {d.name for d in record.dropped} >= {"slow"}
    assert not state.exists()


def test_the_state_of_another_race_is_not_used(tmp_path: Path) -> None:
    state = tmp_path / "race.json"
    state.write_text('{"key": "other", "alive": ["b"], "stage": 4}')
    log: list[list[str]] = []
    tune(named("a", "b"), {}, Race(budget_s=60, state=state), measure=simulated({"a": 1, "b": 9}, log))
    assert log[0] == ["a", "b"]


def test_no_time_means_no_race_but_an_answer() -> None:
    log: list[list[str]] = []
    record = tune(named("a", "b"), {}, Race(budget_s=1e-9), measure=simulated({"a": 1, "b": 9}, log))
    assert record.out_of_time
    assert record.winner.contender.name == "a"
    assert record.undecided == ("b",)


@pytest.mark.parametrize("budget_s", [30.0, 60.0, 240.0])
def test_a_race_and_its_last_comparison_fit_the_budget(
    budget_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a simulated clock: each process takes 0.8 s to be started, and rounds take what they must."""
    now = 0.0
    monkeypatch.setattr("pipeline.bench.tune.time.monotonic", lambda: now)
    speeds = {f"c{k}": 1.0 + 0.002 * k for k in range(24)}
    real = simulated(speeds, [])

    def measure(contenders: Sequence[Contender], processes: int, schedule: Schedule) -> Groups:
        nonlocal now
        now += 0.8 * processes * len(contenders)
        now += 1.1 * timing_s([speeds[c.name] / 1e3 for c in contenders], processes, schedule)
        return real(contenders, processes, schedule)

    record = tune(named(*speeds), {}, Race(budget_s=budget_s), measure=measure)
    assert 0.7 * budget_s < record.seconds <= 1.02 * budget_s
    assert record.out_of_time


def test_what_is_far_behind_by_graph_and_threads_is_not_raced() -> None:
    """Graph b takes twice as long as graph a, one thread 1.9 times as long as two; only one pair is near."""
    graphs, threads = {"a": 1.0, "b": 2.0, "c": 1.2}, {1: 1.9, 2: 1.0}
    candidates = [
        Contender(name=f"{g}{t}", kind="onnx", model=g, threads=t, allow_spinning=t > 1)
        for g in graphs
        for t in threads
    ]
    speeds = {c.name: graphs[c.model] * threads[c.threads] for c in candidates}
    log: list[list[str]] = []
    record = tune(
        candidates,
        {},
        Race(budget_s=60),
        parity=lambda one: Sameness(1e-7, least_ms=speeds[one.name]),
        measure=simulated(speeds, log),
    )
    assert log[0] == ["a1", "a2"]  # the quickest graph with all threads
    assert [name for heat in log for name in heat if name[0] == "b"] == []
    assert record.winner.contender.name == "a2"
    reasons = {d.name: d.reason for d in record.dropped}
    assert reasons["b2"].startswith("expected to take 2.0 times the best")
    assert reasons["c1"].startswith("expected to take 2.3 times the best")
    assert "expected" not in reasons["c2"]


@pytest.mark.parametrize("candidates", [[], named("a", "a")])
def test_candidates_are_checked(candidates: list[Contender]) -> None:
    with pytest.raises(UserError):
        tune(candidates, {}, Race(budget_s=1))


def test_candidates_differ_in_their_settings_and_the_default_comes_first() -> None:
    default = Contender(name="default", kind="onnx", model="m.onnx")
    models = {"optimized": Path("m.onnx"), "raw": Path("r.onnx")}
    found = cpu_candidates(default, models, TuneConfig(threads=(1, 2)))
    assert found[0] == default
    settings = [c.model_copy(update={"name": ""}) for c in found]
    assert all(settings.count(one) == 1 for one in settings)
    # Two graphs; ONNX Runtime: 3 ways of threads by 2 levels; OpenVINO: spinning is not its setting.
    assert len(found) == 2 * (3 * 2 + 2)
    assert len({c.name for c in found}) == len(found)
    with pytest.raises(UserError, match="not among"):
        cpu_candidates(default, {"raw": Path("r.onnx")}, TuneConfig())


def test_buffers_are_bound_for_the_winner_only() -> None:
    winner = Contender(name="w", kind="onnx", model="m.onnx")
    assert [c.io_binding for c in refinements(winner, TuneConfig())] == [True]
    assert refinements(winner, TuneConfig(io_binding=(False,))) == ()
    assert refinements(winner.model_copy(update={"kind": "openvino"}), TuneConfig()) == ()


def test_many_candidates_run_in_heats_that_the_machine_bears() -> None:
    log: list[list[str]] = []
    speeds = {f"c{k}": 1.0 + 0.2 * k for k in range(20)}
    record = tune(named(*speeds), {}, Race(budget_s=60), measure=simulated(speeds, log))
    assert record.winner.contender.name == "c0"
    assert max(len(heat) for heat in log) <= MOST_PROCESSES
    assert {one.contender.name for one in record.raced} == set(speeds)


def test_each_runtime_has_its_own_winner() -> None:
    speeds = {"default": 2.0, "tuned": 1.5, "ov": 1.0, "ov slow": 1.9}
    kinds = {"ov": "openvino", "ov slow": "openvino"}
    field = [
        Contender.model_validate({"name": n, "kind": kinds.get(n, "onnx"), "model": "m"}) for n in speeds
    ]
    record = tune(field, {}, Race(budget_s=60, recipes={"m": "fast"}), measure=simulated(speeds, []))
    assert record.winner.contender.name == "ov"
    ours = record.choice_for("onnxruntime")
    assert ours is not None
    assert (ours.contender.name, ours.verdict, ours.recipe) == ("tuned", "faster", "fast")
    assert ours.interval_ms[0] <= ours.latency_ms <= ours.interval_ms[1]


def test_a_gpu_has_its_own_winner_and_tf32_stays_out_where_it_is_another_model() -> None:
    default = Contender(name="default", kind="onnx", model="m")
    field = [default, *cuda_candidates({"fast": Path("m")}, TuneConfig())]
    speeds = {c.name: 5.0 if c.cuda is None else 1.0 - 0.3 * c.cuda.tf32 for c in field}
    speeds["fast, CUDA, NHWC, TF32 off"] = 0.8
    record = tune(
        field,
        {},
        Race(budget_s=60, recipes={"m": "fast"}),
        parity=lambda c: Sameness(1e-3, "rounded") if c.cuda and c.cuda.tf32 else Sameness(1e-7),
        measure=simulated(speeds, []),
    )
    assert {d.name for d in record.dropped if d.stage == 0} == {n for n in speeds if n.endswith(", TF32")}
    assert record.winner.runtime == "cuda"
    assert record.winner.contender.name == "fast, CUDA, NHWC, TF32 off"
    assert record.winner.contender.cuda is not None
    assert record.winner.interval_ms[0] <= record.winner.latency_ms <= record.winner.interval_ms[1]
    ours = record.choice_for("onnxruntime")  # the bundle's: still the CPU's
    assert ours is not None
    assert ours.contender == default


def test_a_gpu_that_is_no_faster_takes_nothing_from_the_cpus_winner() -> None:
    speeds = {"default": 2.0, "tuned": 1.0, "gpu": 5.0}
    devices = {"gpu": "cuda"}
    field = [
        Contender.model_validate(
            {"name": n, "kind": "onnx", "model": "m", "threads": k + 1, "device": devices.get(n, "cpu")}
        )
        for k, n in enumerate(speeds)
    ]
    record = tune(field, {}, Race(budget_s=60), measure=simulated(speeds, []))
    ours, gpu = record.choice_for("onnxruntime"), record.choice_for("cuda")
    assert record.winner == ours
    assert ours is not None
    assert ours.contender.name == "tuned"
    assert gpu is not None
    assert (gpu.contender.name, gpu.verdict) == ("gpu", "slower")


def test_settings_that_are_no_faster_than_the_default_are_not_taken() -> None:
    speeds = {"default": 1.0, "other": 0.9999}
    record = tune(named(*speeds), {}, Race(budget_s=60), measure=simulated(speeds, []))
    assert record.winner.contender.name == "default"
    assert record.winner.ratio == 1.0


def test_a_winner_may_be_refined() -> None:
    speeds = {"default": 2.0, "fast": 1.0, "fast, bound": 0.8}
    bound = Contender(name="fast, bound", kind="busy_wait", model="1", io_binding=True)
    record = tune(
        named("default", "fast"),
        {},
        Race(budget_s=60),
        refine=lambda _: [bound],
        measure=simulated(speeds, []),
    )
    assert record.winner.contender == bound


def test_real_processes() -> None:
    fast = Contender(name="fast", kind="busy_wait", model="100")
    slow = Contender(name="slow", kind="busy_wait", model="400")
    record = tune([slow, fast], {}, Race(budget_s=20))
    assert record.winner.contender == fast
    assert record.winner.ratio_interval[1] < 0.5
