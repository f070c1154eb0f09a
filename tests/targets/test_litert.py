"""LiteRT flatbuffers, loaded again by ai-edge-litert."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from optim.errors import UnsupportedModelError, UserError
from targets.bundle import BundleSpec, verify_bundle, write_bundle
from targets.calibration import CALIBRATION_FILE, Calibration
from targets.contract import State
from targets.litert import GATES, LiteRt
from targets.manifest import read_manifest
from targets.reference import OrtSession
from targets.references import Reference
from tests.targets.operator_cases import expected_of, graph

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


def test_int8_is_calibrated_and_held_to_its_own_gate(
    classifier: Path, references: tuple[Reference, ...], tmp_path: Path
) -> None:
    examples = np.random.default_rng(11).normal(size=(64, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "calibration.npz", image=examples)
    options = {"precision": "int8", "calibration": str(tmp_path / "calibration.npz")}
    result = write_bundle(
        BundleSpec("digits", classifier, LiteRt(), references, options=options), tmp_path / "bundle"
    )
    assert result.verdict.state is State.VERIFIED, result.verdict.problems
    assert result.verdict.max_abs_over_range is not None
    assert 1e-3 < result.verdict.max_abs_over_range < 0.1  # 256 levels, no fewer and not float32 by accident
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.gate.max_abs_over_range == GATES["int8"]["max_abs_over_range"]
    assert str(tmp_path) not in (tmp_path / "bundle" / "manifest.json").read_text()  # no path of this machine
    assert result.artefact.options["notes"] == ["calibrated on 64 examples of the file given as calibration"]


def test_int8_takes_the_runs_own_data_and_says_how_many(
    classifier: Path, references: tuple[Reference, ...], tmp_path: Path
) -> None:
    examples = np.random.default_rng(11).normal(size=(40, 1, 8, 8)).astype(np.float32)
    spec = BundleSpec(
        "digits", classifier, LiteRt(), references, options={"precision": "int8"},
        calibration=Calibration({"image": examples}, "of the run's data"),
    )  # fmt: skip
    result = write_bundle(spec, tmp_path / "bundle")
    assert result.verdict.state is State.VERIFIED, result.verdict.problems
    assert result.artefact.options["notes"] == ["calibrated on 40 examples of the run's data"]
    assert (
        "It was calibrated on 40 examples of the run's data." in (tmp_path / "bundle/README.md").read_text()
    )
    assert not (tmp_path / "bundle" / CALIBRATION_FILE).exists()


def test_int8_of_a_thousand_classes_keeps_its_probabilities(tmp_path: Path) -> None:
    """An integer softmax has 256 steps of 1/256, and here no probability reaches one: all would be 0."""
    rng = np.random.default_rng(21)
    model = graph("h = Relu(x) z = Gemm<transB=1>(h, w) y = Softmax<axis=1>(z)", "[1,32]", "[1,1000]",
                  w=(rng.normal(size=(1000, 32)) / 16).astype(np.float32))  # fmt: skip
    onnx.save(model, tmp_path / "wide.onnx")
    examples = rng.normal(size=(64, 32)).astype(np.float32)
    np.savez(tmp_path / "calibration.npz", x=examples)
    references = tuple(
        Reference(f"data_{k}", {"x": x[None]}, {"y": expected_of(model, x[None])})
        for k, x in enumerate(examples[:4])
    )
    assert max(float(r.outputs["y"].max()) for r in references) < 1 / 64
    options = {"precision": "int8", "calibration": str(tmp_path / "calibration.npz")}
    spec = BundleSpec("wide", tmp_path / "wide.onnx", LiteRt(), references, options=options)
    result = write_bundle(spec, tmp_path / "bundle")
    assert result.verdict.state is State.VERIFIED, result.verdict.problems
    assert result.artefact.options["examples_compared"] == 64
    kept = result.artefact.options["first_class_kept"]
    assert isinstance(kept, float)
    assert kept > 0.75
    assert "first class" in (tmp_path / "bundle" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (None, "needs calibration data"),
        ({"picture": np.zeros((4, 1, 8, 8), np.float32)}, "holds"),
        ({"image": np.zeros((4, 8, 8, 1), np.float32)}, "calibration data"),
        ({"image": np.zeros((4, 1, 8, 8), np.float64)}, "calibration data"),
    ],
    ids=["none", "another name", "another shape", "another type"],
)
def test_calibration_data_must_fit(
    classifier: Path,
    references: tuple[Reference, ...],
    tmp_path: Path,
    arrays: dict[str, np.ndarray] | None,
    reason: str,
) -> None:
    options: dict[str, object] = {"precision": "int8"}
    if arrays is not None:
        np.savez(tmp_path / "calibration.npz", allow_pickle=False, **arrays)  # type: ignore[arg-type]
        options["calibration"] = str(tmp_path / "calibration.npz")
    spec = BundleSpec("digits", classifier, LiteRt(), references, options=options)
    with pytest.raises(UserError, match=reason):
        write_bundle(spec, tmp_path / "out" / "bundle")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_larger_batch_is_answered_example_by_example(classifier: Path, tmp_path: Path) -> None:
    """The file's batch is 1 where the model's is free; a reference of several examples is still replayed."""
    model = onnx.load(classifier)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, tmp_path / "free.onnx")
    x = np.random.default_rng(5).normal(size=(3, 1, 8, 8)).astype(np.float32)
    with OrtSession(tmp_path / "free.onnx", optimization="off") as session:
        reference = Reference("data", {"image": x}, session.run({"image": x}))
    spec = BundleSpec("digits", tmp_path / "free.onnx", LiteRt(), (reference,))
    result = write_bundle(spec, tmp_path / "bundle")
    assert result.verdict.state is State.VERIFIED, result.verdict.problems
