"""C source: compiled with warnings as errors, called, linked into a program; what it refuses."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from optim.errors import InternalError, UnsupportedModelError
from targets.bundle import BundleSpec, write_bundle
from targets.c_source import CSource, header_of
from targets.contract import State
from targets.reference import OrtSession
from targets.references import Reference

pytest.importorskip("emx_onnx_cgen", reason="fairlead[c] is not installed")

PROGRAM = """
#include <stdio.h>
#include "model.h"
int main(void) {
  static float in[1][1][8][8], out[1][4];
  if (fread(in, sizeof in, 1, stdin) != 1) return 2;
  model(in, out);
  fwrite(out, sizeof out, 1, stdout);
  return 0;
}
"""


@pytest.fixture(scope="module")
def bundle(
    classifier: Path, references: tuple[Reference, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("c") / "bundle"
    result = write_bundle(BundleSpec("digits", classifier, CSource(), references), folder)
    if result.verdict.state is State.PRODUCED:
        pytest.skip(result.verdict.detail)
    assert result.verdict.state is State.VERIFIED, result.verdict.problems
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang", "g++"])
def test_links_into_a_program_through_its_header(
    bundle: Path, references: tuple[Reference, ...], tmp_path: Path, compiler: str
) -> None:
    """For g++ the program is C++ and the model still C: the header has to say so."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} on this machine")
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    make = ["make", "-s", "-C", str(folder), f"CC={'gcc' if compiler == 'g++' else compiler}"]
    subprocess.run(make, check=True)
    source = tmp_path / ("main.cpp" if compiler == "g++" else "main.c")
    source.write_text(PROGRAM)
    flags = ["-Wall", "-Werror", f"-I{folder}", "-o", str(tmp_path / "main")]
    subprocess.run([compiler, *flags, str(source), str(folder / "model.o"), "-lm"], check=True)
    x = references[1].feeds["image"]
    done = subprocess.run([str(tmp_path / "main")], input=x.tobytes(), capture_output=True, check=True)
    got = np.frombuffer(done.stdout, np.float32).reshape(1, 4)
    assert np.allclose(got, references[1].outputs["scores"], rtol=1e-5, atol=1e-6)


def test_a_free_batch_is_answered_example_by_example(classifier: Path, tmp_path: Path) -> None:
    model = onnx.load(classifier)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, tmp_path / "free.onnx")
    x = np.random.default_rng(5).normal(size=(3, 1, 8, 8)).astype(np.float32)
    with OrtSession(tmp_path / "free.onnx", optimization="off") as session:
        reference = Reference("data", {"image": x}, session.run({"image": x}))
    spec = BundleSpec("digits", tmp_path / "free.onnx", CSource(), (reference,))
    result = write_bundle(spec, tmp_path / "bundle")
    assert result.verdict.state is State.VERIFIED, result.verdict.problems


def test_an_operator_the_generator_lacks_is_quoted(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,8,8] x) => (float[1,3,4,4] y) '
    text += "{ y = MaxRoiPool<pooled_shape=[4,4]>(x, r) }"
    model = parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 5), np.float32), "r"))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedModelError, match="MaxRoiPool"):
        CSource().build(tmp_path / "m.onnx", tmp_path, {})


def test_a_source_without_the_function_is_our_bug() -> None:
    with pytest.raises(InternalError, match="no function"):
        header_of("int other(void) { return 0; }\n")
