"""The stand-alone scripts of a bundle say in one line what is wrong, and end with the code for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from targets.bundle import BundleSpec, write_bundle
from targets.onnxruntime import OnnxRuntime
from targets.preprocessing import Preprocessing
from targets.references import Reference


@pytest.fixture(scope="module")
def made(
    classifier: Path, references: tuple[Reference, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "digits"
    spec = BundleSpec("digits", classifier, OnnxRuntime(), references, preprocessing=Preprocessing(1 / 16))
    assert write_bundle(spec, folder).path == folder
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def run(
    script: Path, *words: object, absent: str = "", folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script in ``folder``, on a machine that lacks the package ``absent``."""
    environment = {"PATH": os.environ["PATH"]}
    if absent:
        away = script.parent.parent / f"without-{absent}"
        away.mkdir()
        (away / f"{absent}.py").write_text(f"raise ImportError(\"No module named '{absent}'\")")
        environment["PYTHONPATH"] = str(away)
    return subprocess.run(
        [sys.executable, str(script), *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False, cwd=folder, env=environment,
    )  # fmt: skip


def photo(file: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.random.default_rng(5).integers(0, 256, (64, 64), np.uint8)).save(file)


def truncated(file: Path) -> None:
    photo(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def two_arrays(file: Path) -> None:
    np.savez(file, a=np.zeros(2), b=np.zeros(2))


def object_array(file: Path) -> None:
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)


REFUSED: list[tuple[str, Callable[[Path], object], str]] = [
    ("nowhere.png", lambda _: None, "there is no such file"),
    ("nowhere.npy", lambda _: None, "there is no such file"),
    ("folder.png", Path.mkdir, "is a folder"),
    ("text.png", lambda f: f.write_text("no picture"), "cannot be read as an image: no image format"),
    ("empty.jpg", Path.touch, "cannot be read as an image"),
    ("cut.png", truncated, "cannot be read as an image: image file is truncated"),
    ("empty.npy", Path.touch, "cannot be read as an array"),
    ("text.npz", lambda f: f.write_text("no zip"), "cannot be read as an array"),
    ("broken.npz", lambda f: f.write_bytes(b"PK\x03\x04broken"), "cannot be read as an array"),
    ("pickled.npy", object_array, "cannot be read as an array"),
    ("notes.txt", lambda f: f.write_text("hello"), "is neither an array nor an image"),
    ("two.npz", two_arrays, "holds 2 arrays: a, b"),
    ("wrong.npy", lambda f: np.save(f, np.zeros((1, 9, 9), np.float32)), "takes [1, 1, 8, 8]"),
    ("flat.npy", lambda f: np.save(f, np.zeros(64, np.uint8)), "holds an array of shape [64]"),
    ("words.npy", lambda f: np.save(f, np.array([["a"]])), "holds <U1, not numbers"),
]


@pytest.mark.parametrize(("name", "make", "what"), REFUSED, ids=[name for name, _, _ in REFUSED])
def test_predict_refuses_in_one_line(
    made: Path, tmp_path: Path, name: str, make: Callable[[Path], object], what: str
) -> None:
    make(tmp_path / name)
    done = run(made / "predict.py", name, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{name}: ")
    assert what in line
    assert ". Try: " in line
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("package", "name"), [("onnxruntime", "onnxruntime"), ("PIL", "Pillow"), ("numpy", "numpy")]
)
def test_predict_names_the_package_that_is_missing(bundle: Path, package: str, name: str) -> None:
    photo(bundle.parent / "one.png")
    done = run(bundle / "predict.py", bundle.parent / "one.png", absent=package)
    assert done.returncode == 4, done.stderr
    (line,) = done.stderr.splitlines()
    assert name in line
    assert ". Try: " in line


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("name", ["manifest.json", "preprocess.json", "model.onnx"])
@pytest.mark.parametrize("damage", [cut, Path.unlink], ids=["cut", "missing"])
def test_predict_from_a_damaged_bundle(bundle: Path, name: str, damage: Callable[[Path], None]) -> None:
    photo(bundle.parent / "one.png")
    damage(bundle / name)
    done = run(bundle / "predict.py", bundle.parent / "one.png")
    assert done.returncode == 1, done.stderr
    assert name in done.stderr
    assert ". Try: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["manifest.json", "references/zeros.npz", "references/random_0.npz"])
@pytest.mark.parametrize("damage", [cut, Path.unlink], ids=["cut", "missing"])
def test_verify_names_the_damaged_file(bundle: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(bundle / name)
    done = run(bundle / "verify.py")
    assert done.returncode == 1
    assert done.stderr == ""
    assert done.stdout.startswith("NOT INTACT\n")
    assert name in done.stdout
    assert "Try: " in done.stdout


@pytest.mark.parametrize("body", ["[]", "{}", '{"files": 3}', '"text"', "\udcff"])
def test_verify_takes_any_manifest_for_untrusted(bundle: Path, body: str) -> None:
    (bundle / "manifest.json").write_text(body, errors="surrogateescape")
    done = run(bundle / "verify.py")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("NOT INTACT\nmanifest.json is damaged")


def test_verify_calls_a_runtime_that_fails_a_failure(bundle: Path) -> None:
    """A runtime that answers nothing, in a folder that is otherwise what its manifest says."""
    from targets.manifest import entries_for, read_manifest, write_manifest

    told = json.loads((bundle / "manifest.json").read_text())["outputs"][0]["name"]
    for body, said in (
        ("raise ValueError('no\\nkernel')", "cannot be loaded: ValueError: no kernel"),
        ("return lambda feeds: {}[0]", "does not run: KeyError: 0"),
        ("return lambda feeds: {}", f"{told}: max|d|/range inf"),
    ):
        text = f"VERSION = 'one'\n\ndef load(folder, manifest, model):\n    {body}\n"
        (bundle / "runtime.py").write_text(text)
        manifest = read_manifest(bundle)
        write_manifest(bundle, manifest.model_copy(update={"files": entries_for(bundle)}))
        done = run(bundle / "verify.py")
        assert (done.returncode, done.stderr) == (1, ""), done.stderr
        assert said in done.stdout
        assert "FAILED" in done.stdout
