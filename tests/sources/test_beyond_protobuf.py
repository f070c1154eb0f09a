"""More than 2 GiB of weights do not fit in one protobuf message: they go beside the model; memory holds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.sources.child import call_once
from targets.reference import OrtSession

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

_WEIGHT_BYTES = 4 * (9000 * 30000 + 30000 * 10000 + 10000)
_DISK_BYTES = 4 * _WEIGHT_BYTES
# TensorFlow's import takes 600 MiB; what the converter itself imports, another 80.


def test_a_model_beyond_two_gibibytes_converts_with_external_data(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    if find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed: pip install 'fairlead[tensorflow]'")
    if shutil.disk_usage(tmp_path).free < _DISK_BYTES:
        pytest.skip(f"needs {_DISK_BYTES >> 30} GiB of disk under {tmp_path}")
    source, out = tmp_path / "model.keras", tmp_path / "model.onnx"
    call_once("tests.sources.tf_models:build", "beyond_protobuf", source)
    command = [sys.executable, "-m", "pipeline.cli", "convert", str(source), "-o", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    source.unlink()
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    record_property("peak_rss_mib", record["peak_rss_mib"])
    record_property("seconds", record["stage_seconds"])
    assert 0 <= record["weight_bytes"] - _WEIGHT_BYTES < 1024  # beside the weights a few axes
    assert all(one["passed"] for one in record["parity"])
    data = out.with_name("model.onnx.data")
    assert data.stat().st_size >= _WEIGHT_BYTES
    assert out.stat().st_size < 1 << 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    onnx.checker.check_model(str(out))
    with OrtSession(out, optimization="off") as session:
        (spec,) = session.inputs
        answer = session.run({spec.name: np.zeros((1, 12), np.int32)})
    assert next(iter(answer.values())).shape == (1, 10000)
