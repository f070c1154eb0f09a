"""Models as the builders write them, read back by TensorFlow itself."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

Zoo = Callable[[str], ModuleType]
Build = Callable[[str, Path], tuple[Path, dict[str, Any]]]
Inspect = Callable[..., dict[str, Any]]


def agrees_with_config(repository: Path, name: str, summary: dict[str, Any]) -> None:
    """Input names and shapes and output names of configs/NAME.yaml are those of the file."""
    configs = repository / "configs"
    model = YAML(typ="safe").load(configs / f"{name}.yaml")["model"]
    if name.startswith("vgg16"):
        model |= YAML(typ="safe").load(configs / "zoo" / "vgg16_shared.yaml")["model"]
    assert model["inputs"] == {
        key: [-1 if size is None else size for size in shape] for key, shape in summary["inputs"].items()
    }
    assert model["outputs"] == summary["outputs"]


def healthy(found: dict[str, Any]) -> None:
    """Probabilities that differ between images and are not saturated."""
    output = np.asarray(found["output"])
    np.testing.assert_allclose(output.sum(axis=-1), 1.0, atol=1e-5)
    assert len(set(output.argmax(axis=-1).tolist())) > len(output) // 3
    assert np.median(output.max(axis=-1)) < 0.999


def measured(found: dict[str, Any], norms: int) -> None:
    """No batch norm has the statistics 0 and 1 it started from."""
    assert len(found["means"]) == len(found["variances"]) == norms
    assert min(found["means"].values()) > 1e-3
    for name, (least, largest) in found["variances"].items():
        assert least > 0, name
        assert largest - least > 1e-3, name  # not all of them 1


def test_unknown_and_missing_names_are_refused(repository: Path) -> None:
    script = repository / "configs" / "zoo" / "build.py"
    for arguments, message in (([], "at least one model"), (["vgg61"], "unknown model: vgg61")):
        done = subprocess.run(
            [sys.executable, script, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert message in done.stderr


def test_every_line_of_the_table_has_its_module(zoo: Zoo) -> None:
    for name, entry in zoo("build").TABLE.items():
        assert callable(zoo(entry.module).write), name


@pytest.mark.tensorflow
def test_mnist_softmax(build: Build, inspect_checkpoint: Inspect, repository: Path, tmp_path: Path) -> None:
    folder, summary = build("mnist_softmax", tmp_path)
    agrees_with_config(repository, "mnist_softmax", summary)
    found = inspect_checkpoint(folder, images=450)
    assert found["variables"] == {"W": [784, 10], "b": [10]}
    assert found["accuracy"] == pytest.approx(summary["accuracy"], abs=0.003)
    assert found["accuracy"] >= 0.95
    # A second build gives the same weights.
    first = hashlib.sha256((folder / "model.ckpt.data-00000-of-00001").read_bytes()).digest()
    build("mnist_softmax", tmp_path)
    assert hashlib.sha256((folder / "model.ckpt.data-00000-of-00001").read_bytes()).digest() == first
    assert [item.name for item in tmp_path.iterdir()] == ["mnist_softmax"]


@pytest.mark.tensorflow
def test_alexnet(build: Build, inspect_checkpoint: Inspect, repository: Path, tmp_path: Path) -> None:
    folder, summary = build("alexnet_keras", tmp_path)
    agrees_with_config(repository, "alexnet_keras", summary)
    found = inspect_checkpoint(folder)
    assert found["first_convolution"][1:] == [68, 120, 4]
    assert found["variables"]["Conv2D/W"] == [11, 11, 3, 4]
    assert found["variables"]["FullyConnected/W"] == [1080, 120]
    assert found["variables"]["is_training"] == []
    assert found["operations"]["LRN"] == 3
    assert found["operations"]["MaxPool"] == 3
    assert np.asarray(found["output"]).shape[1] == 29
    healthy(found)


@pytest.mark.tensorflow
def test_cnn_introduction(build: Build, child: Callable[..., str], repository: Path, tmp_path: Path) -> None:
    folder, summary = build("cnn_introduction", tmp_path)
    agrees_with_config(repository, "cnn_introduction", summary)
    script = """
import sys
import numpy as np
import tensorflow as tf

tf1, folder = tf.compat.v1, sys.argv[1]
definition = tf1.GraphDef.FromString(open(folder + "/model.pb", "rb").read())
with tf1.Graph().as_default() as graph, tf1.Session() as session:
    tf1.import_graph_def(definition, name="")
    x = np.load(folder + "/test.npz")["x"]
    for value in session.run(["max_pool:0", "average_pool:0", "strided:0", "flat:0"], {"x:0": x}):
        print(*value.ravel())
"""
    rows = [[float(value) for value in row.split()] for row in child("-c", script, folder).splitlines()]
    assert rows[0] == [3, 4, 7, 8]
    assert rows[1] == [2, 3, 6, 7]
    assert rows[2] == [1, 2, 5, 6]
    assert rows[3] == [1, 3, 2, 4, 1, 3, 2, 4, 5, 7, 6, 8, 5, 7, 6, 8]


@pytest.mark.tensorflow
@pytest.mark.slow
def test_mnist_caffe(build: Build, inspect_checkpoint: Inspect, repository: Path, tmp_path: Path) -> None:
    folder, summary = build("mnist_caffe", tmp_path)
    agrees_with_config(repository, "mnist_caffe", summary)
    found = inspect_checkpoint(folder, images=450)
    shapes = {"conv1/kernel": [3, 3, 1, 16], "conv2/kernel": [3, 3, 16, 32]}
    shapes |= {"dense1/kernel": [1568, 512], "dense2/kernel": [512, 10]}
    for name, shape in shapes.items():
        assert found["variables"][name] == shape
    assert "conv1/bias" not in found["variables"]
    assert "is_training:0" in found["placeholders"]
    measured(found, norms=2)
    assert found["accuracy"] == pytest.approx(summary["accuracy"], abs=0.003)
    assert found["accuracy"] >= 0.97


@pytest.mark.tensorflow
@pytest.mark.slow
def test_symbols(build: Build, inspect_checkpoint: Inspect, repository: Path, tmp_path: Path) -> None:
    folder, summary = build("symbols_wolfram", tmp_path)
    agrees_with_config(repository, "symbols_wolfram", summary)
    found = inspect_checkpoint(folder, images=450)
    shapes = {"conv1": [5, 5, 1, 32], "conv2": [5, 5, 32, 64], "conv3": [3, 3, 64, 128]}
    shapes |= {"dense1": [8 * 8 * 128, 1024], "dense2": [1024, 10]}
    for scope, shape in shapes.items():
        assert found["variables"][f"{scope}/weights"] == shape
        assert found["variables"][f"{scope}/biases"] == shape[-1:]
    assert "keep_prob:0" in found["placeholders"]
    assert found["accuracy"] >= 0.97


@pytest.mark.tensorflow
@pytest.mark.slow
def test_mobilenet_v2(build: Build, inspect_checkpoint: Inspect, repository: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="reads the author's check; comes with the tensorflow extra")
    folder, summary = build("mobilenet_v2_wolfram", tmp_path)
    agrees_with_config(repository, "mobilenet_v2_wolfram", summary)
    found = inspect_checkpoint(folder)
    variables = found["variables"]
    assert variables["MobilenetV2/Conv/weights"] == [3, 3, 3, 48]
    assert variables["MobilenetV2/expanded_conv/depthwise/depthwise_weights"] == [3, 3, 48, 1]
    assert variables["MobilenetV2/Logits/Conv2d_1c_1x1/weights"] == [1, 1, 1792, 1001]
    measured(found, norms=52)
    healthy(found)
    assert len((folder / "labels.txt").read_text().splitlines()) == 1001
    with h5py.File(folder / "reference_outputs.h5") as file:
        assert {name: item.shape for name, item in file.items()} == {
            "OutputForZeros": (1, 1001),
            "RandomInput": (1, 224, 224, 3),
            "OutputForRandom": (1, 1001),
        }
        assert np.abs(file["OutputForZeros"][:] - file["OutputForRandom"][:]).max() > 1e-3


@pytest.mark.tensorflow
@pytest.mark.slow
def test_vgg16_gives_the_same_in_all_writings(
    build: Build, inspect_checkpoint: Inspect, repository: Path, tmp_path: Path
) -> None:
    outputs = {}
    for name in ("vgg16", "vgg16_layers", "vgg16_slim"):
        try:
            folder, summary = build(name, tmp_path)
            agrees_with_config(repository, name, summary)
            assert summary["parameters"] == 138_357_544
            found = inspect_checkpoint(folder, images=4)
        finally:
            shutil.rmtree(tmp_path / name, ignore_errors=True)  # half a gigabyte each
        healthy(found)
        outputs[name] = np.asarray(found["output"])
    for name in ("vgg16_layers", "vgg16_slim"):
        np.testing.assert_allclose(outputs[name], outputs["vgg16"], atol=1e-5)
