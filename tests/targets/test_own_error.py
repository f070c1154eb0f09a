"""A bundle says its error against float64 as a multiple of the source framework's own, and is held to it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from targets.bundle import BundleSpec, verify_bundle, write_bundle
from targets.closeness import Gate
from targets.contract import State
from targets.manifest import read_manifest
from targets.onnxruntime import OnnxRuntime
from targets.reference import Float64Session
from targets.references import Reference

GATE = Gate(source_error_factor=2.0)


@pytest.fixture(scope="module")
def exact(classifier: Path, references: tuple[Reference, ...]) -> tuple[Reference, ...]:
    """The references with what float64 makes of them."""
    session = Float64Session(classifier)
    return tuple(replace(one, truth=session.run(one.feeds)) for one in references)


def spec_of(model: Path, references: tuple[Reference, ...], **changes: object) -> BundleSpec:
    return BundleSpec("net", model, OnnxRuntime(), references, gate=GATE, **changes)  # type: ignore[arg-type]


def away(references: tuple[Reference, ...], share: float) -> tuple[Reference, ...]:
    """References whose truth and answers lie elsewhere by a share: the artefact alone is that far off."""
    moved = []
    for one in references:
        truth = {key: moved_first(value, share) for key, value in one.truth.items()}
        outputs = {key: value.astype(np.float32) for key, value in truth.items()}
        moved.append(replace(one, truth=truth, outputs=outputs))
    return tuple(moved)


def moved_first(value: np.ndarray, share: float) -> np.ndarray:
    factor = np.ones(value.shape[-1])
    factor[0] -= share
    return value * factor


def test_the_multiple_stands_in_verdict_manifest_documents_and_script(classifier, exact, tmp_path):
    made = write_bundle(spec_of(classifier, exact), tmp_path / "b")
    assert made.verdict.state is State.VERIFIED
    error = made.verdict.error
    assert error is not None
    assert 0 < error.artefact < 1e-5
    assert 0 < error.source < 1e-5
    manifest = read_manifest(tmp_path / "b")
    assert manifest.truth == tuple(f"truth/{one.name}.npz" for one in exact)
    assert manifest.gate.source_error_factor == 2.0
    told = manifest.verification
    assert told is not None
    assert (told.error, told.source_error) == (error.artefact, error.source)
    assert told.error_multiple == pytest.approx(error.artefact / error.source)
    for name in ("README.md", "MODEL_CARD.md"):
        assert "error against float64" in (tmp_path / "b" / name).read_text()
    again = verify_bundle(tmp_path / "b")
    assert again.error == error
    done = subprocess.run(
        [sys.executable, "-I", tmp_path / "b" / "verify.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    line = next(one for one in done.stdout.splitlines() if "error against float64" in one)
    assert line.startswith(f"ok   error against float64: {error.artefact:.3g} of the range")
    assert f"{error.source:.3g}" in line


def test_an_artefact_farther_from_float64_than_allowed_fails_here_and_there(classifier, exact, tmp_path):
    """The source is exact, the artefact some 1e-5 of the range off: within the gate on differences alone."""
    shifted = away(exact, 1.5e-5)
    alone = write_bundle(replace(spec_of(classifier, shifted), gate=Gate()), tmp_path / "b")
    assert alone.verdict.state is State.VERIFIED
    failed = write_bundle(spec_of(classifier, shifted), tmp_path / "c")
    assert failed.verdict.state is State.FAILED
    (problem,) = failed.verdict.problems
    assert "the error against float64 is" in problem
    assert "2 × the source's own" in problem
    assert verify_bundle(tmp_path / "b", gate=GATE).state is State.FAILED
    held = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert held["gate"]["source_error_factor"] is None


def test_without_truth_nothing_is_said(classifier, references, tmp_path):
    made = write_bundle(spec_of(classifier, references), tmp_path / "b")
    assert made.verdict.error is None
    manifest = read_manifest(tmp_path / "b")
    assert manifest.truth == ()
    assert manifest.verification is not None
    assert manifest.verification.error_multiple is None
    assert not (tmp_path / "b" / "truth").exists()
    done = subprocess.run(
        [sys.executable, "-I", tmp_path / "b" / "verify.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "float64" not in done.stdout


def test_a_missing_truth_is_noticed(classifier, exact, tmp_path):
    write_bundle(spec_of(classifier, exact), tmp_path / "b")
    (tmp_path / "b" / "truth" / f"{exact[0].name}.npz").unlink()
    assert verify_bundle(tmp_path / "b").state is State.FAILED
