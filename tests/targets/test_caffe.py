"""Caffe bundles: verified here, checked in their own world, compared layer by layer with their source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from optim.errors import UnsupportedModelError, UserError
from targets.axis_order import input_order
from targets.bundle import BundleSpec, verify_bundle, write_bundle
from targets.caffe.net import LIMIT_BYTES, Layer, Net, write_caffemodel
from targets.caffe.target import Caffe
from targets.contract import State
from targets.layer_trace import LayerTrace, TracedLayer, TracedWeight
from targets.manifest import read_manifest
from targets.references import Reference
from tests.targets.operator_cases import graph, ints, seeded

pytest.importorskip("cv2", reason="fairlead[caffe] is not installed")

BODY = """s = Sub(x, m) t = Transpose<perm=[0,3,1,2]>(s) c = Conv<pads=[1,1,1,1]>(t, w)
b = BatchNormalization<epsilon=0.001>(c, g, be, me, va) r = Relu(b)
f = Reshape(r, sh) d = Gemm(f, dw, db) y = Softmax<axis=1>(d)"""


@pytest.fixture(scope="module")
def classifier_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shift, convolution, batch norm, dense, softmax; takes [N, 6, 6, 2], channels last."""
    weights = {
        "m": np.float32(0.3), "w": seeded(3, 2, 3, 3), "g": seeded(3), "be": seeded(3, seed=1),
        "me": seeded(3, seed=2), "va": np.abs(seeded(3, seed=3)) + 0.2, "sh": ints(-1, 108),
        "dw": 0.1 * seeded(108, 4), "db": seeded(4),
    }  # fmt: skip
    file = tmp_path_factory.mktemp("model") / "m.onnx"
    onnx.save(graph(" ".join(BODY.split()), "[N,6,6,2]", "[N,4]", **weights), file)
    return file


def references(model: Path, count: int = 3) -> tuple[Reference, ...]:
    evaluator = ReferenceEvaluator(onnx.load(model))
    feeds = {"zeros": np.zeros((1, 6, 6, 2), np.float32), "data": seeded(count, 6, 6, 2, seed=4)}
    return tuple(
        Reference(name, {"x": x}, {"y": np.asarray(evaluator.run(None, {"x": x})[0])})
        for name, x in feeds.items()
    )


def trace_of(model: Path, x: np.ndarray, scale: float = 1.0) -> LayerTrace:
    """Values of the reference evaluator, as the source's."""
    proto = onnx.load(model)
    tensors = {"shift": "s", "conv": "c", "bn": "b", "relu": "r", "flat": "f", "dense": "d", "y": "y"}
    for tensor in tensors.values():
        if tensor != "y":
            proto.graph.output.append(
                onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None)
            )
    names = [output.name for output in proto.graph.output]
    values = dict(zip(names, ReferenceEvaluator(proto).run(None, {"x": x}), strict=True))
    kernel = TracedWeight("conv/kernel", (3, 3, 2, 3), "w", (3, 2, 0, 1))
    dense = TracedWeight("dense/kernel", (108, 4), "dw", (0, 1))
    weights = {"conv": (kernel,), "dense": (dense, TracedWeight("dense/lost", (7,), ""))}
    layers = tuple(TracedLayer(name, "op", tensor, weights.get(name, ())) for name, tensor in tensors.items())
    held = {name: np.asarray(values[tensor]) * np.float32(scale) for name, tensor in tensors.items()}
    return LayerTrace("a framework 1.0", "three examples", layers, {"x": x}, held)


def in_its_own_world(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(folder / script), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(folder.parent)},
        cwd=folder.parent,
    )


def test_bundle_is_verified_here_and_in_its_own_world(classifier_of_images: Path, tmp_path: Path) -> None:
    spec = BundleSpec(
        "pictures",
        classifier_of_images,
        Caffe(),
        references(classifier_of_images),
        labels=("a", "b", "c", "d"),
    )
    result = write_bundle(spec, tmp_path / "bundle")
    assert result.verdict.state is State.VERIFIED, result.verdict.problems
    assert "opencv 4." in result.verdict.detail
    done = in_its_own_world(tmp_path / "bundle", "verify.py")
    assert done.returncode == 0, done.stdout + done.stderr
    np.save(tmp_path / "x.npy", seeded(2, 6, 6, 2))
    done = in_its_own_world(tmp_path / "bundle", "predict.py", str(tmp_path / "x.npy"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "example 1" in done.stdout
    assert verify_bundle(tmp_path / "bundle").state is State.VERIFIED


def test_a_changed_weight_is_caught(classifier_of_images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    artefact = Caffe().build(classifier_of_images, out, {})
    content = bytearray((out / "model.caffemodel").read_bytes())
    weight = next(
        numpy_helper.to_array(t) for t in onnx.load(classifier_of_images).graph.initializer if t.name == "w"
    )
    place = bytes(content).index(weight.tobytes())
    content[place : place + 4] = np.float32(9).tobytes()
    (out / "model.caffemodel").write_bytes(content)
    reference = references(classifier_of_images)[1]
    with Caffe().open(out, artefact) as session:
        got = session.run(reference.feeds)["y"]
    assert not np.allclose(got, reference.outputs["y"], atol=1e-4)


def test_layers_are_compared_with_the_source(classifier_of_images: Path, tmp_path: Path) -> None:
    found = references(classifier_of_images)
    trace = trace_of(classifier_of_images, found[1].feeds["x"])
    options = {"layer_checks": True}
    spec = BundleSpec("pictures", classifier_of_images, Caffe(), found, options, trace=trace)
    result = write_bundle(spec, tmp_path / "bundle")
    assert result.verdict.state is State.VERIFIED, result.verdict.problems
    rows = {
        row["layer"]: row for row in read_manifest(tmp_path / "bundle").artefact.options["layers_compared"]
    }
    assert list(rows) == ["shift", "conv", "bn", "relu", "flat", "dense", "y"]
    assert all(row["same_digits"] for row in rows.values())
    assert max(row["max_abs_over_range"] for row in rows.values()) < 2e-6
    expected = trace.values["bn"].astype(np.float64)
    assert rows["bn"]["mean_target"] == pytest.approx(expected.mean(), abs=1e-6)
    assert rows["bn"]["variance_target"] == pytest.approx(expected.var(), rel=1e-5)
    told = json.loads((tmp_path / "bundle" / "layers.json").read_text())
    after = {w["name"]: (w["after"], w["how"]) for layer in told["layers"] for w in layer["weights"]}
    assert after["conv/kernel"] == ([3, 2, 3, 3], "[3, 2, 0, 1] in c")
    assert after["dense/kernel"] == ([4, 108], "[1, 0] in d")
    assert after["dense/lost"] == ("-", "folded into another")
    pictures = sorted(file.name for file in (tmp_path / "bundle" / "feature_maps").iterdir())
    assert pictures == ["bn.png", "conv.png", "relu.png", "shift.png"]
    done = in_its_own_world(tmp_path / "bundle", "compare_layers.py", "--pictures", str(tmp_path / "maps"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same in every printed digit" in done.stdout
    assert len(list((tmp_path / "maps").iterdir())) == 4
    assert verify_bundle(tmp_path / "bundle").state is State.VERIFIED


def test_layers_that_differ_are_marked(classifier_of_images: Path, tmp_path: Path) -> None:
    found = references(classifier_of_images)
    trace = trace_of(classifier_of_images, found[1].feeds["x"], scale=1.1)
    spec = BundleSpec("p", classifier_of_images, Caffe(), found, {"layer_checks": True}, trace=trace)
    write_bundle(spec, tmp_path / "bundle")
    done = in_its_own_world(tmp_path / "bundle", "compare_layers.py")
    assert done.returncode == 1
    assert "DIFFERS" in done.stdout


def test_layer_checks_need_a_layer(classifier_of_images: Path, tmp_path: Path) -> None:
    found = references(classifier_of_images)
    none = LayerTrace("f", "w", (TracedLayer("gone", "op", "nowhere"),), {"x": found[1].feeds["x"]}, {})
    spec = BundleSpec("p", classifier_of_images, Caffe(), found, {"layer_checks": True}, trace=none)
    with pytest.raises(UserError, match="no layer of the source"):
        write_bundle(spec, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_layer_checks_need_the_source(classifier_of_images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not at hand"):
        Caffe().build(classifier_of_images, tmp_path, {"layer_checks": True})
    assert list(tmp_path.iterdir()) == []


def test_labels_of_the_wrong_length_leave_nothing(classifier_of_images: Path, tmp_path: Path) -> None:
    spec = BundleSpec("p", classifier_of_images, Caffe(), references(classifier_of_images), labels=("a", "b"))
    with pytest.raises(UserError, match="2 labels"):
        write_bundle(spec, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_an_op_it_lacks_leaves_nothing_and_is_named(tmp_path: Path) -> None:
    onnx.save(graph("y = Sin(x)", "[1,4]", "[1,4]"), tmp_path / "m.onnx")
    x = seeded(1, 4)
    spec = BundleSpec("p", tmp_path / "m.onnx", Caffe(), (Reference("r", {"x": x}, {"y": np.sin(x)}),))
    with pytest.raises(UnsupportedModelError, match=r"Sin.*Try:"):
        write_bundle(spec, tmp_path / "bundle")
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_what_no_caffemodel_holds_is_refused(tmp_path: Path) -> None:
    huge = np.broadcast_to(np.float32(0), (LIMIT_BYTES // 4 + 1,))
    net = Net("n", (Layer("c", "InnerProduct", ("x",), ("c",), {}, (huge,)),))
    with pytest.raises(UnsupportedModelError, match="bytes of weights"):
        write_caffemodel(net, tmp_path / "m.caffemodel")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "shape", "order"),
    [
        ("t = Transpose<perm=[0,3,1,2]>(x) y = Relu(t)", "[1,4,4,3]", (0, 3, 1, 2)),
        ("s = Sub(x, c) t = Transpose<perm=[0,3,1,2]>(s) y = Relu(t)", "[1,4,4,3]", (0, 3, 1, 2)),
        ("t = Reshape(x, n) y = Relu(t)", "[1,4,4,1]", (0, 3, 1, 2)),
        ("y = Relu(x)", "[1,4,4,3]", (0, 1, 2, 3)),
        ("y = Transpose<perm=[0,2,3,1]>(x)", "[1,4,4,3]", (0, 1, 2, 3)),
        ("y = Relu(x)", "[1,3]", (0, 1)),
    ],
)
def test_inputs_are_held_as_the_graph_turns_them(body: str, shape: str, order: tuple[int, ...]) -> None:
    from onnx_ir import serde

    given = {"c": np.float32(1), "n": ints(1, 1, 4, 4)}
    model = graph(
        body, shape, "[]", **{k: v for k, v in given.items() if f"({k})" in body or f", {k})" in body}
    )
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    loaded = serde.deserialize_model(onnx.shape_inference.infer_shapes(model))
    assert input_order(loaded.graph.inputs[0]) == order
