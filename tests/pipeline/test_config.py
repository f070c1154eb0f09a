"""Config files: merging, overrides, and errors that name file, line and nearest key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from optim.errors import ConfigError, UserError
from pipeline.config import Config, json_schema
from pipeline.load_config import load_config

MODEL = "model: {path: model.onnx}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"x")
    (tmp_path / "data.npz").write_bytes(b"x")
    return tmp_path


def write(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_defaults(folder: Path) -> None:
    config = load_config(write(folder, "name: a\n" + MODEL))
    assert config.optimize.recipe == "canonical"
    assert config.parity.gate.max_abs_over_range == 2e-5
    assert config.resolve(config.model.path) == folder / "model.onnx"


def test_a_config_is_frozen(folder: Path) -> None:
    config = load_config(write(folder, "name: a\n" + MODEL))
    with pytest.raises(ValidationError):
        config.name = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("model:\n  path: model.onnx\n  ouputs: [a]\n", 4, ["unknown key model.ouputs", "outputs (the"]),
        ("modell: {path: model.onnx}\n", 2, ["unknown key modell", "model (the nearest key)"]),
        (MODEL + "parity:\n  gate:\n    snr_db: loud\n", 5, ["parity.gate.snr_db", "valid number", "'loud'"]),
        (MODEL + "benchmark:\n  batch:\n    - 1\n    - 0\n", 6, ["benchmark.batch.1", "greater than 0"]),
        (MODEL + "targets:\n  - {nam: onnxruntime}\n", 4, ["unknown key targets.0.nam", "name (the nearest"]),
        ("model: {opset: 18}\n", 2, ["model.path is missing", "add `path:`"]),
        ("model: {path: modle.onnx}\n", 2, ["modle.onnx does not exist", "model.onnx lies in the same"]),
        (MODEL + "data: {path: nowhere/data.npz}\n", 3, ["data.path", "folder", "does not exist either"]),
        (MODEL + "data: {labels: y}\n", 1, ["data.labels names a key, but data.path is not set"]),
        ("name: b\n" + MODEL, 2, ["not valid YAML", "duplicate key"]),
        (MODEL + "parity: [\n", 4, ["not valid YAML"]),
        (MODEL + "version: 2\n", 3, ["version"]),
        (MODEL + "parity: {seeds: 1}\n", 3, ["parity.seeds: should be a list"]),
        (MODEL + "parity: {seeds: [-1]}\n", 3, ["parity.seeds.0", "greater than or equal to 0"]),
        (MODEL + "targets:\n  - name: onnxruntim\n", 4, ["targets.0.name", "'onnxruntim'", "'onnxruntime'"]),
        (MODEL + "optimize:\n  recipe: canonicl\n", 4, ["optimize.recipe", "'canonical'"]),
        (MODEL + "optimize:\n  passes: [fold_batchnrm]\n", 4, ["optimize.passes", "'fold_batchnorm'"]),
        (MODEL + "benchmark:\n  tune:\n    recipes: [fsat]\n", 5, ["benchmark.tune.recipes.0", "'fast'"]),
        (MODEL + "benchmark: {device: tpu}\n", 3, ["benchmark.device", "'tpu'"]),
        ("model: &m {path: model.onnx}\noptimize: {<<: *m}\n", 3, ["unknown key optimize.path"]),
    ],
)
def test_errors_name_the_line(folder: Path, text: str, line: int, words: list[str]) -> None:
    path = write(folder, "name: a\n" + text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: ")
    for word in words:
        assert word in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"), [("- a\n", "a map of keys"), ("name: a/b\n" + MODEL, "name: .*pattern")]
)
def test_a_config_is_a_map_with_a_plain_name(folder: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(write(folder, text))


def test_a_missing_config_names_the_nearest(folder: Path) -> None:
    write(folder, "name: a\n" + MODEL)
    with pytest.raises(UserError, match=r"config\.yaml lies in the same folder"):
        load_config(folder / "confg.yaml")


def test_what_is_no_config_is_called_what_it_is(folder: Path) -> None:
    with pytest.raises(UserError, match="a folder, not a config file"):
        load_config(folder)
    (folder / "photo.yaml").write_bytes(b"\xff\xfe\x00\xce")
    with pytest.raises(ConfigError, match="not a text file"):
        load_config(folder / "photo.yaml")


def test_overrides_win_and_are_named_in_errors(folder: Path) -> None:
    path = write(folder, "name: a\n" + MODEL)
    config = load_config(path, ["parity.seeds=[3, 4]", "benchmark=null", "optimize.recipe=cleanup"])
    assert (config.parity.seeds, config.benchmark, config.optimize.recipe) == ((3, 4), None, "cleanup")
    with pytest.raises(ConfigError, match=r"--set unknown key parity.sead"):
        load_config(path, ["parity.sead=1"])
    with pytest.raises(UserError, match=r"not of the form key\.sub=value"):
        load_config(path, ["parity.seeds"])


def test_extends_merges_maps_and_replaces_lists(folder: Path) -> None:
    write(folder, "name: base\n" + MODEL + "parity: {seeds: [1, 2], gate: {snr_db: 80}}\n", "base.yaml")
    child = write(
        folder, "extends: base.yaml\nname: child\nparity: {gate: {max_abs_over_range: 1e-3}, seeds: [9]}\n"
    )
    config = load_config(child)
    assert (config.name, config.parity.seeds) == ("child", (9,))
    assert (config.parity.gate.snr_db, config.parity.gate.max_abs_over_range) == (80, 1e-3)


def test_paths_of_a_base_stay_relative_to_the_base(folder: Path) -> None:
    (folder / "bases").mkdir()
    (folder / "bases" / "deep.onnx").write_bytes(b"x")
    write(folder, "name: base\nmodel: {path: deep.onnx}\n", "bases/base.yaml")
    config = load_config(write(folder, "extends: bases/base.yaml\n"))
    assert config.resolve(config.model.path).resolve() == (folder / "bases" / "deep.onnx").resolve()


def test_an_error_in_a_base_names_the_base(folder: Path) -> None:
    base = write(folder, "name: base\nparty: {}\n" + MODEL, "base.yaml")
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, "extends: base.yaml\n"))
    assert (caught.value.file, caught.value.line) == (base, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extends: config.yaml\nname: a\n", "circle"),
        ("extends: nothing.yaml\nname: a\n", "does not exist"),
        ("extends: 3\nname: a\n", "file name or a list"),
    ],
)
def test_bad_extends(folder: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(write(folder, text))


def test_yaml_tags_run_no_code(folder: Path) -> None:
    marker = folder / "ran"
    text = f"name: a\n{MODEL}description: !!python/object/apply:pathlib.Path.touch ['{marker}']\n"
    with pytest.raises(UserError):
        load_config(write(folder, text))
    assert not marker.exists()


def test_checkpoint_prefix_counts_as_a_file(folder: Path) -> None:
    (folder / "ckpt.index").write_bytes(b"")
    assert load_config(write(folder, "name: a\nmodel: {path: ckpt}\n")).model.path == "ckpt"


def test_the_published_schema_is_current(repository: Path) -> None:
    assert json.loads((repository / "configs" / "schema.json").read_text()) == json_schema(), (
        "run `make schema`"
    )


def test_every_key_is_described() -> None:
    schema = Config.model_json_schema()
    bare = [
        f"{name}.{key}"
        for name, part in schema["$defs"].items()
        for key, value in part.get("properties", {}).items()
        if "description" not in value and "$ref" not in value and "allOf" not in value
    ]
    assert bare == []


def test_scenarios_and_threads_have_short_and_long_forms(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    path = tmp_path / "c.yaml"
    path.write_text(
        "name: n\n"
        + MODEL
        + "benchmark:\n  threads: [2, 1, 2]\n  scenarios: [offline, {name: server, bound_ms: 5}]\n"
    )
    found = load_config(path).benchmark
    assert found is not None
    assert found.thread_counts == (2, 1)
    assert [(one.name, one.bound_ms) for one in found.loads] == [("offline", None), ("server", 5.0)]
    plain = load_config(path, ["benchmark.threads=4"]).benchmark
    assert plain is not None
    assert plain.thread_counts == (4,)
