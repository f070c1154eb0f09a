# ruff: noqa: E501 - graphs in tables are easier to read in one line
"""Channel shuffles become reordered weights, downwards or upwards, wherever all around them can take them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.passes.sink_channel_shuffles import SinkChannelShuffles
from tests.optim.table import Case, assert_sound, check, graph, normal, positive

_X = "g (float[N, 6, 4, 5] X) => (float[N, c, h, w] Y)"
_SHUFFLE = "S = Reshape(P, apart) T = Transpose<perm = [0, 2, 1, 3, 4]>(S) Q = Reshape(T, whole)"
_SHAPES = {"apart": np.asarray([-1, 2, 3, 4, 5]), "whole": np.asarray([-1, 6, 4, 5])}
_W = {"G": normal(6, 3, 1, 1), "D": normal(6, 1, 3, 3), "d": normal(6), "W": normal(4, 6, 1, 1, seed=5)}
_KEPT = {"Reshape": 2, "Transpose": 1}

CASES = [
    Case(
        "depthwise, slopes and scales, into a convolution",
        f"{_X} {{ P = Conv<group = 2>(X, G) {_SHUFFLE} A = Conv<group = 6>(Q, D, d) B = PRelu(A, p) C = Mul(B, k) Y = Conv(C, W) }}",
        {"Conv": 3, "PRelu": 1, "Mul": 1},
        _SHAPES | _W | {"p": positive(6, 1, 1), "k": positive(1, 6, 1, 1)},
    ),
    Case(
        "two branches, one with a pool and a batch norm",
        f"{_X} {{ P = Conv<group = 2>(X, G) {_SHUFFLE} A = AveragePool<kernel_shape = [2, 2]>(Q) B = BatchNormalization(A, s, d, d, s) C = Conv(B, W) D1 = Relu(Q) E = Conv<kernel_shape = [2, 2]>(D1, V) Y = Add(C, E) }}",
        {"Conv": 3, "AveragePool": 1, "BatchNormalization": 1, "Relu": 1, "Add": 1},
        _SHAPES | {"G": _W["G"], "W": _W["W"], "d": _W["d"], "s": positive(6), "V": normal(4, 6, 2, 2)},
    ),
    Case(
        "upwards, where a grouped convolution follows",
        f"{_X} {{ M = Conv(X, V, d) P = Relu(M) {_SHUFFLE} Y = Conv<group = 2>(Q, G) }}",
        {"Conv": 2, "Relu": 1},
        _SHAPES | {"V": normal(6, 6, 1, 1), "d": _W["d"], "G": _W["G"]},
    ),
    Case(
        "between two grouped convolutions",
        f"{_X} {{ P = Conv<group = 2>(X, G) {_SHUFFLE} Y = Conv<group = 3>(Q, H) }}",
        {"Conv": 2, **_KEPT},
        _SHAPES | {"G": _W["G"], "H": normal(6, 2, 1, 1)},
        refusal="mixes channels",
    ),
    Case(
        "a gate that is computed",
        f"{_X} {{ P = Conv<group = 2>(X, G) {_SHUFFLE} A = Mul(Q, X) Y = Conv(A, W) }}",
        {"Conv": 2, "Mul": 1, **_KEPT},
        _SHAPES | {"G": _W["G"], "W": _W["W"]},
        refusal="second operand",
    ),
    Case(
        "the shuffled value is an output",
        f"g (float[N, 6, 4, 5] X) => (float[N, 6, 4, 5] Q, float[N, 4, 4, 5] Y) {{ P = Conv<group = 2>(X, G) {_SHUFFLE} Y = Conv(Q, W) }}",
        {"Conv": 2, **_KEPT},
        _SHAPES | {"G": _W["G"], "W": _W["W"]},
        refusal="is an output",
    ),
    Case(
        "rows are no channels",
        f"{_X} {{ S = Reshape(X, apart) T = Transpose<perm = [0, 1, 3, 2, 4]>(S) Q = Reshape(T, whole) Y = Conv(Q, W) }}",
        {"Conv": 1, **_KEPT},
        {"apart": np.asarray([-1, 6, 2, 2, 5]), "whole": _SHAPES["whole"], "W": _W["W"]},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_table(case: Case) -> None:
    check(SinkChannelShuffles(), case)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(groups=st.integers(2, 4), size=st.integers(2, 4), filters=st.integers(1, 5), kernel=st.integers(1, 3))
def test_any_shuffle(groups: int, size: int, filters: int, kernel: int) -> None:
    channels = groups * size
    text = (
        f"g (float[N, {channels}, 5, 4] X) => (float[N, {filters}, h, w] Y)"
        f" {{ P = Abs(X) {_SHUFFLE} A = Conv<group = {channels}>(Q, D) Y = Conv(A, W) }}"
    )
    weights = {
        "apart": np.asarray([-1, groups, size, 5, 4]),
        "whole": np.asarray([-1, channels, 5, 4]),
        "D": normal(channels, 1, kernel, kernel),
        "W": normal(filters, channels, 1, 1, seed=1),
    }
    before, after = graph(text, weights), graph(text, weights)
    assert SinkChannelShuffles().apply(after).modified
    assert_sound(SinkChannelShuffles(), before, after)
