"""Imports run one way, nothing heavy is loaded early, and files speak of the project alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("tensorflow", "keras", "onnxruntime", "onnx", "onnx_ir", "numpy", "matplotlib", "scipy")


def test_imports_run_one_way(repository: Path) -> None:
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    script = (
        "import sys, json, pipeline.cli\n"
        f"sys.argv = ['fairlead', *{command!r}]\n"
        "try:\n    pipeline.cli.main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_parent_of_a_conversion_never_imports_a_framework(repository: Path) -> None:
    script = (
        "import sys, pipeline.execute, pipeline.stages.convert, pipeline.plan, pipeline.console\n"
        "bad = [m for m in ('tensorflow', 'keras', 'tf2onnx') if m in sys.modules]\n"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _tracked(repository: Path) -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=repository, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [repository / name for name in listed.stdout.splitlines()]


def test_constraints_and_build_files_hold_no_index_address(repository: Path) -> None:
    wanted = {"constraints.txt", "pyproject.toml", "Makefile"}
    found = [path for path in _tracked(repository) if path.name in wanted]
    assert {path.name for path in found} == wanted
    for path in found:
        assert not re.search(r"index-url|find-links|://[^\s]*(simple|pypi)", path.read_text()), path


def test_constraints_pin_exactly(repository: Path) -> None:
    lines = [
        one for one in (repository / "constraints.txt").read_text().splitlines() if one and one[0] != "#"
    ]
    assert lines
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[^\s;@]+( ; .+)?", line), line
