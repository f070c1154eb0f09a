"""The zoo's scripts for tests: light modules imported here, builds and TensorFlow in child processes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ZOO = Path(__file__).resolve().parents[2] / "configs" / "zoo"
INSPECT = Path(__file__).with_name("inspect_checkpoint.py")


@pytest.fixture(scope="session")
def zoo() -> Iterator[Callable[[str], ModuleType]]:
    """Import a module of ``configs/zoo`` by name; none of them imports a framework at its top."""
    sys.path.insert(0, str(ZOO))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(ZOO))


@pytest.fixture(scope="session")
def child() -> Callable[..., str]:
    """Run a Python script with arguments; its standard output, or an assertion with its errors."""

    def run(*arguments: str | Path, cwd: Path | None = None) -> str:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ZOO)}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=cwd,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def build(child: Callable[..., str]) -> Callable[[str, Path], tuple[Path, dict[str, Any]]]:
    """Build a model as the command line does: its folder and its summary."""

    def make(name: str, out: Path) -> tuple[Path, dict[str, Any]]:
        child(ZOO / "build.py", name, "--out", out)
        return out / name, json.loads((out / name / "summary.json").read_text())

    return make


@pytest.fixture(scope="session")
def inspect_checkpoint(child: Callable[..., str]) -> Callable[..., dict[str, Any]]:
    """What TensorFlow itself finds in a checkpoint; see ``inspect_checkpoint.py``."""

    def inspect(folder: Path, *, images: int = 16) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(child(INSPECT, folder, images))
        return found

    return inspect
