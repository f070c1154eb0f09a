"""What the onnxruntime target adds to a portable model: a graph for this host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from optim.errors import MissingRuntimeError
from targets import onnxruntime
from targets.bundle import BundleSpec, verify_bundle, write_bundle
from targets.contract import State
from targets.onnxruntime import HOST_FILE, MODEL_FILE, OnnxRuntime, processor
from targets.references import Reference

RUNTIME = Path(onnxruntime.__file__).parent / "templates" / "runtimes" / "onnxruntime.py"


def test_a_graph_for_this_host_runs_here_and_is_refused_elsewhere(
    classifier: Path, references: tuple[Reference, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = BundleSpec("digits", classifier, OnnxRuntime(), references, options={"preoptimized": True})
    result = write_bundle(spec, tmp_path / "bundle")
    assert result.verdict.state is State.VERIFIED, result.verdict.problems
    assert result.artefact.options["host"] == processor() != ""
    assert result.artefact.options["runnable"] == [MODEL_FILE, HOST_FILE]
    portable = {node.domain for node in onnx.load(tmp_path / "bundle" / MODEL_FILE).graph.node}
    assert portable <= {"", "ai.onnx"}
    fused = [node.op_type for node in onnx.load(tmp_path / "bundle" / HOST_FILE).graph.node]
    assert "Relu" not in fused  # part of its convolution now
    done = subprocess.run(
        [sys.executable, str(tmp_path / "bundle" / "verify.py")],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"ok   {HOST_FILE}") == len(references)
    monkeypatch.setattr(onnxruntime, "processor", lambda: "another CPU")
    verdict = verify_bundle(tmp_path / "bundle")
    assert verdict.state is State.VERIFIED
    assert f"not executed: {HOST_FILE}" in verdict.detail
    with pytest.raises(MissingRuntimeError, match="another CPU"):
        OnnxRuntime().open(tmp_path / "bundle", onnxruntime.Artefact((HOST_FILE,), result.artefact.options))


def test_both_sides_know_the_processor_by_one_name() -> None:
    code = f"import runpy; print(runpy.run_path({str(RUNTIME)!r})['processor']())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == processor()
