"""Means over large maps in two steps: which are split, that they stay what they are, and what it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from optim import model as onnx_file
from optim.facts import opset_of
from targets.long_means import split_long_means
from tests.targets.operator_cases import seeded

LARGE, SMALL = "[1,3,40,24]", "[1,3,9,10]"
# title: opset, body, shapes of x and y, axes or None, how many are split
CASES = {
    "over space": (18, "y = ReduceMean(x, a)", LARGE, "[1,3,1,1]", (2, 3), 1),
    "over space, axes dropped": (18, "y = ReduceMean<keepdims=0>(x, a)", LARGE, "[1,3]", (3, 2), 1),
    "axes counted from the end": (18, "y = ReduceMean<keepdims=0>(x, a)", LARGE, "[1,3]", (-2, -1), 1),
    "channels last": (18, "y = ReduceMean<keepdims=0>(x, a)", "[1,40,24,3]", "[1,3]", (1, 2), 1),
    "three axes": (18, "y = ReduceMean<keepdims=0>(x, a)", LARGE, "[1]", (1, 2, 3), 1),
    "axes as an attribute": (13, "y = ReduceMean<axes=[2,3], keepdims=0>(x)", LARGE, "[1,3]", None, 1),
    "global pool": (18, "y = GlobalAveragePool(x)", LARGE, "[1,3,1,1]", None, 1),
    "between others": (18, "t = Relu(x) m = GlobalAveragePool(t) y = Neg(m)", LARGE, "[1,3,1,1]", None, 1),
    "a small map": (18, "y = ReduceMean(x, a)", SMALL, "[1,3,1,1]", (2, 3), 0),
    "one axis": (18, "y = ReduceMean(x, a)", "[1,3,2,600]", "[1,3,2,1]", (3,), 0),
    "free sizes": (18, "y = ReduceMean(x, a)", "[1,3,H,W]", "[1,3,1,1]", (2, 3), 0),
    "a largest value": (18, "y = ReduceMax(x, a)", LARGE, "[1,3,1,1]", (2, 3), 0),
}


@pytest.mark.parametrize("title", CASES)
def test_split_means_answer_alike(title: str, tmp_path: Path) -> None:
    opset, body, given, result, axes, split = CASES[title]
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float{given} x) => (float{result} y) {{ {body} }}'
    )
    proto = parser.parse_model(text)
    if axes is not None:
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(axes, np.int64), "a"))
    proto = onnx.shape_inference.infer_shapes(proto)
    onnx.save(proto, tmp_path / "m.onnx")
    model = onnx_file.load(tmp_path / "m.onnx")
    assert split_long_means(model, opset_of(model)) == split
    assert split_long_means(model, opset_of(model)) == 0
    onnx_file.save(model, tmp_path / "split.onnx")
    after = onnx.load(tmp_path / "split.onnx")
    onnx.checker.check_model(after, full_check=True)
    assert [v.name for v in after.graph.output] == ["y"]
    shape = [d if d.isdigit() else "5" for d in given.strip("[]").split(",")]
    x = seeded(*map(int, shape))
    wanted, got = (np.asarray(ReferenceEvaluator(m).run(None, {"x": x})[0]) for m in (proto, after))
    assert got.shape == wanted.shape
    assert np.allclose(got, wanted, rtol=0, atol=1e-6)
    steps = [node.op_type for node in after.graph.node if node.op_type == "ReduceMean"]
    assert len(steps) == 2 * split or not split


def test_equal_values_summed_one_by_one_drift_and_in_rows_hardly() -> None:
    """Why: the arithmetic of a runtime that adds float32 values one after another."""
    value, height, width = np.float32(0.1), 112, 112

    def summed(terms: list[np.float32]) -> np.float32:
        total = np.float32(0)
        for term in terms:
            total = np.float32(total + term)
        return total

    def error(mean: np.float32) -> float:
        return abs(float(mean) / float(value) - 1)

    at_once = summed([value] * (height * width)) / np.float32(height * width)
    row = summed([value] * width) / np.float32(width)
    in_rows = summed([row] * height) / np.float32(height)
    assert error(at_once) > 20 * error(in_rows)
