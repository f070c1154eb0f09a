"""A bundle's expected latency is compared on the device, GPU and machine where it was found, or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.bench import host as module
from pipeline.bench.expectation import compare_with_expected
from pipeline.bench.host import Gpu, gpu_names, gpus, gpus_of_driver, host
from tests.bench.test_gate import result

H200 = {"name": "NVIDIA H200", "driver": "570.1", "memory_mib": 143771}
HERE = {"fingerprint": "f", "gpus": [H200]}
EXPECTED = {"latency_ms": 10.0, "interval_ms": [9.8, 10.2], "batch": 1, "threads": 1, "host": "f"}
ON_GPU = {**EXPECTED, "device": "cuda", "gpu": "NVIDIA H200, driver 570.1"}


@pytest.mark.parametrize(
    ("expected", "device", "facts", "reason"),
    [
        (EXPECTED, "cpu", HERE, ""),  # as bundles were made before CUDA could win
        ({**EXPECTED, "device": "cpu"}, "cpu", HERE, ""),
        (ON_GPU, "cuda", HERE, ""),
        (ON_GPU, "cpu", HERE, "device cuda there, cpu here"),
        (EXPECTED, "cuda", HERE, "device cpu there, cuda here"),
        (
            ON_GPU,
            "cuda",
            {"fingerprint": "g", "gpus": [{**H200, "driver": "580.2"}]},
            "GPU NVIDIA H200, driver 570.1 there, NVIDIA H200, driver 580.2 here; host f there, g here",
        ),
        (
            ON_GPU,
            "cuda",
            {"fingerprint": "f", "gpus": []},
            "GPU NVIDIA H200, driver 570.1 there, none known here",
        ),
        ({**ON_GPU, "gpu": ""}, "cuda", {"fingerprint": "f"}, "GPU not known there, none known here"),
        ({**EXPECTED, "batch": 8}, "cpu", HERE, "batch 8 there, 1 here"),
    ],
)
def test_unlike_is_not_compared_and_says_why(
    expected: dict[str, Any], device: str, facts: dict[str, Any], reason: str
) -> None:
    found = compare_with_expected(
        result(latency_ms=10.0, interval_ms=(9.9, 10.1), device=device), expected, facts
    )
    assert found is not None
    assert (found.verdict, found.reason) == ("not_comparable" if reason else "as_expected", reason)


def test_the_fingerprint_holds_the_gpu_and_its_driver() -> None:
    bare = replace(host(), gpus=())
    one = replace(bare, gpus=(Gpu("NVIDIA H200", "570.1", 143771),))
    other = replace(bare, gpus=(Gpu("NVIDIA H200", "580.2", 143771),))
    assert len({bare.fingerprint, one.fingerprint, other.fingerprint}) == 3
    assert gpu_names({"gpus": [H200, {**H200, "driver": ""}]}) == (
        "NVIDIA H200, driver 570.1; NVIDIA H200, driver unknown"
    )
    assert gpu_names({}) == ""


VERSIONS = {
    "proprietary": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 2024\n",
    "open": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n",
}


@pytest.mark.parametrize(("kind", "driver"), [("proprietary", "550.54.15"), ("open", "570.86.15")])
def test_a_container_without_the_drivers_tool_asks_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, driver: str
) -> None:
    (tmp_path / "version").write_text(VERSIONS[kind] + "GCC version:  gcc version 12.2.0\n")
    for number in ("0000:18:00.0", "0000:2a:00.0"):
        (tmp_path / "gpus" / number).mkdir(parents=True)
        (tmp_path / "gpus" / number / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   \t\t 99\n")
    expected = (Gpu("NVIDIA H200", driver, 0),) * 2
    assert gpus_of_driver(tmp_path) == expected
    assert gpus_of_driver(tmp_path / "gone") == ()
    monkeypatch.setattr(module, "NVIDIA_DRIVER", tmp_path)
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert gpus() == expected
