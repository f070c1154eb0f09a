"""OpenVINO IR, loaded again by its CPU plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optim.errors import UnsupportedModelError
from targets.bundle import BundleSpec, verify_bundle, write_bundle
from targets.contract import State
from targets.manifest import read_manifest
from targets.openvino import F16_GATE, OpenVino
from targets.references import Reference

pytest.importorskip("openvino", reason="fairlead[openvino] is not installed")


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_bundle_is_verified_here_and_in_its_own_world(
    classifier: Path, references: tuple[Reference, ...], tmp_path: Path, precision: str
) -> None:
    spec = BundleSpec("digits", classifier, OpenVino(), references, options={"precision": precision})
    result = write_bundle(spec, tmp_path / "bundle")
    assert result.verdict.state is State.VERIFIED, result.verdict.problems
    gate = read_manifest(tmp_path / "bundle").gate
    assert gate.max_abs_over_range == (2e-5 if precision == "f32" else F16_GATE["max_abs_over_range"])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "bundle" / "verify.py")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "openvino" in done.stdout
    assert verify_bundle(tmp_path / "bundle").state is State.VERIFIED


def test_f16_halves_the_weights_and_does_not_pass_the_f32_gate_by_accident(
    classifier: Path, references: tuple[Reference, ...], tmp_path: Path
) -> None:
    sizes = {}
    for precision in ("f32", "f16"):
        folder = tmp_path / precision
        write_bundle(BundleSpec("d", classifier, OpenVino(), references, {"precision": precision}), folder)
        sizes[precision] = (folder / "model.bin").stat().st_size
    assert sizes["f16"] < 0.6 * sizes["f32"]
    verdict = verify_bundle(tmp_path / "f16")
    assert verdict.max_abs_over_range is not None
    assert verdict.max_abs_over_range > 2e-5


def test_an_input_without_dimensions_is_fed_as_one(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    ports = [value("x", TensorProto.FLOAT, [2, 3]), value("scale", TensorProto.FLOAT, [])]
    node = helper.make_node("Mul", ["x", "scale"], ["y"], name="scaled")
    graph = helper.make_graph([node], "g", ports, [value("y", TensorProto.FLOAT, [2, 3])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    x, scale = np.arange(6, dtype=np.float32).reshape(2, 3), np.array(3, np.float32)
    reference = Reference("counted", {"x": x, "scale": scale}, {"y": 3 * x})
    result = write_bundle(BundleSpec("m", tmp_path / "m.onnx", OpenVino(), (reference,)), tmp_path / "b")
    assert result.verdict.state is State.VERIFIED, result.verdict.problems


def test_an_op_it_lacks_is_named(tmp_path: Path) -> None:
    text = helper.make_tensor_value_info("x", TensorProto.STRING, [2])
    same = helper.make_tensor_value_info("y", TensorProto.STRING, [2])
    node = helper.make_node("StringNormalizer", ["x"], ["y"], name="lower", case_change_action="LOWER")
    graph = helper.make_graph([node], "g", [text], [same])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "m.onnx",
    )
    with pytest.raises(UnsupportedModelError, match="StringNormalizer"):
        OpenVino().build(tmp_path / "m.onnx", tmp_path, {})
