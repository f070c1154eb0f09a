"""Host facts, and the refusal to compare unlike hosts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

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


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/box\n", {"box/cpu.max": "150000 100000"}, 1.5),
        ("0::/box\n", {"box/cpu.max": "max 100000"}, None),
        ("0::/\n", {"cpu.max": "50000 100000"}, 0.5),  # a container that sees its own group as the root
        ("0::/a/b\n", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "400000 100000"}, 1.0),  # the one above
        ("0::/gone/from/here\n", {"cpu.max": "200000 100000"}, 2.0),  # the host's path in a container
        ("0::/../../box\n", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/box\n", {"box/cpu.max": "garbage"}, None),
        ("0::/box\n", {}, None),
        ("", {"cpu.max": "50000 100000"}, None),
        (
            "3:cpuset:/\n1:cpu:/box\n0::/\n",
            {"cpu/box/cpu.cfs_quota_us": "250000", "cpu/box/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        (
            "4:cpu,cpuacct:/box\n",
            {"cpu,cpuacct/box/cpu.cfs_quota_us": "-1", "cpu,cpuacct/box/cpu.cfs_period_us": "100000"},
            None,
        ),
    ],
)
def test_the_quota_of_the_control_group(
    own: str, files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert hosts.cpu_quota(own, tmp_path) == quota


def test_a_quota_makes_another_host_only_where_it_takes_cpus_away() -> None:
    here = replace(hosts.host(), usable_threads=4, cpu_quota=None)
    wide, narrow = replace(here, cpu_quota=4.0), replace(here, cpu_quota=1.5)
    assert wide.fingerprint == here.fingerprint != narrow.fingerprint
    facts = {"usable_threads": 4}
    assert hosts.unlike(facts, {**facts, "cpu_quota": 8.0}) == ()  # older records do not hold it
    assert hosts.unlike(facts, {**facts, "cpu_quota": 1.5}) == ("cpu_quota: none against 1.5",)
