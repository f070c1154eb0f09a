"""The corpus runner itself, on a corpus of three items made here: right, wrong, and fatal to its worker."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest

from benchmarks.corpus_metric import error, within
from benchmarks.corpus_score import families, score_corpus, table, write
from benchmarks.corpus_worker import Status

TEXT = '<ir_version: 7, opset_import: ["" : 13]>\ng (float[2] x) => (float[2] y) { y = Neg (x) }'


def item(corpus: Path, name: str, answer: list[float], kind: str = "onnx") -> dict[str, Any]:
    folder = corpus / "made" / name
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(onnx.parser.parse_model(TEXT).SerializeToString())
    arrays = {"in|x": np.array([1, -2], np.float32), "out|y": np.array(answer, np.float32)}
    np.savez(folder / "io.npz", **arrays)
    return {
        **{"name": name, "family": "made", "kind": kind, "dir": f"made/{name}", "has_io": True},
        **{"spec": {}, "tol": 1e-4},
    }


def test_right_wrong_and_refused_are_told_apart(tmp_path: Path) -> None:
    items = [
        item(tmp_path, "right", [-1, 2]),
        item(tmp_path, "wrong", [-1, 3]),
        item(tmp_path, "cut", [-1, 2]),
    ]
    (tmp_path / "made" / "cut" / "model.onnx").write_bytes(b"\x08\x07\xff")
    (tmp_path / "manifest.json").write_text(json.dumps(items))
    (tmp_path / "peer_baseline.json").write_text(json.dumps({"right": {"ok": True}, "wrong": {"ok": False}}))
    record = score_corpus(tmp_path, kinds=("onnx",))
    status = {one["name"]: one["status"] for one in record["items"]}
    assert status == {"right": Status.PASSED, "wrong": Status.WRONG, "cut": Status.REJECTED}
    assert record["families"]["made"]["peers_passed"] == 1
    assert "| made | 3 | 3 | 1 | 1 | 1 |" in table(record["families"])
    write(record, tmp_path / "score.json")
    assert json.loads((tmp_path / "score.json").read_text())["items"][0]["name"] == "right"


def test_a_dead_worker_costs_one_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [item(tmp_path, name, [-1, 2]) for name in ("before", "fatal", "after")]
    (tmp_path / "manifest.json").write_text(json.dumps(items))
    (tmp_path / "peer_baseline.json").write_text("{}")
    monkeypatch.setattr("benchmarks.corpus_score._SCORE", "tests.corpus.fatal_worker:score_item")
    record = score_corpus(tmp_path, kinds=("onnx",))
    status = {one["name"]: one["status"] for one in record["items"]}
    assert status == {"before": Status.PASSED, "fatal": Status.CRASHED, "after": Status.PASSED}
    assert families(record["items"])["made"]["crashed"] == 1


def caffe_item(corpus: Path, name: str, layer: str, answer: list[float]) -> dict[str, Any]:
    folder = corpus / "made" / name
    folder.mkdir(parents=True)
    (folder / "net.prototxt").write_text(
        'input: "x" input_shape { dim: 1 dim: 3 } '
        f'layer {{ name: "y" type: "{layer}" bottom: "x" top: "y" }}'
    )
    np.save(folder / "in_0.npy", np.array([[-1, 2, 3]], np.float32))
    np.save(folder / "out.npy", np.array([answer], np.float32))
    return {
        **{"name": name, "family": "made", "kind": "caffe", "dir": f"made/{name}", "has_io": False},
        **{"spec": {"inputs": 1}, "tol": None},
    }


def test_caffe_items_count_though_their_arrays_lie_in_files_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="fairlead[caffe] is not installed")
    items = [
        caffe_item(tmp_path, "right", "ReLU", [0, 2, 3]),
        caffe_item(tmp_path, "wrong", "ReLU", [0, 2, 4]),
        caffe_item(tmp_path, "unknown", "NoSuchLayer", [0, 2, 3]),
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(items))
    (tmp_path / "peer_baseline.json").write_text("{}")
    record = score_corpus(tmp_path, kinds=("caffe",))
    status = {one["name"]: one["status"] for one in record["items"]}
    assert status == {"right": Status.PASSED, "wrong": Status.WRONG, "unknown": Status.REJECTED}
    assert record["families"]["made"]["scored"] == 3


@pytest.mark.parametrize(
    ("got", "reference", "expected"),
    [
        (np.array([1.0, 2.1]), np.array([1.0, 2.0]), 0.05),
        (np.array([10, 20], np.uint8), np.array([10, 71], np.uint8), 0.2),
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), 0.25),
        (np.array([[1.0]]), np.array(1.0), 0.0),
        (np.zeros((2, 3)), np.zeros((3, 2)), math.inf),
        (np.array([np.nan, 1]), np.array([np.nan, 1]), 0.0),
        (np.array([0.0, 1]), np.array([np.nan, 1]), math.inf),
        (np.array([np.inf, 1]), np.array([-np.inf, 1]), math.inf),
        (np.zeros(2), np.zeros(2), 0.0),
    ],
)
def test_the_measure(got: Any, reference: Any, expected: float) -> None:
    assert error(got, reference) == pytest.approx(expected)


def test_a_negative_tolerance_bounds_the_mean() -> None:
    got, reference = np.array([1.0, 2.0, 3.0, 4.4]), np.array([1.0, 2.0, 3.0, 4.0])
    figure, fits = within(got, reference, -0.03)
    assert figure == pytest.approx(0.025)
    assert fits
    assert not within(got, reference, 0.03)[1]
