"""The table of targets."""

from __future__ import annotations

import subprocess
import sys

import pytest

from optim.errors import UserError
from targets.catalog import TARGETS, all_targets, target_named


def test_every_line_names_a_target_that_carries_its_key() -> None:
    assert [t.name for t in all_targets()] == list(TARGETS)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'onnxruntime'") as caught:
        target_named("onnx-runtime")
    assert caught.value.exit_code == 2


def test_the_table_imports_no_runtime() -> None:
    code = (
        "import sys, targets.catalog as c; c.all_targets();"
        "heavy = {'onnxruntime', 'tensorflow', 'keras', 'openvino', 'cv2', 'ai_edge_litert'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
