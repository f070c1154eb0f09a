"""What ONNX Runtime's own optimiser gets wrong is said, with the level at which it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from onnx_ir import serde

from optim.contract import Array
from pipeline.sources.check_optimised import check_optimised
from pipeline.sources.checks import Reference

X: Array = np.random.default_rng(0).normal(size=(2, 7, 9, 4)).astype(np.float32)


def _plain() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, list(X.shape))],
        [helper.make_tensor_value_info("y", 1, list(X.shape))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _notes(folder: Path, shift: float) -> tuple[str, ...]:
    """Notes on a model whose source would answer with results that are ``shift`` away."""
    model = _plain()
    onnx.save(model, folder / "m.onnx")
    reference = Reference("random", {"x": X}, {"y": np.maximum(X, 0) + np.float32(shift)})
    return check_optimised(folder / "m.onnx", serde.deserialize_model(model), [reference])


def test_a_model_that_the_runtime_optimises_rightly_needs_no_note(tmp_path: Path) -> None:
    assert _notes(tmp_path, 0.0) == ()


def test_a_model_that_is_wrong_at_every_level_says_so(tmp_path: Path) -> None:
    (note,) = _notes(tmp_path, 0.5)
    assert note.startswith("WARNING: the model is right, but ONNX Runtime")
    assert "output y on random is" in note
    assert "Set graph_optimization_level to ORT_DISABLE_ALL" in note
