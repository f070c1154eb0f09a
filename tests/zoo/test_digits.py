"""The quickstart's committed model: its files agree with each other, and it is as good as promised."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pipeline.config import Config
from pipeline.load_config import load_config

Zoo = Callable[[str], ModuleType]

SCORE = """
import sys
import numpy as np
import keras

model, data, scale = keras.models.load_model(sys.argv[1]), np.load(sys.argv[2]), float(sys.argv[3])
p = model.predict_on_batch((data["x"] * scale).astype("float32"))
print(float((p.argmax(1) == data["y"]).mean()), float(abs(p.sum(1) - 1).max()))
"""


@pytest.fixture(scope="module")
def config(repository: Path) -> Config:
    return load_config(repository / "configs" / "quickstart.yaml")


@pytest.fixture(scope="module")
def model(config: Config) -> Path:
    return config.resolve(config.model.path)


@pytest.fixture(scope="module")
def layers(model: Path) -> dict[str, dict[str, Any]]:
    """Name → stored config of each layer, read without Keras."""
    with zipfile.ZipFile(model) as archive:
        stored = json.loads(archive.read("config.json"))
    return {layer["config"]["name"]: layer for layer in stored["config"]["layers"]}


def test_the_file_is_small_and_holds_neither_optimiser_nor_date(model: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="reads the weights; comes with the tensorflow extra")
    assert model.stat().st_size < 2_000_000
    with zipfile.ZipFile(model) as archive:
        assert "date_saved" not in json.loads(archive.read("metadata.json"))
        assert not json.loads(archive.read("config.json"))["compile_config"]
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
            assert not any("optimizer" in name for name in weights)


def test_the_network_holds_what_conversions_get_wrong(layers: dict[str, dict[str, Any]]) -> None:
    kinds = [layer["class_name"] for layer in layers.values()]
    for kind in ("Conv2D", "BatchNormalization", "ReLU", "MaxPooling2D", "Dropout", "Dense", "Softmax"):
        assert kind in kinds
    # 28 at stride 2 and 14 at stride 2, 3-wide and SAME: one row of padding, at the end only.
    assert layers["conv2"]["config"]["strides"] == [2, 2]
    for name, size in (("conv2", 28), ("pool", 14)):
        assert layers[name]["config"]["padding"] == "same"
        kernel = layers[name]["config"].get("kernel_size") or layers[name]["config"]["pool_size"]
        assert (-(-size // 2) - 1) * 2 + kernel[0] - size == 1


def test_batch_norm_statistics_are_learnt(model: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="reads the weights; comes with the tensorflow extra")
    with zipfile.ZipFile(model) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        found = {name: group["vars"] for name, group in file["layers"].items() if name.startswith("batch")}
        assert len(found) == 3
        for variables in found.values():
            gamma, beta, mean, variance = (np.asarray(variables[str(index)]) for index in range(4))
            assert np.abs(mean).min() > 0
            assert np.abs(beta).max() > 0.01
            assert np.abs(gamma - 1).max() > 0.01
            assert np.abs(variance - 1).min() > 0.001


def test_the_data_are_the_held_out_images(zoo: Zoo, config: Config) -> None:
    data = zoo("digit_images").load_digit_images(28)
    assert config.data.path is not None
    with np.load(config.resolve(config.data.path), allow_pickle=False) as file:
        x, y = file["x"], file["y"]
    assert x.dtype == np.uint8
    assert y.dtype == np.int64
    np.testing.assert_array_equal(x, data.test_x)
    np.testing.assert_array_equal(y, data.test_y)
    shares = np.bincount(y, minlength=10) / np.bincount(data.train_y, minlength=10)
    assert np.ptp(shares) < 0.02  # stratified


def test_the_config_scales_as_training_did(zoo: Zoo, config: Config) -> None:
    assert config.data.preprocess.scale == zoo("digit_images").SCALE
    assert not config.data.preprocess.mean
    assert not config.data.preprocess.std


def test_ten_labels_in_class_order(zoo: Zoo, config: Config) -> None:
    assert config.data.label_names is not None
    names = config.resolve(config.data.label_names).read_text().splitlines()
    assert tuple(names) == zoo("digit_images").CLASS_NAMES
    assert len(set(names)) == 10


@pytest.mark.tensorflow
def test_it_loads_in_keras_and_reaches_the_accuracy(
    child: Callable[..., str], config: Config, model: Path
) -> None:
    assert config.data.path is not None
    assert config.parity.gate.min_accuracy is not None
    answer = child("-c", SCORE, model, config.resolve(config.data.path), str(config.data.preprocess.scale))
    accuracy, off_one = map(float, answer.split())
    assert accuracy >= max(0.985, config.parity.gate.min_accuracy)
    assert off_one < 1e-5
