"""Core ML packages: written, read back, and nothing lost; run on macOS only."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from optim.errors import UnsupportedModelError
from targets.bundle import BundleSpec, write_bundle
from targets.coreml import SPEC_FILE, CoreMl, _names
from targets.manifest import read_manifest
from targets.references import Reference

pytest.importorskip("coremltools", reason="fairlead[coreml] is not installed")


def test_names_are_what_core_ml_takes_and_unique() -> None:
    def entries(*names: str) -> list[dict[str, str]]:
        return [{"name": name} for name in names]

    signature = {"inputs": entries("InputData/X:0", "InputData.X.0"), "outputs": entries("1", "y")}
    assert _names(signature, "inputs") == ["InputData_X_0", "InputData_X_0_"]
    assert _names(signature, "outputs") == ["_1", "y"]


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_the_package_holds_signature_labels_and_weights(
    classifier: Path, references: tuple[Reference, ...], tmp_path: Path, precision: str
) -> None:
    labels = ("a", "b", "c", "d")
    spec = BundleSpec("digits", classifier, CoreMl(), references, {"precision": precision}, labels=labels)
    write_bundle(spec, tmp_path / "bundle")
    from coremltools.proto import Model_pb2  # type: ignore[import-untyped]

    package = Model_pb2.Model()
    package.ParseFromString((tmp_path / "bundle" / SPEC_FILE).read_bytes())
    assert [f.name for f in package.description.input] == ["image"]
    assert list(package.description.input[0].type.multiArrayType.shape) == [1, 1, 8, 8]
    assert [f.name for f in package.description.output] == ["scores"]
    assert package.description.metadata.userDefined["classes"].split("\n") == list(labels)
    assert package.WhichOneof("Type") == "mlProgram"
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.artefact.options["parameters"] == 3 * 9 + 3 + 4 * 12 + 4
    assert manifest.gate.max_abs_over_range == (2e-5 if precision == "f32" else 1e-2)
    if sys.platform != "darwin":
        assert manifest.state.value == "produced, not executed"
        assert "macOS" in manifest.detail


INTEGERS = """
<ir_version: 8, opset_import: ["" : 17]>
net (int64[1,4] tokens) => (int64[1,4] y) { y = Identity(tokens) }
"""


def test_types_that_core_ml_does_not_pass_are_refused(tmp_path: Path) -> None:
    onnx.save(parser.parse_model(INTEGERS), tmp_path / "m.onnx")
    assert any(
        "int64" in reason and "tokens" in reason for reason in CoreMl().unsupported(tmp_path / "m.onnx")
    )
    with pytest.raises(UnsupportedModelError):
        CoreMl().build(tmp_path / "m.onnx", tmp_path, {})


def test_weights_that_were_lost_are_noticed(tmp_path: Path) -> None:
    from targets.coreml import _check

    class Nothing:
        """Stands for coremltools; the package it reads back has the right sides and no weights."""

        class utils:  # noqa: N801
            @staticmethod
            def load_spec(_: str) -> object:
                feature = type("Feature", (), {"name": "x"})
                sides = type("Description", (), {"input": [feature], "output": [feature]})
                return type("Spec", (), {"description": sides})

    (tmp_path / "model.mlpackage").mkdir()
    (tmp_path / "model.mlpackage" / "weight.bin").write_bytes(np.zeros(10, np.float32).tobytes())
    signature = {"inputs": [{"coreml_name": "x"}], "outputs": [{"coreml_name": "x"}]}
    _check(Nothing, tmp_path / "model.mlpackage", signature, 40)
    with pytest.raises(UnsupportedModelError, match="40 bytes"):
        _check(Nothing, tmp_path / "model.mlpackage", signature, 4000)
