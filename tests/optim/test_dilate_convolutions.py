# ruff: noqa: E501 - graphs in tables are easier to read in one line
"""A convolution over interleaved images is a dilated one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.model import op_counts
from optim.passes.dilate_convolutions import DilateConvolutions
from tests.optim.table import Array, Case, assert_sound, check, graph, normal

_TO_BATCH = "A = Reshape(X, part) B = Transpose<perm = [3, 5, 0, 1, 2, 4]>(A) C = Reshape(B, join)"
_TO_SPACE = "E = Reshape(D, back) F = Transpose<perm = [2, 3, 4, 0, 5, 1]>(E) Y = Reshape(F, whole)"
_LEFT = {"Reshape": 4, "Transpose": 2, "Conv": 1}


def _weights(
    height: int, width: int, block: tuple[int, int], kernel: tuple[int, int], batch: int = 2
) -> dict[str, Array]:
    """Shapes for [batch, 3, height, width] and four filters."""
    rows, columns = height // block[0], width // block[1]
    out = rows - kernel[0] + 1, columns - kernel[1] + 1
    return {
        "part": np.asarray([batch, 3, rows, block[0], columns, block[1]]),
        "join": np.asarray([-1, 3, rows, columns]),
        "back": np.asarray([*block, batch, 4, *out]),
        "whole": np.asarray([batch, 4, out[0] * block[0], out[1] * block[1]]),
        "W": normal(4, 3, *kernel),
        "w": normal(4),
    }


_G = "g (float[2, 3, 8, 12] X) => (float[2, 4, h, w] Y)"
CASES = [
    Case("block 2", f"{_G} {{ {_TO_BATCH} D = Conv(C, W, w) {_TO_SPACE} }}", {"Conv": 1}, _weights(8, 12, (2, 2), (3, 3))),
    Case("rows and columns differ", f"{_G} {{ {_TO_BATCH} D = Conv(C, W, w) {_TO_SPACE} }}", {"Conv": 1}, _weights(8, 12, (2, 3), (2, 3))),
    Case(
        "the small images are padded",
        f"{_G} {{ {_TO_BATCH} D = Conv<pads = [1, 1, 0, 0], kernel_shape = [2, 2]>(C, W, w) {_TO_SPACE} }}",
        _LEFT,
        _weights(8, 12, (2, 2), (2, 2)) | {"back": np.asarray([2, 2, 2, 4, 4, 6]), "whole": np.asarray([2, 4, 8, 12])},
        refusal="pads each",
    ),
    Case(
        "other places",
        f"{_G} {{ {_TO_BATCH} D = Conv(C, W, w) E = Reshape(D, back) F = Transpose<perm = [2, 3, 4, 1, 5, 0]>(E) Y = Reshape(F, whole) }}",
        _LEFT,
        _weights(8, 12, (2, 2), (3, 3)),
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_table(case: Case) -> None:
    check(DilateConvolutions(), case)


def test_the_dilation_is_the_block() -> None:
    (conv,) = check(DilateConvolutions(), CASES[1]).graph
    assert tuple(conv.attributes["dilations"].as_ints()) == (2, 3)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    block=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    more=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    batch=st.integers(1, 3),
)
def test_any_geometry(
    block: tuple[int, int], kernel: tuple[int, int], more: tuple[int, int], batch: int
) -> None:
    height, width = (b * (k + m) for b, k, m in zip(block, kernel, more, strict=True))
    text = f"g (float[{batch}, 3, {height}, {width}] X) => (float[{batch}, 4, h, w] Y) {{ {_TO_BATCH} D = Conv(C, W, w) {_TO_SPACE} }}"
    weights = _weights(height, width, block, kernel, batch)
    before, after = graph(text, weights), graph(text, weights)
    assert DilateConvolutions().apply(after).modified
    assert op_counts(after) == {"Conv": 1}
    assert_sound(DilateConvolutions(), before, after)
