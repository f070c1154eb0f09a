# ruff: noqa: E501 - graphs in tables are easier to read in one line
"""A scale and shift behind Concat, Resize or a pool goes to the convolutions before it, and into their weights."""

from __future__ import annotations

import numpy as np
import pytest

from optim.model import op_counts
from optim.passes.fold_batchnorm import FoldBatchnorm
from optim.passes.hoist_scales import HoistScales
from tests.optim.table import Case, check, normal, positive

_X = "g (float[N, 3, 6, 8] X) => (float[N, c, h, w] Y)"
_BN = {"s": positive(5), "t": normal(5), "m": normal(5, seed=3), "v": positive(5, seed=4)}
_W = {"V": normal(2, 3, 3, 3), "W": normal(3, 3, 3, 3, seed=2), "b": normal(3)}
_WIDE = {"U": normal(5, 3, 3, 3)}
_TWICE = {"sizes": np.asarray([1, 1, 2, 2], np.float32)}

CASES = [
    Case(
        "Concat of two convolutions",
        f"{_X} {{ A = Conv(X, V) B = Conv(X, W, b) C = Concat<axis = 1>(A, B) Y = BatchNormalization(C, s, t, m, v) }}",
        {"Conv": 2, "Concat": 1, "BatchNormalization": 2},
        _BN | _W,
    ),
    Case(
        "Mul and Add, and an output name to keep",
        f"{_X} {{ A = Conv(X, V) B = Conv(X, W) C = Concat<axis = -3>(A, B) D = Mul(C, k) Y = Add(D, l) }}",
        {"Conv": 2, "Concat": 1, "BatchNormalization": 2},
        {"V": _W["V"], "W": _W["W"], "k": positive(5, 1, 1), "l": normal(1, 5, 1, 1)},
    ),
    Case(
        "Resize and a Concat inside",
        f'{_X} {{ A = Conv(X, V) B = Conv(X, W) C = Concat<axis = 1>(A, B) D = Resize<mode = "linear">(C, , sizes) Y = BatchNormalization(D, s, t, m, v) }}',
        {"Conv": 2, "Concat": 1, "Resize": 1, "BatchNormalization": 2},
        _BN | {"V": _W["V"], "W": _W["W"]} | _TWICE,
    ),
    Case(
        "pools",
        f"{_X} {{ A = Conv(X, U) B = MaxPool<kernel_shape = [2, 2]>(A) C = AveragePool<kernel_shape = [2, 2], pads = [1, 1, 0, 0]>(B) D = BatchNormalization(C, s, t, m, v) Y = Relu(D) }}",
        {"Conv": 1, "MaxPool": 1, "AveragePool": 1, "BatchNormalization": 1, "Relu": 1},
        _BN | _WIDE,
    ),
    Case(
        "a negative scale turns the maximum",
        f"{_X} {{ A = Conv(X, U) B = MaxPool<kernel_shape = [2, 2]>(A) Y = Mul(B, k) }}",
        {"Conv": 1, "MaxPool": 1, "Mul": 1},
        _WIDE | {"k": -positive(5, 1, 1)},
        refusal="not above zero",
    ),
    Case(
        "the pool counts its border",
        f"{_X} {{ A = Conv(X, U) B = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(A) Y = Add(B, l) }}",
        {"Conv": 1, "AveragePool": 1, "Add": 1},
        _WIDE | {"l": normal(5, 1, 1)},
        refusal="counts its border",
    ),
    Case(
        "one piece comes from no convolution",
        f"{_X} {{ A = Conv<pads = [1, 1, 1, 1]>(X, V) C = Concat<axis = 1>(A, X) Y = BatchNormalization(C, s, t, m, v) }}",
        {"Conv": 1, "Concat": 1, "BatchNormalization": 1},
        _BN | {"V": _W["V"]},
        refusal="no linear op",
    ),
    Case(
        "one piece is read elsewhere",
        f"{_X} {{ A = Conv(X, V) B = Conv(X, W) C = Concat<axis = 1>(A, B) D = BatchNormalization(C, s, t, m, v) E = Relu(A) Y = Concat<axis = 1>(D, E) }}",
        {"Conv": 2, "Concat": 2, "BatchNormalization": 1, "Relu": 1},
        _BN | {"V": _W["V"], "W": _W["W"]},
        refusal="read elsewhere",
    ),
    Case(
        "Concat of rows",
        f"{_X} {{ A = Conv(X, U) B = Conv(X, U) C = Concat<axis = 2>(A, B) Y = Mul(C, k) }}",
        {"Conv": 2, "Concat": 1, "Mul": 1},
        _WIDE | {"k": positive(5, 1, 1)},
        refusal="does not join channels",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_table(case: Case) -> None:
    check(HoistScales(), case)


@pytest.mark.parametrize("case", [c for c in CASES if not c.refusal], ids=str)
def test_nothing_is_left_after_folding(case: Case) -> None:
    model = check(HoistScales(), case)
    FoldBatchnorm().apply(model)
    assert "BatchNormalization" not in op_counts(model)
