"""Host facts, and the refusal to compare unlike hosts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from optim.errors import UserError
from pipeline.bench import host as hosts
from pipeline.bench.host import Gpu


def test_environment_survives_json_and_names_this_machine() -> None:
    facts = hosts.environment()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu_model"]
    assert facts["memory_mib"] > 0
    assert len(facts["fingerprint"]) == 16
    assert facts["packages"]["numpy"]


def test_fingerprint_follows_the_hardware_and_not_the_packages() -> None:
    here = hosts.host()
    assert replace(here, packages={"onnxruntime": "0"}, kernel="other").fingerprint == here.fingerprint
    assert replace(here, cpu_model="another").fingerprint != here.fingerprint
    assert replace(here, gpus=(Gpu("H200", "575.1", 143771),)).fingerprint != here.fingerprint


def test_unlike_hosts_are_not_compared() -> None:
    here = hosts.environment()
    hosts.require_alike(here, dict(here))
    other = {**here, "cpu_model": "AnotherChip", "fingerprint": "0" * 16}
    assert hosts.unlike(here, other)[0].startswith("cpu_model: ")
    with pytest.raises(UserError, match="AnotherChip"):
        hosts.require_alike(here, other)


def test_changed_packages_are_noted() -> None:
    old = {"packages": {"onnxruntime": "1.30", "numpy": "2"}}
    new = {"packages": {"onnxruntime": "1.31", "numpy": "2", "keras": "3"}}
    assert hosts.changed_packages(old, new) == ("keras absent -> 3", "onnxruntime 1.30 -> 1.31")


def test_gpu_lines_of_the_driver() -> None:
    text = "NVIDIA H200, 575.57.08, 143771\ngarbage\nNVIDIA A10, 575.57.08, [N/A]\n"
    assert hosts.parse_gpus(text) == (Gpu("NVIDIA H200", "575.57.08", 143771),)
    assert hosts.parse_gpus("") == ()


def test_snapshots_move_forward() -> None:
    before, after = hosts.snapshot(), hosts.snapshot()
    assert after.at_s > before.at_s
    assert after.busy_s >= before.busy_s
    assert before.clock_probe_ms > 0
    assert before.cpu_s_by_process
