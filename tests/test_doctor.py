"""The doctor's answers come from trying: what is absent or broken is found and its cure named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import doctor
from pipeline.doctor import DoctorRecord, Probe, diagnose, import_all, install, run_probe


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
    good = run_probe(doctor.PROVIDER_PROBE, "CPUExecutionProvider")
    assert good.ok, good.detail
    absent = run_probe(doctor.PROVIDER_PROBE, "NoSuchExecutionProvider")
    assert not absent.ok


def test_missing_parts_come_with_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    real = run_probe

    def without(code: str, *arguments: str, limit_s: float = 60.0) -> Probe:
        if code == doctor.IMPORT_PROBE and "tensorflow" in arguments:
            absent = real(code, *(f"absent_{a}" for a in arguments))
            return Probe(absent.ok, absent.detail.replace("absent_", ""))
        return real(code, *arguments, limit_s=limit_s)

    monkeypatch.setattr(doctor, "run_probe", without)
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
