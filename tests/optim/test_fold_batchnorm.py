"""Scale and shift become weights, in every form in which they arrive."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.passes.fold_batchnorm import FoldBatchnorm
from tests.optim.table import Case, assert_sound, check, graph, normal, positive

_W = normal(4, 3, 3, 3)
_STATS = {
    "g": positive(4),
    "b": normal(4, seed=2),
    "m": normal(4, seed=3),
    "v": positive(4, seed=4),
}
_CONV = "C = Conv<pads = [1, 1, 1, 1]>(X, W)"


def _two(body: str, shape: str = "N, 3, 8, 9", out: str = "N, 4, 8, 9") -> str:
    return f"g (float[{shape}] X) => (float[{out}] Y) {{ {body} }}"


CASES = [
    Case(
        "BatchNormalization after Conv",
        _two(f"{_CONV} Y = BatchNormalization(C, g, b, m, v)"),
        {"Conv": 1},
        {"W": _W, **_STATS},
    ),
    Case(
        "Mul and Add after a Conv with bias, then Relu stays",
        _two("C = Conv<pads = [1, 1, 1, 1]>(X, W, B) D = Mul(C, s) E = Add(D, t) Y = Relu(E)"),
        {"Conv": 1, "Relu": 1},
        {"W": _W, "B": normal(4, seed=8), "s": positive(1, 4, 1, 1), "t": normal(4, 1, 1, seed=5)},
    ),
    Case(
        "Sub, Div, Neg and a scalar on the left",
        _two(f"{_CONV} D = Sub(s, C) E = Div(D, t) F = Neg(E) Y = Mul(two, F)"),
        {"Conv": 1},
        {"W": _W, "s": normal(4, 1, 1), "t": positive(4, 1, 1), "two": np.float32(2)},
    ),
    Case(
        "bias Add and BatchNormalization behind it",
        _two(f"{_CONV} D = Add(C, t) Y = BatchNormalization(D, g, b, m, v)"),
        {"Conv": 1},
        {"W": _W, "t": normal(4, 1, 1), **_STATS},
    ),
    Case(
        "through a Transpose",
        _two(f"{_CONV} D = Transpose<perm = [0, 2, 3, 1]>(C) E = Mul(D, s) Y = Add(E, t)", out="N, 8, 9, 4"),
        {"Conv": 1, "Transpose": 1},
        {"W": _W, "s": positive(4), "t": normal(4)},
    ),
    Case(
        "grouped",
        _two("C = Conv<group = 2>(X, W) D = Mul(C, s) Y = Add(D, t)", "N, 4, 7, 7", "N, 6, 5, 5"),
        {"Conv": 1},
        {"W": normal(6, 2, 3, 3), "s": positive(6, 1, 1), "t": normal(6, 1, 1)},
    ),
    Case(
        "depthwise with multiplier",
        _two("C = Conv<group = 3>(X, W) D = Mul(C, s) Y = Add(D, t)", out="N, 6, 6, 7"),
        {"Conv": 1},
        {"W": normal(6, 1, 3, 3), "s": positive(6, 1, 1), "t": normal(6, 1, 1)},
    ),
    Case(
        "ConvTranspose",
        _two(
            "C = ConvTranspose<strides = [2, 2]>(X, W) Y = BatchNormalization(C, g, b, m, v)",
            "N, 3, 5, 5",
            "N, 4, h, w",
        ),
        {"ConvTranspose": 1},
        {"W": normal(3, 4, 3, 3), **_STATS},
    ),
    Case(
        "grouped ConvTranspose",
        _two("C = ConvTranspose<group = 2>(X, W) D = Mul(C, s) Y = Add(D, t)", "N, 4, 5, 5", "N, 6, 7, 7"),
        {"ConvTranspose": 1},
        {"W": normal(4, 3, 3, 3), "s": positive(6, 1, 1), "t": normal(6, 1, 1)},
    ),
    Case(
        "1-D and 3-D: Conv over [N, C, L]",
        _two("C = Conv(X, W) D = Mul(C, s) Y = Add(D, t)", "N, 3, 11", "N, 4, 9"),
        {"Conv": 1},
        {"W": normal(4, 3, 3), "s": positive(4, 1), "t": normal(4, 1)},
    ),
    Case(
        "Gemm with alpha, beta and transB",
        _two(
            "C = Gemm<alpha = 0.5, beta = 2.0, transB = 1>(X, W, B) D = Mul(C, s) Y = Add(D, t)",
            "N, 6",
            "N, 4",
        ),
        {"Gemm": 1},
        {"W": normal(4, 6), "B": normal(4), "s": positive(4), "t": normal(4)},
    ),
    Case(
        "MatMul keeps one Add",
        _two("C = MatMul(X, W) D = Add(C, u) E = Mul(D, s) Y = Add(E, t)", "N, 5, 6", "N, 5, 4"),
        {"MatMul": 1, "Add": 1},
        {"W": normal(6, 4), "u": normal(4), "s": positive(4), "t": normal(4)},
    ),
    Case(
        "BatchNormalization after MatMul: an Add is left, which fits into a Gemm",
        _two("C = MatMul(X, W) Y = BatchNormalization(C, g, b, m, v)", "N, 6", "N, 4"),
        {"MatMul": 1, "Add": 1},
        {"W": normal(6, 4), **_STATS},
    ),
    Case(
        "MatMul then Mul alone",
        _two("C = MatMul(X, W) Y = Mul(C, s)", "N, 6", "N, 4"),
        {"MatMul": 1},
        {"W": normal(6, 4), "s": positive(4)},
    ),
    Case(
        "before an unpadded Conv",
        _two("D = Mul(X, s) E = Add(D, t) Y = Conv(E, W)", out="N, 4, 6, 7"),
        {"Conv": 1},
        {"W": _W, "s": positive(3, 1, 1), "t": normal(3, 1, 1)},
    ),
    Case(
        "before a padded Conv: the scale folds, it leaves the border zero",
        _two("D = Mul(X, s) Y = Conv<pads = [1, 1, 1, 1]>(D, W)"),
        {"Conv": 1},
        {"W": _W, "s": positive(3, 1, 1)},
    ),
    # --- refusals
    Case(
        "before a padded Conv with a shift",
        _two("D = Add(X, t) Y = Conv<pads = [1, 1, 1, 1]>(D, W)"),
        {"Add": 1, "Conv": 1},
        {"W": _W, "t": normal(3, 1, 1)},
        refusal="the border would change",
    ),
    Case(
        "the convolution's result is read twice",
        _two(f"{_CONV} D = Mul(C, s) Y = Add(D, C)"),
        {"Conv": 1, "Mul": 1, "Add": 1},
        {"W": _W, "s": positive(4, 1, 1)},
        refusal="read 1 more time",
    ),
    Case(
        "training mode",
        _two(f"{_CONV} Y, p, q = BatchNormalization<training_mode = 1>(C, g, b, m, v)"),
        {"Conv": 1, "BatchNormalization": 1},
        {"W": _W, **_STATS},
        refusal="training mode",
    ),
    Case(
        "statistics that are an input",
        "g (float[N, 3, 8, 9] X, float[4] m) => (float[N, 4, 8, 9] Y) "
        f"{{ {_CONV} Y = BatchNormalization(C, g, b, m, v) }}",
        {"Conv": 1, "BatchNormalization": 1},
        {"W": _W, **{k: a for k, a in _STATS.items() if k != "m"}},
        refusal="not constant",
    ),
    Case(
        "weights that are an input",
        "g (float[N, 3, 8, 9] X, float[4, 3, 1, 1] W) => (float[N, 4, 8, 9] Y) "
        "{ C = Conv(X, W) Y = BatchNormalization(C, g, b, m, v) }",
        {"Conv": 1, "BatchNormalization": 1},
        _STATS,
        refusal="weights are not constant",
    ),
    Case(
        "an Add along the width is no shift",
        _two(f"{_CONV} Y = Add(C, t)"),
        {"Conv": 1, "Add": 1},
        {"W": _W, "t": normal(9)},
    ),
    Case(
        "an Add that widens the batch is no shift",
        _two(f"{_CONV} Y = Add(C, t)", "1, 3, 8, 9", "2, 4, 8, 9"),
        {"Conv": 1, "Add": 1},
        {"W": _W, "t": normal(2, 4, 1, 1)},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_table(case: Case) -> None:
    check(FoldBatchnorm(), case)


def test_names_and_sources_survive() -> None:
    from optim.facts import sources_of

    after = check(FoldBatchnorm(), CASES[1])
    conv = next(n for n in after.graph if n.op_type == "Conv")
    assert conv.outputs[0].name == "E"
    assert sources_of(conv) == ("C", "D", "E")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 2),
    size=st.tuples(st.integers(7, 9), st.integers(7, 9)),
    transposed=st.booleans(),
    batchnorm=st.booleans(),
)
def test_any_geometry(
    kernel: tuple[int, int],
    stride: int,
    dilation: int,
    pads: tuple[int, ...],
    groups: int,
    per_group: int,
    size: tuple[int, int],
    transposed: bool,
    batchnorm: bool,
) -> None:
    channels, out = 2 * groups, per_group * groups
    op = "ConvTranspose" if transposed else "Conv"
    weight = normal(channels, per_group, *kernel) if transposed else normal(out, 2, *kernel)
    geometry = f"strides = [{stride}, {stride}], dilations = [{dilation}, {dilation}], group = {groups}"
    usable = (
        pads
        if not transposed
        else tuple(min(p, (k - 1) * dilation // 2) for p, k in zip(pads, kernel * 2, strict=True))
    )
    body = f"C = {op}<{geometry}, pads = {list(usable)}>(X, W) "
    body += "Y = BatchNormalization(C, s, t, m, v)" if batchnorm else "D = Mul(C, s) Y = Add(D, t)"
    shape = (out,) if batchnorm else (out, 1, 1)
    weights = {"W": weight, "s": positive(*shape), "t": normal(*shape, seed=6)}
    if batchnorm:
        weights |= {"m": normal(out, seed=7), "v": positive(out, seed=8)}
    text = f"g (float[N, {channels}, {size[0]}, {size[1]}] X) => (float[N, {out}, h, w] Y) {{ {body} }}"
    before, after = graph(text, weights), graph(text, weights)
    FoldBatchnorm().apply(after)
    assert [n.op_type for n in after.graph] == [op]
    assert_sound(FoldBatchnorm(), before, after)
