# ruff: noqa: E501 - graphs in tables are easier to read in one line
"""Deep graphs need no recursion, and large weights are not held in memory."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from optim.legality import faults
from optim.model import op_counts
from optim.recipes import recipe_named
from optim.schedule import optimize
from tests.optim.table import graph, normal, positive

_DEEP = 3000


def _deep(step: str, first: str, weights: dict[str, np.ndarray]) -> ir.Model:
    lines, value = [], "X"
    for i in range(_DEEP // 3):
        lines.append(step.format(x=value, i=i))
        value = f"v{i}"
    return graph(
        f"g ({first} X) => ({first} Y) {{ {' '.join(lines)} Y = Abs({value}) }}", weights, infer=False
    )


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (
            "c{i} = Conv<pads = [1, 1, 1, 1]>({x}, W) b{i} = BatchNormalization(c{i}, s, t, t, s) v{i} = Relu(b{i})",
            {"Abs": 1, "Conv": _DEEP // 3, "Relu": _DEEP // 3},
        ),
        (
            "a{i} = Transpose<perm = [0, 2, 3, 1]>({x}) b{i} = Exp(a{i}) v{i} = Transpose<perm = [0, 3, 1, 2]>(b{i})",
            {"Abs": 1, "Exp": _DEEP // 3},
        ),
    ],
)
def test_deep_chains(step: str, expected: dict[str, int]) -> None:
    weights = {"W": normal(4, 4, 3, 3), "s": positive(4), "t": normal(4)} if "Conv" in step else {}
    model = _deep(step, "float[N, 4, 6, 5]", weights)
    ledger = optimize(model, recipe_named("canonical"), oracle=None)
    assert op_counts(model) == expected
    assert ledger.nodes_after == sum(expected.values())
    assert faults(model, ("X",), ("Y",)) == []


def test_folding_reads_no_large_weight_before_it_is_saved() -> None:
    """A scale folded into a large weight stays lazy: the source tensor is read only when the result is."""
    reads = 0

    def make() -> ir.TensorProtocol:
        nonlocal reads
        reads += 1
        return ir.tensor(np.ones((600, 700), np.float32))

    model = graph(
        "g (float[N, 600] X) => (float[N, 700] Y) { A = MatMul(X, W) B = Mul(A, s) Y = Add(B, t) }",
        {"W": np.zeros((600, 700), np.float32), "s": positive(700), "t": normal(700)},
    )
    weight = model.graph.initializers["W"]
    weight.const_value = ir.LazyTensor(make, dtype=ir.DataType.FLOAT, shape=ir.Shape([600, 700]), name="W")
    optimize(model, recipe_named("canonical"), oracle=None)
    assert op_counts(model) == {"Gemm": 1}
    assert reads == 0
    (gemm,) = model.graph
    folded = gemm.inputs[1]
    assert folded is not None
    assert folded.const_value is not None
    assert np.array_equal(folded.const_value.numpy(), np.broadcast_to(positive(700), (600, 700)))
    assert reads == 1
