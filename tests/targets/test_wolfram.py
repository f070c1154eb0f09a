"""Wolfram bundles: produced, checked without a kernel, and complete."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from optim.errors import InternalError, MissingRuntimeError, UserError
from targets.bundle import BundleSpec, verify_bundle, write_bundle
from targets.bundle_context import BundleContext
from targets.contract import State
from targets.manifest import read_manifest
from targets.preprocessing import Preprocessing
from targets.references import Reference
from targets.test_set import TestSet
from targets.wolfram import wxf
from targets.wolfram.companions import ACCURACY, SCRIPTS, TEMPLATES, check, classifier_text
from targets.wolfram.target import Wolfram, export
from tests.targets.operator_cases import graph, seeded
from tests.targets.test_wolfram_layers import mathics_expressions

pytest.importorskip("wolframclient", reason="fairlead[wolfram] is not installed")

PORTS = {
    "input": {"tensor": "x", "perm": [0, 3, 1, 2], "dimensions": [3, 224, 224]},
    "output": {"tensor": "y", "perm": [0, 1], "dimensions": [3]},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "m.onnx"
    body = (
        "t = Transpose<perm=[0,3,1,2]>(x) c = Conv<pads=[0,0,1,1], strides=[2,2]>(t, w, b) r = Relu(c)"
        " f = Flatten(r) d = Gemm(f, dw) y = Softmax<axis=1>(d)"
    )
    weights = {"w": seeded(4, 3, 3, 3), "b": seeded(4), "dw": 0.2 * seeded(64, 3)}
    onnx.save(graph(body, "[N,8,8,3]", "[N,3]", **weights), file)
    return file


def references(model: Path) -> tuple[Reference, ...]:
    evaluator = ReferenceEvaluator(onnx.load(model))
    feeds = {
        "zeros": np.zeros((1, 8, 8, 3), np.float32),
        "random_0": seeded(1, 8, 8, 3, seed=4),
        "data": seeded(5, 8, 8, 3, seed=5),
    }
    return tuple(
        Reference(name, {"x": x}, {"y": np.asarray(evaluator.run(None, {"x": x})[0])})
        for name, x in feeds.items()
    )


def test_bundle_holds_what_a_user_there_expects(model: Path, tmp_path: Path) -> None:
    given = references(model)
    scaled = Preprocessing(scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    spec = BundleSpec("picture", model, Wolfram(), given, preprocessing=scaled, labels=("cat", "dog", "cat"))
    result = write_bundle(spec, tmp_path / "bundle")
    assert result.verdict.state is State.PRODUCED
    assert "no Wolfram kernel" in result.verdict.detail
    folder = tmp_path / "bundle"
    listed = set(read_manifest(folder).artefact.files)
    assert {"build.wl", "params.wxf", "references.h5", "classifier.wl", "verify.wls", "export.wls"} == listed
    checks = read_manifest(folder).artefact.options["checks"]
    assert checks["max_abs_over_range"] < 2e-6
    with h5py.File(folder / "references.h5") as store:
        assert set(store) == {
            "OutputForZeros", "RandomInput", "OutputForRandom", "ExampleInputs", "ExampleOutputs",
        }  # fmt: skip
        assert np.array_equal(store["RandomInput"], given[1].feeds["x"][0].transpose(2, 0, 1))
        assert np.array_equal(store["OutputForRandom"], given[1].outputs["y"][0])
        assert np.array_equal(store["OutputForZeros"], given[0].outputs["y"][0])
        assert store["ExampleInputs"].shape == (5, 3, 8, 8)
    verify = (folder / "verify.wls").read_text()
    assert "MaxAbsoluteDifference" in verify
    assert "MaxRelativeDifference" in verify
    assert "1.*^-8" in verify
    assert verify_bundle(folder).state is State.PRODUCED


def test_classes_that_occur_twice_are_told_apart() -> None:
    text = classifier_text(PORTS, context(labels=("crane", "tench", "crane")))
    assert text is not None
    assert "MapIndexed" in text
    assert well_formed(text) == 1


def test_the_test_set_goes_along(model: Path, tmp_path: Path) -> None:
    pictures, numbers = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3), np.array([2, 0])
    spec = BundleSpec(
        "p", model, Wolfram(), references(model), {"test_set": True}, labels=("a", "b", "c"),
        preprocessing=Preprocessing(scale=1 / 255), test_set=TestSet(pictures, numbers),
    )  # fmt: skip
    write_bundle(spec, tmp_path / "bundle")
    folder = tmp_path / "bundle"
    assert {"test_set.h5", "accuracy.wls"} <= set(read_manifest(folder).artefact.files)
    assert not (folder / "test_set.npz").exists()
    with h5py.File(folder / "test_set.h5") as store:
        assert np.array_equal(store["Images"], pictures)
        assert np.array_equal(store["Labels"], numbers)
    assert verify_bundle(folder).state is State.PRODUCED


@pytest.mark.parametrize("script", [*SCRIPTS, ACCURACY])
def test_scripts_are_well_formed(script: str) -> None:
    text = (TEMPLATES / script).read_text()
    assert text.startswith("#!")
    assert well_formed(text.partition("\n")[2]) > 1


@pytest.mark.parametrize("name", ["build.wl", "params.wxf", "manifest.json", "references.h5", ""])
def test_the_check_says_which_file_is_missing_or_damaged(tmp_path: Path, name: str) -> None:
    """Evaluated by an independent implementation, which reads neither the net nor HDF5: never VERIFIED."""
    mathics = shutil.which("mathics3", path=str(Path(sys.executable).parent))
    if mathics is None:
        pytest.skip("Mathics3 (fairlead[dev]) is not installed")
    for present in {"build.wl", "params.wxf", "manifest.json", "references.h5"} - {name}:
        (tmp_path / present).touch()
    text = (TEMPLATES / "verify.wls").read_text().partition("\n")[2]
    script = tmp_path / "verify.m"
    script.write_text(text.replace("DirectoryName[$InputFileName]", f'"{tmp_path}/"'))
    done = subprocess.run([mathics, "-f", script], capture_output=True, text=True, timeout=300, check=False)
    said = f"{name} is missing" if name else "references.h5 holds no readable RandomInput"
    assert f"FAILED: {said}. Copy or export the whole bundle again." in done.stdout
    assert "VERIFIED" not in done.stdout
    assert done.returncode == 1


def well_formed(text: str) -> int:
    """Number of expressions that an independent implementation of the language reads in ``text``."""
    pytest.importorskip("mathics", reason="Mathics3 (fairlead[dev]) is not installed")
    return len(mathics_expressions(text))


def context(
    labels: tuple[str, ...] = (),
    *,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    channels: int = 3,
    scale: float = 1 / 255,
    found: tuple[Reference, ...] = (),
) -> BundleContext:
    preprocess = {
        "layout": "NHWC",
        "channels": channels,
        "scale": scale,
        "mean": list(mean),
        "std": list(std),
    }
    return BundleContext(preprocess, labels, found)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            context(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
            'NetEncoder[{"Image", {224, 224}, "ColorSpace" -> "RGB", "MeanImage" -> {0.485, 0.456, 0.406}, '
            '"VarianceImage" -> {0.052441, 0.050176, 0.050625}}]',
        ),
        (context(), 'NetEncoder[{"Image", {224, 224}, "ColorSpace" -> "RGB"}]'),
        (
            context(scale=2 / 255, mean=(1.0,)),  # bytes to [-1, 1]
            '"MeanImage" -> {0.5, 0.5, 0.5}, "VarianceImage" -> {0.25, 0.25, 0.25}}]',
        ),
        (context(("a", "b", "c")), 'NetDecoder[{"Class", labels}]'),
    ],
)
def test_encoder_does_what_the_preprocessing_says(given: BundleContext, expected: str) -> None:
    text = classifier_text(PORTS, given)
    assert text is not None
    assert expected in text


def test_encoder_is_the_same_affine_map() -> None:
    """x = (raw · scale − mean) / std against (raw/255 − MeanImage) / sqrt(VarianceImage)."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        scale, mean, std = rng.uniform(0.001, 2), rng.normal(), rng.uniform(0.1, 5)
        text = classifier_text(PORTS, context(scale=scale, mean=(mean,), std=(std,)))
        assert text is not None
        said = {}
        for key in ("MeanImage", "VarianceImage"):
            first = text.partition(f'"{key}" -> {{')[2].partition(",")[0]
            said[key] = float(first.replace("*^", "e"))
        raw = rng.uniform(0, 255, 5)
        encoded = (raw / 255 - said["MeanImage"]) / np.sqrt(said["VarianceImage"])
        assert np.allclose(encoded, (raw * scale - mean) / std, rtol=1e-9)


def test_no_classifier_where_the_input_is_no_picture() -> None:
    assert classifier_text(PORTS, BundleContext({}, (), ())) is None
    assert classifier_text(PORTS, context(channels=4)) is None


def test_a_text_that_computes_something_else_makes_no_bundle(model: Path, tmp_path: Path) -> None:
    facts = export(model, tmp_path, {})
    parameters = wxf.read(tmp_path / "params.wxf")
    text = (tmp_path / "build.wl").read_text()
    given = context(found=references(model))
    check(text, parameters, facts["ports"], given, softmax=True)
    with pytest.raises(InternalError, match="of the range off"):
        check(
            text.replace("{{0, 1}, {0, 1}}", "{{1, 0}, {1, 0}}"),
            parameters,
            facts["ports"],
            given,
            softmax=True,
        )
    key = next(key for key in parameters if key.endswith("Biases"))
    wrong = {**parameters, key: parameters[key] + np.float32(0.1)}
    with pytest.raises(InternalError, match="of the range off"):
        check(text, wrong, facts["ports"], given, softmax=True)


def test_parameters_survive_to_the_bit(tmp_path: Path) -> None:
    special = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38, 1 / 3])
    given = {"a/Weights": special.reshape(2, 4), "one": np.ones(1, np.float32)}
    wxf.write(given, tmp_path / "p.wxf")
    back = wxf.read(tmp_path / "p.wxf")
    assert back["a/Weights"].tobytes() == special.tobytes()
    assert back["a/Weights"].shape == (2, 4)


def test_nothing_opens_it_here(tmp_path: Path, model: Path) -> None:
    artefact = Wolfram().build(model, tmp_path, {})
    assert artefact.files == ("build.wl", "params.wxf")
    with pytest.raises(MissingRuntimeError, match="no Wolfram kernel"):
        Wolfram().open(tmp_path, artefact)
    available = Wolfram().available()
    assert not available.available
    assert "wolframscript" in available.needs


def test_labels_of_the_wrong_length_leave_nothing(model: Path, tmp_path: Path) -> None:
    spec = BundleSpec("p", model, Wolfram(), references(model), labels=("a",))
    with pytest.raises(UserError, match="1 labels"):
        write_bundle(spec, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
