"""LiteRT flatbuffers, loaded again by ai-edge-litert."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from optim.errors import UnsupportedModelError
from targets.bundle import BundleSpec, verify_bundle, write_bundle
from targets.contract import State
from targets.litert import LiteRt
from targets.references import Reference

pytest.importorskip("ai_edge_litert", reason="fairlead[litert] is not installed")
pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


def test_f16_bundle_is_verified_here_and_in_its_own_world(
    classifier: Path, references: tuple[Reference, ...], tmp_path: Path
) -> None:
    spec = BundleSpec("digits", classifier, LiteRt(), references, options={"precision": "f16"})
    result = write_bundle(spec, tmp_path / "bundle")
    assert result.verdict.state is State.VERIFIED, result.verdict.problems
    assert result.verdict.max_abs_over_range is not None
    assert 2e-5 < result.verdict.max_abs_over_range < 1e-2  # f16 weights differ, and by no more than that
    assert result.artefact.options["operators"] > 3
    done = subprocess.run(
        [sys.executable, str(tmp_path / "bundle" / "verify.py")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ai-edge-litert" in done.stdout
    assert verify_bundle(tmp_path / "bundle").state is State.VERIFIED


def test_free_sizes_are_refused_before_anything_is_started(classifier: Path, tmp_path: Path) -> None:
    model = onnx.load(classifier)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "free.onnx")
    assert any("image" in r and "free dimensions" in r for r in LiteRt().unsupported(tmp_path / "free.onnx"))
    with pytest.raises(UnsupportedModelError):
        LiteRt().build(tmp_path / "free.onnx", tmp_path, {})
