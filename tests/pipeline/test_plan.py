"""Plans: keys change with what they depend on and with nothing else, and reasons say what changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from optim.errors import UserError
from pipeline.config import Config
from pipeline.load_config import load_config
from pipeline.plan import Step, explain, make_plan, remember
from pipeline.store import Store

NAMES = ["convert", "optimize", "parity", "benchmark", "export onnxruntime"]


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    (tmp_path / "model.keras").write_bytes(b"weights")
    (tmp_path / "data.npz").write_bytes(b"data")
    path = tmp_path / "config.yaml"
    path.write_text("name: a\nmodel: {path: model.keras}\ndata: {path: data.npz}\n")
    return path


def keys(config: Config) -> dict[str, str]:
    return {step.name: step.key for step in make_plan(config)}


def changed(path: Path, *overrides: str, touch: Callable[[], object] = lambda: None) -> list[str]:
    before = keys(load_config(path))
    touch()
    after = keys(load_config(path, overrides))
    return [name for name in after if before.get(name) != after[name]]


def test_the_steps_in_order(config_file: Path) -> None:
    assert list(keys(load_config(config_file))) == NAMES


def test_equal_configs_have_equal_keys(config_file: Path) -> None:
    assert changed(config_file) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.opset=17"], NAMES),
        (["optimize.recipe=cleanup"], NAMES[1:]),
        (["parity.seeds=[5]"], ["parity", "export onnxruntime"]),
        (["benchmark.batch=[2]"], ["benchmark", "export onnxruntime"]),
        (["benchmark.tune.budget_s=5"], ["benchmark", "export onnxruntime"]),
        (["report.title=Other", "out=elsewhere", "store=elsewhere"], []),
        (["benchmark=null"], ["export onnxruntime"]),
        (["targets=[{name: onnxruntime, options: {ort: true}}]"], ["export onnxruntime"]),
    ],
)
def test_a_change_runs_what_depends_on_it(
    config_file: Path, overrides: list[str], expected: list[str]
) -> None:
    assert changed(config_file, *overrides) == expected


def test_contents_count_and_times_do_not(config_file: Path) -> None:
    model, data = config_file.parent / "model.keras", config_file.parent / "data.npz"
    assert changed(config_file, touch=lambda: model.write_bytes(b"weights")) == []
    assert changed(config_file, touch=lambda: model.write_bytes(b"other")) == NAMES
    assert changed(config_file, touch=lambda: data.write_bytes(b"other")) == [
        "optimize",
        "parity",
        "benchmark",
        NAMES[4],
    ]


def test_all_files_of_a_checkpoint_count(tmp_path: Path) -> None:
    for suffix in (".meta", ".index", ".data-00000-of-00001"):
        (tmp_path / f"ckpt{suffix}").write_bytes(b"x")
    path = tmp_path / "config.yaml"
    path.write_text("name: a\nmodel: {path: ckpt}\n")
    assert (
        changed(path, touch=lambda: (tmp_path / "ckpt.data-00000-of-00001").write_bytes(b"y"))[0] == "convert"
    )


def test_a_factory_is_hashed_without_running_it(tmp_path: Path) -> None:
    module = tmp_path / "factory.py"
    module.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    path = tmp_path / "config.yaml"
    path.write_text("name: a\nmodel: {path: 'python:factory:make'}\n")
    assert changed(path, touch=lambda: module.write_text("x = 1\n"))[0] == "convert"
    assert not (tmp_path / "ran").exists()
    path.write_text("name: a\nmodel: {path: 'python:nothing:make'}\n")
    with pytest.raises(UserError, match="module nothing was not found"):
        make_plan(load_config(path))


def test_reasons(config_file: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def reasons(*overrides: str) -> dict[str, str]:
        states = explain(make_plan(load_config(config_file, overrides)), store, "a")
        return {
            state.step.name: f"{'cached' if state.cached else 'runs'}: {state.reason}" for state in states
        }

    assert set(reasons().values()) == {"runs: never run with these inputs"}
    steps: tuple[Step, ...] = make_plan(load_config(config_file))
    for step in steps:
        store.ensure(step.key, lambda folder: (folder / "x").write_text("x") and None)
    remember(steps, store, "a")
    assert set(reasons().values()) == {"cached: same inputs, options and versions"}
    told = reasons("optimize.recipe=cleanup")
    assert told["convert"].startswith("cached")
    assert told["optimize"] == "runs: optimize.recipe: 'canonical' -> 'cleanup'"
    assert told["parity"] == "runs: step optimize changed"
    (config_file.parent / "model.keras").write_bytes(b"other")
    assert reasons()["convert"] == "runs: the model file changed"


def test_a_damaged_entry_is_the_reason(config_file: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    steps = make_plan(load_config(config_file))
    entry, _ = store.ensure(steps[0].key, lambda folder: (folder / "x").write_text("x") and None)
    (entry.path / "x").unlink()
    assert "damaged: x is missing" in explain(steps, store, "a")[0].reason


def test_a_target_twice_is_refused(config_file: Path) -> None:
    with pytest.raises(UserError, match="listed twice"):
        make_plan(load_config(config_file, ["targets=[{name: onnxruntime}, {name: onnxruntime}]"]))
