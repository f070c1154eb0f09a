"""The configs of the five systems load, and say what the builders write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.config import Config
from pipeline.load_config import load_config

Zoo = Callable[[str], ModuleType]

# Config → module of its builder.
AUTHORS_TARGETS = {
    "symbols_wolfram": "wolfram",
    "mobilenet_v2_wolfram": "wolfram",
    "mnist_caffe": "caffe",
    "alexnet_keras": "keras",
}
SYSTEMS = {
    "symbols_wolfram": "symbols_wolfram",
    "mobilenet_v2_wolfram": "mobilenet_v2_wolfram",
    "mnist_caffe": "mnist_caffe",
    "vgg16": "vgg16",
    "vgg16_layers": "vgg16",
    "vgg16_slim": "vgg16",
    "mnist_softmax": "mnist_softmax",
    "alexnet_keras": "alexnet",
    "cnn_introduction": "cnn_introduction",
}


@pytest.fixture
def load(repository: Path, tmp_path: Path) -> Callable[[str], Config]:
    """Load a config as if its model had been built: the files it names are there, but empty."""
    shutil.copytree(repository / "configs", tmp_path / "configs")

    def loaded(name: str) -> Config:
        place = tmp_path / ".fairlead" / "zoo" / name
        place.mkdir(parents=True)
        for file in ("model.ckpt.meta", "model.ckpt.index", "model.pb", "test.npz", "labels.txt"):
            (place / file).touch()
        return load_config(tmp_path / "configs" / f"{name}.yaml")

    return loaded


@pytest.mark.parametrize("name", SYSTEMS)
def test_it_loads_and_bears_its_name(load: Callable[[str], Config], name: str) -> None:
    config = load(name)
    assert config.name == name
    assert config.model.outputs
    assert config.targets[0].name == AUTHORS_TARGETS.get(name, "onnxruntime")


@pytest.mark.parametrize("name", SYSTEMS)
def test_one_changed_path_is_enough(load: Callable[[str], Config], name: str, tmp_path: Path) -> None:
    """Nothing in the config but ``model.path`` and the data names the zoo's folder."""
    config = load(name)
    inside = config.model_dump_json(exclude={"model": {"path"}, "data": True, "store": True})
    assert ".fairlead/zoo" not in inside


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "cnn_introduction"])
def test_it_encodes_as_the_builder_did(load: Callable[[str], Config], zoo: Zoo, name: str) -> None:
    encoder = zoo(SYSTEMS[name]).ENCODER
    preprocess = load(name).data.preprocess
    assert preprocess.scale == pytest.approx(encoder.scale, rel=1e-15)
    assert preprocess.mean == encoder.mean
    assert preprocess.std == encoder.std


def test_an_unbuilt_model_is_named_with_its_line(repository: Path, tmp_path: Path) -> None:
    from optim.errors import ConfigError

    shutil.copytree(repository / "configs", tmp_path / "configs")
    with pytest.raises(ConfigError, match=r"symbols_wolfram\.yaml:\d+: model\.path"):
        load_config(tmp_path / "configs" / "symbols_wolfram.yaml")
