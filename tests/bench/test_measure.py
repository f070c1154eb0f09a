"""Real child processes: what they report, how they fail, and that they die with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from optim.errors import UserError
from pipeline.bench.child import Child
from pipeline.bench.contender import Contender
from pipeline.bench.measure import Field, Schedule, affordable_processes
from pipeline.bench.worker import thread_environment, time_runs
from pipeline.sources.contract import ConvertRequest
from tests.bench.models import chain, feeds

QUICK = Schedule(min_duration_s=0.05, max_duration_s=5, min_samples=50, min_rounds=10)


def busy(name: str, microseconds: float) -> Contender:
    return Contender(name=name, kind="busy_wait", model=str(microseconds))


def test_every_sample_is_kept_and_rounds_are_complete() -> None:
    with Field([busy("a", 200), busy("b", 300)], {"a": 2}) as field:
        timed, refused = field.measure({}, QUICK)
    assert not refused
    assert {name: len(group) for name, group in timed.items()} == {"a": 2, "b": 1}
    assert len({len(t.blocks) for group in timed.values() for t in group}) == 1
    for name, least_ms in (("a", 0.2), ("b", 0.3)):
        for t in timed[name]:
            samples = np.concatenate(t.blocks)
            assert samples.min() >= least_ms
            assert t.warmup_runs > 0
            assert t.usage.peak_rss_mib > 1
    assert sum(len(np.concatenate(t.blocks)) for t in timed["a"]) >= QUICK.min_samples


def test_the_loop_itself_costs_little() -> None:
    """Two readings of the clock and a call, of which the design allows 2 µs."""
    samples = time_runs(dict, 5000)
    assert samples.dtype == np.int64
    assert np.median(samples) < 2000


def test_onnx_contender_reports_its_session(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = chain(tmp_path / "m.onnx", layers=3)
    contender = Contender(name="raw", kind="onnx", model=str(model))
    with Child(contender) as child:
        opened = child.open()
        assert opened.runtime.startswith("onnxruntime ")
        assert opened.session_creation_ms > 0
        assert [s.name for s in opened.inputs] == ["x"]
        child.set_feeds(feeds())
        assert child.first_run_ms > 0
        assert child.run(7, settle=1).shape == (7,)
    assert contender.file_bytes() == model.stat().st_size
    assert not psutil.pid_exists(child.pid) or psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE


def test_peak_memory_is_the_childs_own() -> None:
    """Not the parent's, which fork and exec hand down as the child's ``ru_maxrss``."""
    ballast = np.ones(400 << 17)  # 400 MiB in this process
    with Child(busy("a", 100)) as child:
        child.open()
        child.run(1)
        assert child.usage().peak_rss_mib < 300
    assert ballast.nbytes > 300 << 20


def test_a_missing_model_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    gone = Contender(name="gone", kind="onnx", model=str(tmp_path / "none.onnx"))
    with Field([busy("a", 100), gone], {}) as field:
        assert set(field.refused) == {"gone"}
        assert isinstance(field.refused["gone"], UserError)
        timed, _ = field.measure({}, QUICK)
    assert set(timed) == {"a"}


def test_inputs_that_do_not_fit_are_that_contenders_refusal(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = chain(tmp_path / "m.onnx", layers=2)
    with Field([Contender(name="raw", kind="onnx", model=str(model)), busy("a", 100)], {}) as field:
        timed, refused = field.measure(feeds(width=3), QUICK)
    assert set(timed) == {"a"}
    assert set(refused) == {"raw"}


def test_a_source_contender_without_its_request_is_refused() -> None:
    with Child(Contender(name="source", kind="source", model="m.onnx")) as child, pytest.raises(UserError):
        child.open()


def test_a_killed_child_is_an_error_that_says_so() -> None:
    with Child(busy("a", 100)) as child:
        child.open()
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="ended"):
            child.run(1)


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import time
        from pipeline.bench.child import Child
        from pipeline.bench.contender import Contender
        child = Child(Contender(name="a", kind="busy_wait", model="100"))
        child.open()
        print(child.pid, flush=True)
        time.sleep(60)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} outlived its parent")


def test_memory_is_bounded(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = chain(tmp_path / "m.onnx", layers=1, width=6000)  # 137 MiB of weights, held more than once
    contender = Contender(name="raw", kind="onnx", model=str(model))
    with Child(contender, memory_mib=300) as child, pytest.raises(UserError):
        child.open()
        child.set_feeds(feeds(width=6000))
    with Child(contender, memory_mib=4000) as child:
        child.open()
        child.set_feeds(feeds(width=6000))


def test_names_must_differ() -> None:
    with pytest.raises(UserError, match="share a name"):
        Field([busy("a", 1), busy("a", 2)], {})


def test_processes_are_as_many_as_memory_allows(tmp_path: Path) -> None:
    big = tmp_path / "big.pb"
    big.write_bytes(bytes(1 << 20))
    source = Contender(name="source", kind="source", model=str(big), request=ConvertRequest(model=str(big)))
    contenders = [source, busy("a", 1), busy("b", 1)]
    assert affordable_processes(contenders, 4, 1e6) == {"source": 1, "a": 4, "b": 4}
    assert affordable_processes(contenders, 4, 1000) == {"source": 1, "a": 2, "b": 2}
    assert affordable_processes(contenders, 4, 10) == {"source": 1, "a": 1, "b": 1}


def test_thread_pools_are_bound_for_every_framework() -> None:
    bound = thread_environment(3, allow_spinning=False)
    assert bound["TF_NUM_INTRAOP_THREADS"] == bound["OMP_NUM_THREADS"] == "3"
    assert bound["OMP_WAIT_POLICY"] == "PASSIVE"
    assert thread_environment(1, allow_spinning=True)["OMP_WAIT_POLICY"] == "ACTIVE"


def test_who_is_not_measured_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that spin after a call would take CPUs from the contender that is measured next."""
    stopped_beside: list[bool] = []
    run = Child.run
    with Field([busy("a", 200), busy("b", 300)], {"a": 2}) as field:

        def watched(child: Child, runs: int, *, settle: int = 0) -> np.ndarray:
            samples = run(child, runs, settle=settle)
            others = [psutil.Process(c.pid) for c in field.children if c is not child]
            stopped_beside.append(all(p.status() == psutil.STATUS_STOPPED for p in others))
            return samples

        for child in field.children:
            child.set_feeds({})
            child.rest()
        monkeypatch.setattr(Child, "run", watched)
        field.measure({}, QUICK)
    # While feeds are handed over, those that have none yet are still up; from the warm-up on nobody is.
    assert all(stopped_beside[len(field.children) :])
    assert len(stopped_beside) > 30


def test_a_resting_child_answers_and_ends() -> None:
    child = Child(busy("a", 100))
    child.open()
    child.set_feeds({})
    child.rest()
    assert len(child.run(3)) == 3
    child.rest()
    assert child.usage().cpu_s > 0
    child.rest()
    pid = child.pid
    child.close()
    assert not psutil.pid_exists(pid)
