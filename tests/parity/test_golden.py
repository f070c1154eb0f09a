"""Golden files: what is written is read again, compared, and refused where it does not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import pipeline.parity.record_reference as standalone
from optim.errors import UserError
from pipeline.config import GateConfig
from pipeline.parity.golden import Golden, check_golden, read_golden, record, write_golden
from targets.reference import Float64Session, OrtSession

from .networks import classifier


@pytest.fixture
def single(tmp_path):
    path = tmp_path / "single.onnx"
    ir.save(classifier(), path)
    return OrtSession(path, optimization="off")


@pytest.fixture
def double():
    graph = onnx.parser.parse_graph(
        "g (float[N, 2] a, float[N, 2] b) => (float[N, 2] s, float[N, 2] p) {"
        " s = Add (a, b)  p = Mul (a, b) }"
    )
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = {"b": "deep/b:0", "p": "deep/p:0"}.get(name, name)
    graph.input[1].name, graph.output[1].name = "deep/b:0", "deep/p:0"
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return OrtSession(model.SerializeToString(), optimization="off")


@pytest.mark.parametrize("suffix", ["npz", "h5"])
@pytest.mark.parametrize("which", ["single", "double"])
def test_round_trip(tmp_path, request, suffix, which):
    if suffix == "h5":
        pytest.importorskip("h5py")
    session = request.getfixturevalue(which)
    path = tmp_path / f"refs.{suffix}"
    written = record(session, path, seed=3, batch=2)
    read = read_golden(path)
    for key, tensors in written.arrays().items():
        for name, value in tensors.items():
            stored = read.arrays()[key]
            np.testing.assert_array_equal(stored[name] if which == "double" else stored[""], value)
    result = check_golden(session, read, GateConfig())
    assert result.passed
    assert {c.feed for c in result.comparisons} == {"golden zeros", "golden random"}
    assert result.metrics.max_abs == 0
    assert not list(tmp_path.glob("*.part"))


def test_the_names_in_the_file_are_those_of_the_original_checks(tmp_path, single):
    h5py = pytest.importorskip("h5py")
    record(single, tmp_path / "r.h5")
    with h5py.File(tmp_path / "r.h5") as file:
        assert sorted(file) == ["OutputForRandom", "OutputForZeros", "RandomInput"]
        assert file["RandomInput"].shape == (1, 3, 16, 16)


def test_a_difference_is_a_finding(single):
    feed = {"x": np.random.default_rng(0).random((1, 3, 16, 16), dtype=np.float32)}
    good = {"": single.run(feed)["y"]}
    zero = {"": single.run({"x": np.zeros_like(feed["x"])})["y"]}
    bad = {"": good[""] * np.float32(1.001)}
    assert check_golden(single, Golden({"": feed["x"]}, good, zero), GateConfig()).passed
    result = check_golden(single, Golden({"": feed["x"]}, bad, zero), GateConfig())
    assert not result.passed
    assert result.metrics.max_relative_clipped == pytest.approx(0.001, rel=0.01)


def test_the_float64_session_can_be_recorded_too(tmp_path):
    golden = record(Float64Session(classifier()), tmp_path / "r.npz")
    assert golden.output_for_zeros["y"].dtype == np.float64


def golden_with(**changes):
    arrays = {"random_input": {"": np.ones((1, 3, 16, 16), np.float32)}} | {
        k: {"": np.full((1, 10), 0.1, np.float32)} for k in ("output_for_random", "output_for_zeros")
    }
    return Golden(**(arrays | changes))


def test_refusals(tmp_path, single, double):
    with pytest.raises(UserError, match="no name of a golden file"):
        write_golden(tmp_path / "refs.txt", golden_with())
    with pytest.raises(UserError, match="not usable as a reference"):
        write_golden(tmp_path / "r.npz", golden_with(output_for_zeros={"": np.array([np.nan])}))
    with pytest.raises(UserError, match="nothing recorded"):
        write_golden(tmp_path / "r.npz", golden_with(output_for_zeros={}))
    with pytest.raises(UserError, match="no such golden file"):
        read_golden(tmp_path / "none.npz")
    np.savez(tmp_path / "half.npz", RandomInput=np.ones(3))
    with pytest.raises(UserError, match="lacks OutputForZeros, OutputForRandom"):
        read_golden(tmp_path / "half.npz")
    with pytest.raises(UserError, match="inputs are not the model's"):
        check_golden(double, golden_with(), GateConfig())
    with pytest.raises(UserError, match="shapes differ"):
        check_golden(single, golden_with(output_for_zeros={"": np.ones((1, 9))}), GateConfig())
    (tmp_path / "bad.h5").write_bytes(b"nothing")
    pytest.importorskip("h5py")
    with pytest.raises(UserError, match="not a readable HDF5"):
        read_golden(tmp_path / "bad.h5")


def test_hdf5_cannot_reach_other_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file.create_dataset(
            "RandomInput", (4,), dtype="float32", external=[(str(tmp_path / "secret.bin"), 0, 16)]
        )
    with pytest.raises(UserError, match="in another file"):
        read_golden(tmp_path / "r.h5")


# --- the script that stands alone ----------------------------------------------------------------


def test_arguments_of_the_standalone_script():
    assert standalone.parse_inputs("a:0[1,224,224,3], b:0[]") == {"a:0": [1, 224, 224, 3], "b:0": []}
    assert standalone.parse_feeds(["keep_prob:0=0.5", "train:0=False"]) == {
        "keep_prob:0": 0.5,
        "train:0": False,
    }


def test_the_standalone_script_imports_nothing_of_ours():
    text = Path(standalone.__file__).read_text()
    assert not any(
        f"{word} {package}" in text
        for word in ("import", "from")
        for package in ("pipeline", "optim", "targets")
    )


BUILD = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
v1 = tf.compat.v1
with tf.Graph().as_default():
    x = v1.placeholder(tf.float32, [None, 3], name="x")
    keep = v1.placeholder(tf.float32, [], name="keep")
    w = v1.get_variable("w", initializer=tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    y = tf.multiply(tf.matmul(x, w) + 1.0, keep, name="y")
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, sys.argv[1] + "/model.ckpt")
class Twice(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": 2.0 * x}
module = Twice()
tf.saved_model.save(module, sys.argv[1] + "/saved", signatures=module.__call__)

import runpy
folder, script = sys.argv[1:]
os.chdir(folder)
for line in (
    "model.ckpt -o ckpt.npz --inputs x:0[2,3] --outputs y:0 --feed keep:0=0.5",
    "saved -o saved.h5",
):
    sys.argv = [script, *line.split()]
    runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.tensorflow
@pytest.mark.slow
def test_the_standalone_script_records_with_tensorflow(tmp_path):
    pytest.importorskip("tensorflow")
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}

    subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path), standalone.__file__], check=True, env=quiet, timeout=300
    )
    checkpoint = read_golden(tmp_path / "ckpt.npz")
    x = checkpoint.random_input[""]
    np.testing.assert_allclose(
        checkpoint.output_for_random[""], (x @ [[1, 2], [3, 4], [5, 6]] + 1) / 2, rtol=1e-5
    )
    np.testing.assert_array_equal(checkpoint.output_for_zeros[""], np.full((2, 2), 0.5))
    saved = read_golden(tmp_path / "saved.h5")
    np.testing.assert_allclose(saved.output_for_random[""], 2 * saved.random_input[""])
