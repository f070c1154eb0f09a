"""The matrix of models and targets: what its table says, and how a cell that misbehaves is held."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import matrix


def _record(model: str, target: str, state: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "target": target, "state": state, "reason": "", "model_sha256": "a", **more}


def test_every_state_has_its_word_and_each_reason_its_number() -> None:
    records = [
        _record("resnet50", "onnxruntime", "verified", max_abs_over_range=3.2e-7, snr_db=128.4),
        _record("resnet50", "web", "verified", max_abs_over_range=0.0, snr_db=999.0),
        _record(
            "resnet50",
            "coreml",
            "produced, not executed",
            detail="no runtime on this machine: model.mlpackage/model.mlmodel: it runs on macOS only",
        ),
        _record("resnet50", "caffe", "unsupported", reason="node a: no | such\nlayer"),
        _record("unet", "caffe", "unsupported", reason="node a: no | such\nlayer"),
        _record("unet", "web", "failed", reason="it took more than 9 s"),
    ]
    targets = ["onnxruntime", "web", "coreml", "caffe"]
    text = matrix.table(records, {"resnet50": {}, "unet": {}}, targets)
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert (
        rows["resnet50"]
        == "| resnet50 | **verified** 3.2e-07, 128 dB | **verified** exact | *produced* | – (1) |"
    )
    assert rows["unet"] == "| unet |  | failed (2) |  | – (1) |"
    assert "1. caffe: node a: no \\| such layer" in text
    assert "2. web: it took more than 9 s" in text
    assert "2 verified" in text
    assert "- coreml: it runs on macOS only" in text
    widths = {line.count(" | ") for name, line in rows.items() if name in ("model", "resnet50")}
    assert len(widths) == 1


def test_a_cell_is_ended_for_time_and_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "greedy.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "if sys.argv[1] == 'memory':\n    hold = bytearray(300 << 20)\n"
        "if sys.argv[1] == 'code':\n    sys.exit('no such thing')\n"
        "if sys.argv[1] == 'fine':\n    print('{}')\n    sys.exit()\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(matrix, "__file__", str(script))
    monkeypatch.setattr(matrix, "MEMORY_LIMIT", 200 << 20)
    assert "more than 1 s" in matrix.limited(["time"], 1.0)[1]
    assert "GiB" in matrix.limited(["memory"], 30.0)[1]
    assert "no such thing" in matrix.limited(["code"], 30.0)[1]
    assert matrix.limited(["fine"], 30.0)[:2] == ("{}\n", "")


def test_a_cell_is_kept_until_the_model_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def stand_in(arguments: list[str], _limit_s: float) -> tuple[str, str, float, float]:
        asked.append(arguments)
        return f"noise\n{json.dumps({'state': 'produced, not executed', 'reason': ''})}\n", "", 1.0, 2.0

    monkeypatch.setattr(matrix, "limited", stand_in)
    facts = tmp_path / "models" / "unet" / "facts.json"
    facts.parent.mkdir(parents=True)
    facts.write_text(json.dumps({"sha256": "one"}))
    for _ in range(2):
        record = matrix.made_cell("unet", "web", tmp_path, 1.0, again=False)
    assert len(asked) == 1
    assert record["state"] == "produced, not executed"
    facts.write_text(json.dumps({"sha256": "two"}))
    matrix.made_cell("unet", "web", tmp_path, 1.0, again=False)
    matrix.made_cell("unet", "web", tmp_path, 1.0, again=True)
    assert len(asked) == 3
