"""The child process round a framework: private, quiet, and unable to take us with it."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

from optim.errors import MissingRuntimeError, UnsupportedModelError, UserError
from targets.child import Child, export_in_child
from targets.child_messages import receive, send

EXPORTERS = '''
"""Exporters that misbehave."""
import os, sys
from pathlib import Path
from optim.errors import UserError, UnsupportedModelError

def polite(model, out, options):
    (out / "made.txt").write_text("made")
    return {"home": os.environ["HOME"], "cwd": os.getcwd(), "options": options}

def litters(model, out, options):
    print("noise on stdout", flush=True)
    os.write(1, b"raw noise")
    model.write_bytes(b"rewritten")
    (model.parent / "beside").write_text("x")
    (Path.home() / ".telemetry").write_text("x")
    return {}

def dies(model, out, options):
    print("Segmentation fault ahead", flush=True)
    os.abort()

def refuses(model, out, options):
    raise UnsupportedModelError("op Foo cannot", where="node_7", hint="drop it")

def raises(model, out, options):
    raise ValueError("a framework's own words")

def sees(model, out, options):
    return {"seen": os.environ.get("CUDA_VISIBLE_DEVICES", "all")}

def lacks(model, out, options):
    import a_module_that_is_not_there
'''


@pytest.fixture
def exporters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "exporters_that_misbehave.py").write_text(EXPORTERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "exporters_that_misbehave"


def test_home_and_working_folder_are_private_and_vanish(
    exporters: str, classifier: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    facts = export_in_child(f"{exporters}:polite", classifier, out, {"a": 1})
    assert facts["options"] == {"a": 1}
    assert facts["home"] != os.environ.get("HOME")
    assert Path(facts["cwd"]) == Path(facts["home"])
    assert not Path(facts["home"]).exists()
    assert [f.name for f in out.iterdir()] == ["made.txt"]


@pytest.mark.parametrize(("given", "seen"), [(None, "all"), ("2", "2")])
def test_a_gpu_is_seen_only_by_the_child_that_asks_for_it(
    exporters: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, seen: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    work = {"request": "export", "exporter": f"{exporters}:sees", "model": "", "out": "", "options": {}}
    for gpu, expected in ((False, "-1"), (True, seen)):
        with Child(gpu=gpu) as child:
            assert child.ask(work)[0]["facts"] == {"seen": expected}


def test_noise_and_rewriting_reach_neither_the_answer_nor_the_input(
    exporters: str, classifier: Path, tmp_path: Path
) -> None:
    before = classifier.read_bytes()
    beside = sorted(classifier.parent.iterdir())
    assert export_in_child(f"{exporters}:litters", classifier, tmp_path, {}) == {}
    assert classifier.read_bytes() == before
    assert sorted(classifier.parent.iterdir()) == beside


def test_a_crash_is_an_error_with_the_last_words(exporters: str, classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"died.*Segmentation fault ahead"):
        export_in_child(f"{exporters}:dies", classifier, tmp_path, {})


def test_our_errors_keep_class_and_fields(exporters: str, classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        export_in_child(f"{exporters}:refuses", classifier, tmp_path, {})
    assert (caught.value.what, caught.value.where, caught.value.hint) == (
        "op Foo cannot",
        "node_7",
        "drop it",
    )
    with pytest.raises(UnsupportedModelError, match="ValueError: a framework's own words"):
        export_in_child(f"{exporters}:raises", classifier, tmp_path, {})
    with pytest.raises(MissingRuntimeError, match="a_module_that_is_not_there"):
        export_in_child(f"{exporters}:lacks", classifier, tmp_path, {})


def test_a_closed_child_leaves_nothing(classifier: Path) -> None:
    with Child() as child:
        folder = child.folder
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "uint8", "<U3"])
def test_messages_keep_names_types_and_order(dtype: str) -> None:
    arrays = {
        "a/b:0": np.zeros((2, 0, 3), dtype),
        "": np.array(1).astype(dtype),
        "é.npy": np.ones(3).astype(dtype),
    }
    stream = io.BytesIO()
    send(stream, {"request": "run"}, arrays)
    stream.seek(0)
    header, got = receive(stream)
    assert header["request"] == "run"
    assert list(got) == list(arrays)
    assert all(got[k].dtype == arrays[k].dtype and np.array_equal(got[k], arrays[k]) for k in arrays)
    with pytest.raises(EOFError):
        receive(stream)


def test_object_arrays_do_not_travel() -> None:
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        send(io.BytesIO(), {}, {"x": np.array([{}], dtype=object)})


def test_input_errors_are_told_from_ours(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        export_in_child("targets.openvino:export", tmp_path / "missing.onnx", tmp_path, {})
