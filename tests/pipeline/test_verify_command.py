"""`fairlead verify` proves or says that it proved nothing: a missing runtime is no success."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from targets.manifest import read_manifest, write_manifest
from targets.onnxruntime import HOST_FILE, MODEL_FILE
from tests.pipeline.test_cli import answer, fairlead


@pytest.fixture
def bundle(net: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    made = answer("export", net, "--target", "onnxruntime", "--option", "preoptimized=true", "-o", folder)
    assert made["not_executed"] == []
    return folder


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine that lacks ONNX Runtime."""
    folder = tmp_path / "absent"
    folder.mkdir()
    (folder / "onnxruntime.py").write_text("raise ImportError(\"No module named 'onnxruntime'\")\n")
    return {"PYTHONPATH": str(folder)}


def test_what_could_not_be_executed_at_all_is_exit_4(bundle: Path, bare: dict[str, str]) -> None:
    done = fairlead("verify", bundle, **bare)
    assert done.returncode == 4
    assert "produced, not executed" in done.stdout
    assert "the files are intact, but the model was not executed" in done.stderr
    assert MODEL_FILE in done.stderr
    assert "pip install 'fairlead[cpu]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_says_so_too(bundle: Path, bare: dict[str, str]) -> None:
    done = fairlead("verify", bundle, "--json", **bare)
    assert done.returncode == 4
    record = json.loads(done.stdout)
    assert (record["status"], record["state"]) == ("not_executed", "produced, not executed")
    absent = [line.partition(":")[0] for line in record["not_executed"]]
    assert absent == [MODEL_FILE, HOST_FILE]


def test_a_damaged_bundle_fails_whatever_is_missing(bundle: Path, bare: dict[str, str]) -> None:
    (bundle / "labels.txt").write_text("one more file\n")
    assert fairlead("verify", bundle, **bare).returncode == 1


def test_an_optional_part_that_did_not_run_is_named(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    options = {**manifest.artefact.options, "host": "another CPU"}
    artefact = manifest.artefact.model_copy(update={"options": options})
    write_manifest(bundle, manifest.model_copy(update={"artefact": artefact}))
    record = answer("verify", bundle)
    assert (record["status"], record["state"]) == ("ok", "verified")
    assert len(record["not_executed"]) == 1
    assert record["not_executed"][0].startswith(f"{HOST_FILE}: it was optimised for another CPU")
    assert f"not executed: {HOST_FILE}" in fairlead("verify", bundle).stdout


@pytest.fixture
def for_cuda(net: Path, tmp_path: Path) -> Path:
    """A bundle for CUDA, made and verified where no GPU is."""
    folder = tmp_path / "cuda"
    options = ("--option", "device=cuda", "--option", "io_binding=true", "--option", "layout=NHWC")
    made = answer("export", net, "--target", "onnxruntime", *options, "-o", folder)
    assert (made["status"], made["state"]) == ("ok", "produced, not executed")
    assert made["notes"] == ["made for the CUDA provider: NHWC, TF32 off, bound buffers"]
    return folder


def test_a_bundle_for_a_gpu_is_judged_on_the_cpu_and_is_not_done_with_that(for_cuda: Path) -> None:
    done = fairlead("verify", for_cuda, "--json")
    assert done.returncode == 4
    record = json.loads(done.stdout)
    assert (record["status"], record["state"]) == ("not_executed", "produced, not executed")
    assert 0 <= record["max_abs_over_range"] <= 2e-5  # of the same file on the CPU
    assert [line.partition(": ")[0] for line in record["not_executed"]] == [f"{MODEL_FILE}#cuda"]
    assert "not all that it is made for was executed: model.onnx#cuda: " in done.stderr
    assert "--device cpu" in done.stderr


def test_the_cpu_alone_is_verified_if_asked_for(for_cuda: Path) -> None:
    record = answer("verify", for_cuda, "--device", "cpu")
    assert (record["status"], record["state"]) == ("ok", "verified")
    assert record["not_executed"] == [f"{MODEL_FILE}#cuda: device cpu leaves it out"]


def test_a_device_that_the_bundle_is_not_for_is_wrong_input(bundle: Path) -> None:
    done = fairlead("verify", bundle, "--device", "cuda")
    assert done.returncode == 2
    assert "nothing in this bundle is made for cuda" in done.stderr
