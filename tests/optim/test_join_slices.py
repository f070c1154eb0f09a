# ruff: noqa: E501 - graphs in tables are easier to read in one line
"""Slices that part an axis become one Split; gaps, overlaps and steps do not."""

from __future__ import annotations

import numpy as np
import pytest

from optim.passes.join_slices import JoinSlices
from tests.optim.table import Case, check

_G = "g (float[N, 6, 5] X) => (float[N, a, 5] A, float[N, b, 5] B)"
_ONE = {"x": np.asarray([1])}


def _ends(*numbers: int) -> dict[str, np.ndarray]:
    return {f"n{i}": np.asarray([n]) for i, n in enumerate(numbers)} | _ONE


CASES = [
    Case(
        "two parts, out of order, counted from the end",
        f"{_G} {{ B = Slice(X, n1, n2, x) A = Slice(X, n0, n1, x) }}",
        {"Split": 1},
        _ends(0, -4, 9223372036854775807),
    ),
    Case(
        "three parts of what a node made",
        "g (float[N, 6, 5] X) => (float[N, c, 5] Y) { E = Exp(X) A = Slice(E, n0, n1, x) B = Slice(E, n1, n2, x) C = Slice(E, n2, n3, x) Y = Concat<axis = 1>(C, A, B) }",
        {"Exp": 1, "Split": 1, "Concat": 1},
        _ends(0, 1, 3, 6),
    ),
    Case(
        "sizes as an attribute before opset 13",
        f"{_G} {{ A = Slice(X, n0, n1, x) B = Slice(X, n1, n2, x) }}",
        {"Split": 1},
        _ends(0, 2, 6),
        opset=11,
    ),
    Case(
        "a gap", f"{_G} {{ A = Slice(X, n0, n1, x) B = Slice(X, n2, n3, x) }}",
        {"Slice": 2}, _ends(0, 2, 3, 6), refusal="gap or overlap",
    ),
    Case(
        "an overlap", f"{_G} {{ A = Slice(X, n0, n2, x) B = Slice(X, n1, n3, x) }}",
        {"Slice": 2}, _ends(0, 2, 3, 6), refusal="gap or overlap",
    ),
    Case(
        "a step", f"{_G} {{ A = Slice(X, n0, n1, x, n1) B = Slice(X, n1, n2, x) }}",
        {"Slice": 2}, _ends(0, 2, 6),
    ),
    Case(
        "an axis of unknown size",
        "g (float[N, M, 5] X) => (float[N, a, 5] A, float[N, b, 5] B) { A = Slice(X, n0, n1, x) B = Slice(X, n1, n2, x) }",
        {"Slice": 2},
        _ends(0, 1, 9223372036854775807),
        numbers=False,
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_table(case: Case) -> None:
    check(JoinSlices(), case)
