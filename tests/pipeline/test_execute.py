"""Whole runs: what they write, what they reuse, and what kills, races and missed gates leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from optim.errors import GateNotMetError, InternalError
from pipeline import run
from pipeline.execute import require_ok
from pipeline.records import RunRecord
from tests.pipeline.conftest import small_net

STEPS = ["convert", "optimize", "parity", "benchmark", "export onnxruntime"]
UNMEASURED = [step for step in STEPS if step != "benchmark"]


def test_a_run_ends_with_a_proved_bundle_and_a_report(measured_config_file: Path) -> None:
    record = run(measured_config_file)
    assert record.status == "ok"
    assert [step.name for step in record.steps] == STEPS
    assert [line.passed for line in record.parity] == [True] * 3
    assert record.optimize.ops_after.get("BatchNormalization", 0) == 0
    (bundle,) = record.bundles
    assert bundle.state == "verified"
    assert (Path(bundle.path) / "manifest.json").is_file()
    report = Path(record.report)
    assert report.read_text().startswith("<!doctype html>")
    again = RunRecord.model_validate(json.loads(report.with_suffix(".json").read_text())["record"])
    assert again.parity == record.parity
    assert record.optimize.nodes_before > record.optimize.nodes_after


def test_a_second_run_does_no_work_twice(config_file: Path) -> None:
    run(config_file)
    record = run(config_file)
    assert [step.cached for step in record.steps] == [True] * len(UNMEASURED)
    record = run(config_file, overrides=["parity.seeds=[1]"])
    assert [step.name for step in record.steps if not step.cached] == ["parity", "export onnxruntime"]
    assert "parity.seeds" in record.steps[2].reason


@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_in_any_step_resumes(measured_config_file: Path, tmp_path: Path, step: str) -> None:
    """The process and all its children die at once, as in a power cut, while ``step`` is at work."""
    script = (
        "import sys, time, pipeline.execute as e\n"
        "real = e.stage_named\n"
        "def slow(stage):\n"
        "    def execute(context):\n"
        "        record = real(stage)(context)\n"
        f"        if context.step == {step!r}:\n"
        "            print('at work', flush=True)\n"
        "            time.sleep(60)\n"
        "        return record\n"
        "    return execute\n"
        "e.stage_named = slow\n"
        f"e.run({str(measured_config_file)!r})\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "at work\n"
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (tmp_path / "runs" / "small").exists()
    record = run(measured_config_file)
    assert record.status == "ok"
    done_before = STEPS[: STEPS.index(step)]
    assert [one.name for one in record.steps if one.cached] == done_before
    assert list((tmp_path / "store" / "work").iterdir()) == []


def test_ctrl_c_leaves_the_store_sound(config_file: Path, tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "run", str(config_file)], stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("parity ..."):
            break
    child.send_signal(signal.SIGINT)
    rest = child.stderr.read()
    assert child.wait() == 130
    child.stderr.close()
    assert "Traceback" not in rest
    assert "finished steps are kept" in rest
    assert list((tmp_path / "store" / "work").iterdir()) == []
    assert [step.name for step in run(config_file).steps if step.cached][:2] == STEPS[:2]


def test_two_runs_at_once_do_each_step_once(config_file: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "run", str(config_file), "--json", "--quiet"]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    records = [json.loads(child.communicate()[0]) for child in children]
    assert [child.returncode for child in children] == [0, 0]
    for index in range(len(UNMEASURED)):
        assert sorted(record["steps"][index]["cached"] for record in records) == [False, True]


def test_a_missed_gate_writes_a_report_and_no_bundle(config_file: Path, tmp_path: Path) -> None:
    good = run(config_file)
    assert Path(good.bundles[0].path).is_dir()
    record = run(config_file, overrides=["parity.gate.snr_db=1000"])
    assert record.status == "gate_not_met"
    assert record.bundles == ()
    assert not Path(good.bundles[0].path).exists(), "the bundle of an earlier run is not of this model"
    assert Path(record.report).is_file()
    with pytest.raises(GateNotMetError, match="SNR"):
        require_ok(record)
    assert [step.name for step in record.steps] == UNMEASURED[:-1]


def test_accuracy_below_the_gate(config_file: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.random((8, 3, 9, 9), dtype=np.float32), y=np.arange(8) % 5)
    data = ["data={path: data.npz, labels: y}", "parity.gate.min_accuracy=0.999"]
    record = run(config_file, overrides=data)
    assert record.status == "gate_not_met"
    assert {one.contender for one in record.parity_detail.accuracy} >= {"source", "converted", "optimized"}
    with pytest.raises(GateNotMetError, match="accuracy"):
        require_ok(record)


def test_a_changed_model_is_converted_again(config_file: Path, net: Path) -> None:
    first = run(config_file)
    small_net(net, scale=2.0)
    second = run(config_file)
    assert second.steps[0].reason == "the model file changed"
    assert first.convert.sha256 != second.convert.sha256


def test_a_failing_stage_leaves_no_entry(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import pipeline.execute as execute

    def broken(_stage: str) -> object:
        def stage(_context: object) -> object:
            raise InternalError("broken on purpose")

        return stage

    monkeypatch.setattr(execute, "stage_named", broken)
    with pytest.raises(InternalError):
        run(config_file)
    assert not list((tmp_path / "store" / "entries").rglob("record.json"))
    assert not (tmp_path / "runs").exists()
