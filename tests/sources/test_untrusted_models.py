"""A model file is untrusted: what reaches outside it is refused before any of it runs."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from optim.errors import UnsupportedModelError
from pipeline.sources.contract import ConvertRequest
from pipeline.sources.keras_trust import (
    refuse_code,
    refuse_escapes,
    refuse_outside_storage,
    refuse_stored_references,
)
from tests.sources.tf_worker import Worker

SECRET = "a secret line\n"

HOSTILE = (
    # model, op, part of the node's name
    ("reads", "ReadFile", "ReadFile"),
    ("reads_as_shape", "ReadFile", "ReadFile"),
    ("reads_in_function", "ReadFile", "inner"),
    ("writes", "WriteFile", "inner"),
    ("prints", "PrintV2", "inner"),
    ("python", "PyFuncStateless", "PyFunc"),
    ("restores", "RestoreV2", "RestoreV2"),
    ("matches", "MatchingFiles", "MatchingFiles"),
    ("saved_reads", "ReadFile", "ReadFile"),
    ("saved_python", "PyFunc", "PyFunc"),
    ("saved_writes", "WriteFile", "WriteFile"),
    ("saved_initialiser", "InitializeTableFromTextFileV2", "InitializeTable"),
)


def _build(tf: Worker, name: str, folder: Path) -> tuple[Path, Path]:
    secret = folder / "secret.txt"
    secret.write_text(SECRET)
    model = folder / ("saved" if name.startswith("saved") else "net.pb")
    tf.call("tests.sources.tf_hostile:build", name, model, secret)
    return model, secret


@pytest.mark.tensorflow
@pytest.mark.parametrize(("name", "op", "node"), HOSTILE)
def test_ops_that_reach_outside_are_refused_by_name(
    tf: Worker, tmp_path: Path, name: str, op: str, node: str
) -> None:
    model, secret = _build(tf, name, tmp_path)
    before = secret.read_text()
    # An opened source would run the model as well.
    for what in ("convert", "open"):
        with pytest.raises(UnsupportedModelError) as refused:
            request = ConvertRequest(str(model))
            if what == "convert":
                tf.convert(request, tmp_path / "net.onnx")
            else:
                tf.call("tests.sources.tf_models:open_only", request)
        assert refused.value.op == op
        assert node in refused.value.node
        assert "--allow-custom-code" in refused.value.hint
        assert not (tmp_path / "net.onnx").exists()
        assert secret.read_text() == before


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["harmless", "saved_plain"])
def test_what_no_output_needs_is_not_looked_at(tf: Worker, tmp_path: Path, name: str) -> None:
    model, _ = _build(tf, name, tmp_path)
    done = tf.convert(ConvertRequest(str(model), outputs=("y:0",)), tmp_path / "net.onnx")
    assert all(one.passed for one in done.parity)


@pytest.mark.tensorflow
def test_a_table_read_from_the_models_own_asset_loads(tf: Worker, tmp_path: Path) -> None:
    model, _ = _build(tf, "saved_table", tmp_path)
    done = tf.convert(ConvertRequest(str(model)), tmp_path / "net.onnx")
    assert all(one.passed for one in done.parity)


@pytest.mark.tensorflow
def test_permission_lets_it_through(tf: Worker, tmp_path: Path) -> None:
    model, _ = _build(tf, "reads", tmp_path)
    done = tf.convert(ConvertRequest(str(model), allow_custom_code=True), tmp_path / "net.onnx")
    assert all(one.passed for one in done.parity)


def _layer(class_name: str, module: str | None = "keras.layers", **config: Any) -> dict[str, Any]:
    return {"class_name": class_name, "module": module, "config": {"name": "it", **config}}


CONFIGS = (
    (_layer("Lambda"), "Lambda layer 'it'"),
    ({"class_name": "__lambda__", "config": {"value": "code"}}, "stores Python code"),
    (_layer("Net", "my_package.nets"), "my_package.nets.Net, which is not Keras's own"),
    (_layer("get_file", "keras.utils", origin="http://x"), "keras.utils.get_file"),
    (_layer("system", "os"), "os.system"),
    (_layer("eval", "builtins"), "builtins.eval"),
    ({**_layer("Net", None), "registered_name": "Mine>Net"}, "custom class Mine>Net"),
    (_layer("StringLookup", vocabulary="/etc/passwd"), "reads the file '/etc/passwd'"),
    (_layer("TFSMLayer", filepath="/models/other"), "reads the file '/models/other'"),
)  # fmt: skip


@pytest.mark.parametrize(("config", "message"), CONFIGS)
def test_stored_configs_may_ask_for_keras_own_classes_only(config: dict[str, Any], message: str) -> None:
    model = {"class_name": "Sequential", "module": "keras", "config": {"layers": [config]}}
    with pytest.raises(UnsupportedModelError, match=message):
        refuse_code(model, "model.keras", allowed=False)
    refuse_code(model, "model.keras", allowed=True)


@pytest.mark.parametrize(
    "config",
    [
        _layer("Dense", activation="relu", kernel_initializer=_layer("Zeros", "keras.initializers")),
        _layer("Functional", "keras.src.models.functional"),
        _layer("Activation", activation={"class_name": "function", "module": "builtins", "config": "relu",
                                         "registered_name": "function"}),
        _layer("StringLookup", vocabulary=["a", "b"]),
        _layer("Dropout", seed_generator=_layer("SeedGenerator", "keras.src.random.seed_generator")),
    ],
)  # fmt: skip
def test_keras_own_classes_pass(config: dict[str, Any]) -> None:
    before = json.dumps(config)
    refuse_code(config, "model.keras", allowed=False)  # raises where it refuses
    assert json.dumps(config) == before, "a check changes nothing"


@pytest.mark.parametrize("entry", ["../outside.txt", "/etc/outside", "assets/../../x", "..\\x", "C:\\x"])
def test_archive_entries_stay_inside(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({}))
        archive.writestr(entry, "text")
    with pytest.raises(UnsupportedModelError, match="points outside the archive"):
        refuse_escapes(path)


def _external_link(file: h5py.File, other: Path) -> None:
    file.create_group("layers")["w"] = h5py.ExternalLink(str(other), "/w")


def _external_storage(file: h5py.File, other: Path) -> None:
    file.create_dataset("layers/w", (2,), "f4", external=[(str(other), 0, 8)])


def _virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource(str(other), "w", (2,))
    file.create_virtual_dataset("layers/w", layout)


@pytest.mark.parametrize("refer", [_external_link, _external_storage, _virtual])
def test_hdf5_refers_to_no_other_file(tmp_path: Path, refer: Any) -> None:
    other, path = tmp_path / "other.h5", tmp_path / "weights.h5"
    with h5py.File(other, "w") as file:
        file["w"] = np.ones(2, np.float32)
    with h5py.File(path, "w") as file:
        file["own"] = np.ones(2, np.float32)
        file["circle"] = file["/"]
        refer(file, other)
    with pytest.raises(UnsupportedModelError, match=r"'/layers/w'.*refers to another file"):
        refuse_outside_storage(path, "weights.h5")
    archive = tmp_path / "model.keras"
    with zipfile.ZipFile(archive, "w") as stored:
        stored.write(path, "model.weights.h5")
    with pytest.raises(UnsupportedModelError, match="refers to another file"):
        refuse_stored_references(archive)
    refuse_outside_storage(other, "other.h5")


@pytest.mark.tensorflow
def test_a_keras_file_with_foreign_weights_is_refused(tf: Worker, tmp_path: Path) -> None:
    model, hostile = tf.build("two_heads", tmp_path / "model.keras"), tmp_path / "hostile.keras"
    weights = tmp_path / "model.weights.h5"
    with zipfile.ZipFile(model) as whole, zipfile.ZipFile(hostile, "w") as changed:
        weights.write_bytes(whole.read("model.weights.h5"))
        with h5py.File(weights, "r+") as file:
            file["layers/more"] = h5py.ExternalLink("/etc/other.h5", "/w")
        changed.writestr("config.json", whole.read("config.json"))
        changed.writestr("metadata.json", whole.read("metadata.json"))
        changed.write(weights, "model.weights.h5")
    with pytest.raises(UnsupportedModelError, match="refers to another file"):
        tf.convert(ConvertRequest(str(hostile)), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
