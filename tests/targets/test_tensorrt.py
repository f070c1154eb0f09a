"""The TensorRT recipe: what the parser takes, the shapes an engine gets, and the scripts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import parser

from optim import model as onnx_file
from optim.errors import UnsupportedModelError, UserError
from targets.bundle import BundleSpec, write_bundle
from targets.contract import State
from targets.manifest import read_manifest
from targets.references import Reference
from targets.tensorrt import REDUCED_GATE, TensorRt
from targets.tensorrt_support import SUPPORTED, refusals


def _model(file: Path, body: str, *, signature: str = "float[N,3,8,8] x", opset: int = 17) -> Path:
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> net ({signature}) => (float[a,b,c,d] y) {{ {body} }}'
    )
    onnx.save(parser.parse_model(text), file)
    return file


REFUSED = [
    ("dilated pool", "[p] y = MaxPool<kernel_shape=[2,2], dilations=[2,2]>(x)", "node p: MaxPool is dilated"),
    ("indices", "[p] y, i = MaxPool<kernel_shape=[2,2]>(x) j = Identity(i)", "gives indices"),
    ("cubic", '[r] y = Resize<mode="cubic">(x, , s)', "of mode cubic"),
    ("not in the table", "[d] y = Det(x)", "node d: Det is not in the parser's operator table"),
    ("bit shift", '[b] y = BitShift<direction="LEFT">(x, x)', "BitShift is not"),
    (
        "quantised with a zero point",
        "[q] z = Constant<value=uint8 {3}>() y = QuantizeLinear(x, s, z)",
        "zero point",
    ),
]


@pytest.mark.parametrize(("title", "body", "reason"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_the_parser_lacks_is_named(tmp_path: Path, title: str, body: str, reason: str) -> None:
    signature = "float[N,3,8,8] x" + (", float[4] s" if "s)" in body or " s," in body else "")
    found = refusals(onnx_file.load(_model(tmp_path / "m.onnx", body, signature=signature)))
    assert any(reason in one for one in found), found


TAKEN = [
    "y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)",
    "y = LRN<size=5>(x)",
    'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , s)',
    "h = HardSwish(x) y = Softmax<axis=1>(h)",
]


@pytest.mark.parametrize("body", TAKEN)
def test_what_it_takes_is_not_refused(tmp_path: Path, body: str) -> None:
    signature = "float[N,3,8,8] x" + (", float[4] s" if "s)" in body else "")
    assert refusals(onnx_file.load(_model(tmp_path / "m.onnx", body, signature=signature))) == ()


@pytest.mark.parametrize(("opset", "fits"), [(8, False), (9, True), (24, True)])
def test_opsets(tmp_path: Path, opset: int, fits: bool) -> None:
    found = refusals(onnx_file.load(_model(tmp_path / "m.onnx", "y = Relu(x)", opset=opset)))
    assert (found == ()) == fits, found


def test_every_name_in_the_table_is_an_operator() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    assert not SUPPORTED - known


def _free(classifier: Path, file: Path) -> Path:
    model = onnx.load(classifier)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, file)
    return file


def test_profiles_hold_the_batches_asked_for(
    classifier: Path, references: tuple[Reference, ...], tmp_path: Path
) -> None:
    model = _free(classifier, tmp_path / "free.onnx")
    options = {"min_batch": 2, "opt_batch": 4, "max_batch": 8, "precision": "fp16"}
    result = write_bundle(
        BundleSpec("digits", model, TensorRt(), references, options=options), tmp_path / "bundle"
    )
    assert result.verdict.state is State.PRODUCED
    profile = json.loads((tmp_path / "bundle" / "profiles.json").read_text())["image"]
    assert profile == {"min": [2, 1, 8, 8], "opt": [4, 1, 8, 8], "max": [8, 1, 8, 8]}
    flags = read_manifest(tmp_path / "bundle").artefact.options["trtexec"]
    assert "--fp16" in flags
    assert "--optShapes=image:4x1x8x8" in flags
    assert read_manifest(tmp_path / "bundle").gate.max_abs_over_range == REDUCED_GATE["max_abs_over_range"]


def test_fp32_forbids_tf32_and_keeps_the_default_gate(classifier: Path, tmp_path: Path) -> None:
    artefact = TensorRt().build(classifier, tmp_path, {})
    assert "--noTF32" in artefact.options["trtexec"]  # type: ignore[operator]
    assert "gate" not in artefact.options
    assert artefact.options["profiles"] == {}  # nothing is free


def test_batches_out_of_order(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="opt_batch 32"):
        TensorRt().build(classifier, tmp_path, {"opt_batch": 32})
    assert list(tmp_path.iterdir()) == []


def test_a_free_height_is_refused(tmp_path: Path) -> None:
    model = _model(tmp_path / "m.onnx", "y = Relu(x)", signature="float[N,3,H,8] x")
    with pytest.raises(UnsupportedModelError, match="input x"):
        TensorRt().build(model, tmp_path, {})


def test_the_build_script_hands_trtexec_the_manifests_flags(
    classifier: Path, references: tuple[Reference, ...], tmp_path: Path
) -> None:
    """With a trtexec that only writes down how it was called."""
    model = _free(classifier, tmp_path / "free.onnx")
    folder = tmp_path / "a bundle"
    write_bundle(BundleSpec("digits", model, TensorRt(), references), folder)
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "trtexec"
    fake.write_text(f'#!/bin/sh\nfor a in "$@"; do echo "$a"; done > "{tmp_path}/called"\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    command = ["sh", str(folder / "build_engine.sh")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    called = (tmp_path / "called").read_text().splitlines()
    assert called[0] == f"--onnx={folder}/model.onnx"
    assert called[3:] == read_manifest(folder).artefact.options["trtexec"]
    assert done.stdout.strip() == called[1].removeprefix("--saveEngine=")
    assert str(folder) not in done.stdout  # the engine does not go into the bundle
    python = shutil.which("python3") or sys.executable
    bare = {"PATH": str(Path(python).parent), "HOME": str(tmp_path)}
    if shutil.which("trtexec", path=bare["PATH"]) is None and shutil.which("dirname", path=bare["PATH"]):
        done = subprocess.run(
            ["/bin/sh", *command[1:]], capture_output=True, text=True, check=False, env=bare
        )
        assert done.returncode == 4
        assert "trtexec is not on PATH" in done.stderr
