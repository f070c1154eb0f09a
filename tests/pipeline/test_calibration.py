"""The examples that int8 is calibrated on: many, spread, the same each time, not the judged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Config
from pipeline.stages.calibration import LEAST, MOST, calibration_of, chosen_examples
from tests.pipeline.conftest import small_net


@given(total=st.integers(1, 5000), judged=st.integers(0, 40))
def test_the_judged_are_left_out_where_enough_are_there(total: int, judged: int) -> None:
    judged = min(judged, total)
    chosen, apart = chosen_examples(total, judged)
    assert apart == (total - judged >= LEAST)
    assert len(chosen) == min(MOST, total - judged if apart else total)
    assert np.all(np.diff(chosen) >= 1)  # none twice
    assert chosen[0] == (judged if apart else 0)
    assert chosen[-1] == total - 1 or len(chosen) == 1
    assert np.array_equal(chosen, chosen_examples(total, judged)[0])


def test_data_sorted_by_class_give_every_class() -> None:
    classes = np.repeat(np.arange(10), 1000)
    chosen, _ = chosen_examples(len(classes), 16)
    assert np.bincount(classes[chosen]).min() >= MOST // 10 - 1


def config(folder: Path, examples: int) -> Config:
    x = np.arange(examples * 3 * 9 * 9, dtype=np.uint8).reshape(examples, 3, 9, 9)
    np.savez(folder / "data.npz", x=x)
    given = {"path": "data.npz", "preprocess": {"scale": 0.5}}
    made = Config.model_validate({"name": "small", "model": {"path": "net.onnx"}, "data": given})
    return made.model_copy(update={"base": folder})


def test_examples_are_as_the_model_takes_them(tmp_path: Path) -> None:
    net = small_net(tmp_path / "net.onnx")
    found = calibration_of(config(tmp_path, 40), net, judged=16)
    assert found is not None
    assert found.told == "of the run's data, none of them among the references"
    raw = np.load(tmp_path / "data.npz")["x"][16:]
    assert found.feeds["x"].dtype == np.float32
    assert np.array_equal(found.feeds["x"], (raw * 0.5).astype(np.float32))


def test_where_they_are_few_it_is_said_that_the_references_serve_too(tmp_path: Path) -> None:
    net = small_net(tmp_path / "net.onnx")
    found = calibration_of(config(tmp_path, 20), net, judged=16)
    assert found is not None
    assert len(found.feeds["x"]) == 20
    assert "the references among them: there are only 20" in found.told


def test_without_data_there_is_none(tmp_path: Path) -> None:
    net = small_net(tmp_path / "net.onnx")
    bare = Config.model_validate({"name": "small", "model": {"path": "net.onnx"}})
    assert calibration_of(bare, net, judged=0) is None
