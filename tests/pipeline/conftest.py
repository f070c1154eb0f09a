"""A small convolution net with batch norm, written as ONNX: every stage runs on it in about a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def small_net(path: Path, *, scale: float = 1.0, output: str = "scores") -> Path:
    """Conv - BatchNormalization - Relu - GlobalAveragePool - Flatten - Gemm, input x [N, 3, 9, 9]."""
    rng = np.random.default_rng(0)
    shapes = {"w": (4, 3, 3, 3), "gamma": (4,), "beta": (4,), "mean": (4,), "fc": (4, 5), "b": (5,)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights["var"] = rng.uniform(0.5, 2, 4).astype(np.float32)
    weights["fc"] *= scale
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"], "bn"),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc", "b"], [output], "dense"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 9, 9])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """The small net's file."""
    return small_net(tmp_path / "net.onnx")


def write_config(folder: Path, benchmark: str) -> Path:
    """A whole run on the small net."""
    path = folder / "small.yaml"
    path.write_text(
        f"""
name: small
model: {{path: net.onnx}}
benchmark: {benchmark}
store: {folder / "store"}
out: {folder / "runs"}
"""
    )
    return path


@pytest.fixture
def config_file(tmp_path: Path, net: Path) -> Path:
    """A run without a benchmark: about two seconds."""
    return write_config(tmp_path, "null")


@pytest.fixture
def measured_config_file(tmp_path: Path, net: Path) -> Path:
    """A run with the least benchmark."""
    short = "{contenders: [raw, optimized], min_duration_s: 0.05, min_samples: 20, max_duration_s: 2}"
    return write_config(tmp_path, short)
