"""The doctor's answers come from trying: what is absent or broken is found and its cure named."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import probes
from pipeline.doctor import SOURCES, SUPPORT, DoctorRecord, diagnose, install
from pipeline.probes import (
    Probe,
    TargetProbe,
    import_all,
    in_parallel,
    probe_targets,
    run_probe,
    target_probes,
)
from targets.catalog import TARGETS, TOGETHER


def test_a_probe_that_dies_is_a_finding_not_a_crash() -> None:
    assert run_probe("import os; os.kill(os.getpid(), 11)") == Probe(
        False, "its process was ended by signal 11"
    )
    assert run_probe("raise SystemExit('broken driver')") == Probe(False, "broken driver")
    assert run_probe("import sys; sys.exit(3)") == Probe(False, "exit status 3")
    assert run_probe("import time; time.sleep(60)", limit_s=0.5).detail == "no answer within 0 s"


def test_imports_are_tried_in_a_child_and_the_absent_named() -> None:
    found = import_all(["json", "no_such_module_here"])
    assert found["json"].ok
    assert found["no_such_module_here"] == Probe(
        False, "ModuleNotFoundError: No module named 'no_such_module_here'"
    )


def test_a_module_that_kills_its_process_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly_module.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = import_all(["json", "deadly_module"])
    assert found["json"].ok
    assert found["deadly_module"] == Probe(False, "its process was ended by signal 6")


def test_a_provider_that_does_not_exist_here_is_shown_as_such() -> None:
    pytest.importorskip("onnxruntime")
    good = run_probe(probes.PROVIDER_PROBE, "CPUExecutionProvider")
    assert good.ok, good.detail
    absent = run_probe(probes.PROVIDER_PROBE, "NoSuchExecutionProvider")
    assert not absent.ok


def test_missing_parts_come_with_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    real = run_probe

    def without(code: str, *arguments: str, limit_s: float = 60.0) -> Probe:
        if code == probes.IMPORT_PROBE and "tensorflow" in arguments:
            absent = real(code, *(f"absent_{a}" for a in arguments))
            return Probe(absent.ok, absent.detail.replace("absent_", ""))
        return real(code, *arguments, limit_s=limit_s)

    monkeypatch.setattr(probes, "run_probe", without)
    record = diagnose()
    assert record.status == "incomplete"
    tensorflow = next(p for p in record.parts if p.name == "tensorflow")
    assert not tensorflow.works
    assert tensorflow.needs == install("tensorflow") == "pip install 'fairlead[tensorflow]'"
    assert "tensorflow: pip install 'fairlead[tensorflow]'" in record.advice
    assert record.gpu
    cuda = next(p for p in record.providers if p.name == "CUDAExecutionProvider")
    assert cuda.works or cuda.needs
    assert DoctorRecord.model_validate_json(record.model_dump_json()) == record
    assert [part.name for part in record.parts] == [*SOURCES, *TARGETS, *SUPPORT]


# --- several at once --------------------------------------------------------------------------------------


def test_probes_run_at_once_and_answer_in_their_order() -> None:
    both = threading.Barrier(2, timeout=60)  # breaks unless two wait at it together
    said: list[tuple[str, float]] = []

    def probe(name: str) -> Callable[[], str]:
        def run() -> str:
            both.wait()
            return name.upper()

        return run

    found = in_parallel(
        {name: probe(name) for name in "abcd"}, lambda text, share: said.append((text, share)), workers=2
    )
    assert list(found.items()) == [("a", "A"), ("b", "B"), ("c", "C"), ("d", "D")]
    assert said[0] == ("trying a; b; c; d", 0.0)
    assert [share for _, share in said] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert said[-1][0] == "done"


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_probes_run_at_once_than_are_allowed(workers: int) -> None:
    at_once: list[int] = []
    running, lock = 0, threading.Lock()

    def probe() -> None:
        nonlocal running
        with lock:
            running += 1
            at_once.append(running)
        time.sleep(0.02)
        with lock:
            running -= 1

    in_parallel(dict.fromkeys(map(str, range(9)), probe), lambda *_: None, workers=workers)
    assert len(at_once) == 9
    assert max(at_once) <= workers


def test_a_probe_that_raises_ends_all() -> None:
    def bug() -> None:
        raise RuntimeError("a bug of ours")

    with pytest.raises(RuntimeError, match="a bug of ours"):
        in_parallel({"one": bug, "two": lambda: None}, lambda *_: None, workers=1)


def test_every_target_is_tried_once() -> None:
    assert sorted(name for title in target_probes() for name in title.split(", ")) == sorted(TARGETS)
    assert {name for group in TOGETHER for name in group} <= set(TARGETS)


def test_a_target_that_kills_its_process_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    deadly = "import os, sys\nif 'wolfram' in sys.argv: os.abort()\n"
    monkeypatch.setattr(probes, "TARGET_PROBE", deadly + probes.TARGET_PROBE)
    found = probe_targets(("coreml", "wolfram"))
    assert found["wolfram"] == TargetProbe(False, "its process was ended by signal 6")
    assert "Core ML" in found["coreml"].summary
