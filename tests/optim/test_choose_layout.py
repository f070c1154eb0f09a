# ruff: noqa: E501 - graphs in tables are easier to read in one line
"""Transposes go where they move the fewest bytes, and those that stay say why."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.passes.choose_layout import ChooseLayout
from optim.passes.min_cut import SINK, SOURCE, CutGraph
from tests.optim.table import Case, assert_sound, check, graph, normal, positive

_IN = "A = Transpose<perm = [0, 3, 1, 2]>(X)"
_W = {"W": normal(3, 3, 3, 3)}
_CONV = "Conv<pads = [1, 1, 1, 1]>"


def _nhwc(body: str, out: str = "N, 8, 6, 3") -> str:
    return f"g (float[N, 8, 6, 3] X) => (float[{out}] Y) {{ {_IN} B = {_CONV}(A, W) {body} }}"


CASES = [
    Case(
        "stored integer operands turn with the data",
        "g (float[1, 3, 4, 5] X) => (float[1, 3, 4, 5] Y) { A = Transpose<perm = [0, 2, 3, 1]>(X) S = DequantizeLinear<axis = 0>(q, s, z) B = Mul(A, S) T = DequantizeLinear(p, o) C = Add(B, T) Y = Transpose<perm = [0, 3, 1, 2]>(C) }",
        {"DequantizeLinear": 2, "Mul": 1, "Add": 1},
        {
            "q": np.asarray([3, -4, 5], np.int8),
            "s": np.asarray([0.5, 0.25, 0.125], np.float32),
            "z": np.asarray([0, 1, 2], np.int8),
            "p": np.arange(15, dtype=np.uint8).reshape(5, 3),
            "o": np.float32(0.5),
        },
    ),
    Case(
        "a pair round elementwise ops with constants",
        _nhwc(
            "C = Transpose<perm = [0, 2, 3, 1]>(B) D = Mul(C, s) E = Add(D, t) F = Relu(E) "
            f"G = Transpose<perm = [0, 3, 1, 2]>(F) H = {_CONV}(G, W) Y = Transpose<perm = [0, 2, 3, 1]>(H)"
        ),
        {"Conv": 2, "Mul": 1, "Add": 1, "Relu": 1, "Transpose": 2},
        {**_W, "s": positive(3), "t": normal(8, 6, 3)},
        refusal="graph input 'X' is in one layout",
    ),
    Case(
        "Concat, Split, Pad, Slice, Softmax, reductions that keep their axes",
        _nhwc(
            "C = Transpose<perm = [0, 2, 3, 1]>(B) D = Concat<axis = 3>(C, C) E, F = Split<axis = -1, num_outputs = 2>(D) "
            "G = Add(E, F) H = Pad(G, p) I = Slice(H, b, e, a) J = Softmax<axis = 3>(I) K = ReduceMean<keepdims = 1>(J, a) "
            f"L = Sub(J, K) M = Transpose<perm = [0, 3, 1, 2]>(L) O = {_CONV}(M, W) Y = Transpose<perm = [0, 2, 3, 1]>(O)",
            "N, h, w, 3",
        ),
        {
            "Conv": 2,
            "Concat": 1,
            "Split": 1,
            "Add": 1,
            "Pad": 1,
            "Slice": 1,
            "Softmax": 1,
            "ReduceMean": 1,
            "Sub": 1,
            "Transpose": 2,
        },
        {
            **_W,
            "p": np.asarray([0, 1, 1, 0, 0, 0, 2, 0]),
            "b": np.asarray([1, 0]),
            "e": np.asarray([7, 5]),
            "a": np.asarray([1, 2]),
        },
    ),
    Case(
        "global average without kept axes",
        _nhwc("C = Transpose<perm = [0, 2, 3, 1]>(B) Y = ReduceMean<keepdims = 0>(C, a)", "N, 3"),
        {"Conv": 1, "ReduceMean": 1, "Transpose": 1},
        {**_W, "a": np.asarray([1, 2])},
    ),
    Case(
        "flatten and dense: the rows are permuted instead",
        _nhwc("C = Transpose<perm = [0, 2, 3, 1]>(B) D = Reshape(C, r) E = Relu(D) Y = MatMul(E, V)", "N, 5"),
        {"Conv": 1, "Reshape": 1, "Relu": 1, "MatMul": 1, "Transpose": 1},
        {**_W, "r": np.asarray([-1, 144]), "V": normal(144, 5)},
    ),
    Case(
        "flatten and two Gemms, one transposed",
        _nhwc(
            "C = Transpose<perm = [0, 2, 3, 1]>(B) D = Flatten(C) E = Gemm(D, V) F = Gemm<transB = 1>(D, U, c) Y = Add(E, F)",
            "N, 5",
        ),
        {"Conv": 1, "Flatten": 1, "Gemm": 2, "Add": 1, "Transpose": 1},
        {**_W, "V": normal(144, 5), "U": normal(5, 144), "c": normal(5)},
    ),
    Case(
        "squeeze-excite: Squeeze, dense, Reshape back to [N, 1, 1, C]",
        _nhwc(
            "C = Transpose<perm = [0, 2, 3, 1]>(B) D = ReduceMean<keepdims = 0>(C, a) E = MatMul(D, V) F = Sigmoid(E) "
            "G = Reshape(F, r) H = Mul(C, G) I = Transpose<perm = [0, 3, 1, 2]>(H) "
            f"J = {_CONV}(I, W) Y = Transpose<perm = [0, 2, 3, 1]>(J)"
        ),
        {"Conv": 2, "ReduceMean": 1, "MatMul": 1, "Sigmoid": 1, "Reshape": 1, "Mul": 1, "Transpose": 2},
        {**_W, "a": np.asarray([1, 2]), "V": normal(3, 3), "r": np.asarray([-1, 1, 1, 3])},
    ),
    Case(
        "a flatten that goes out of the graph keeps its Transpose",
        _nhwc("C = Transpose<perm = [0, 2, 3, 1]>(B) Y = Reshape(C, r)", "N, 144"),
        {"Conv": 1, "Reshape": 1, "Transpose": 2},
        {**_W, "r": np.asarray([-1, 144])},
        refusal="survives",
    ),
    Case(
        "Resize",
        _nhwc(
            "C = Transpose<perm = [0, 2, 3, 1]>(B) "
            'D = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(C, , s) '
            f"E = Transpose<perm = [0, 3, 1, 2]>(D) F = {_CONV}(E, W) Y = Transpose<perm = [0, 2, 3, 1]>(F)",
            "N, 16, 12, 3",
        ),
        {"Conv": 2, "Resize": 1, "Transpose": 2},
        {**_W, "s": np.asarray([1, 2, 2, 1], dtype=np.float32)},
    ),
    Case(
        "a swap that is its own inverse",
        "g (float[N, 4, 4] X) => (float[N, 4, 4] Y) "
        "{ A = Transpose<perm = [0, 2, 1]>(X) B = Relu(A) C = Add(B, t) Y = Transpose<perm = [0, 2, 1]>(C) }",
        {"Relu": 1, "Add": 1},
        {"t": normal(4, 4)},
    ),
    Case(
        "stored quantised weights are permuted under their DequantizeLinear",
        "g (float[N, 2, 3, 4] X) => (float[N, 2, 3, 4] Y) { A = Transpose<perm = [0, 3, 1, 2]>(X) "
        "Q = DequantizeLinear<axis = 1>(w, s) B = Add(A, Q) Y = Transpose<perm = [0, 2, 3, 1]>(B) }",
        {"DequantizeLinear": 1, "Add": 1},
        {"w": np.arange(24, dtype=np.int8).reshape(1, 4, 2, 3), "s": positive(4)},
    ),
    Case(
        "x + x transposed stays",
        "g (float[4, 4] X) => (float[4, 4] Y) { A = Transpose<perm = [1, 0]>(X) Y = Add(X, A) }",
        {"Transpose": 1, "Add": 1},
        refusal="survives",
    ),
    Case(
        "many cheap readers: one Transpose before the fork is cheaper than three behind it",
        "g (float[N, 8, 6, 3] X) => (float[N, 3, 8, 6] P, float[N, 3, 8, 6] Q, float[N, 3, 8, 6] R) "
        "{ A = Relu(X) B = Transpose<perm = [0, 3, 1, 2]>(A) P = Sigmoid(B) Q = Tanh(B) R = Exp(B) }",
        {"Relu": 1, "Transpose": 1, "Sigmoid": 1, "Tanh": 1, "Exp": 1},
    ),
    Case(
        "a reduction first, then the Transpose of little",
        "g (float[N, 8, 6, 3] X) => (float[N, 3, 1, 1] Y) "
        "{ A = Transpose<perm = [0, 3, 1, 2]>(X) Y = ReduceMax<keepdims = 1>(A, a) }",
        {"ReduceMax": 1, "Transpose": 1},
        {"a": np.asarray([2, 3])},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_table(case: Case) -> None:
    check(ChooseLayout(), case)


def test_the_transpose_moves_behind_the_reduction() -> None:
    after = check(ChooseLayout(), CASES[-1])
    assert [n.op_type for n in after.graph] == ["ReduceMax", "Transpose"]


@pytest.mark.parametrize(
    ("width", "order"),
    [(3, ["Transpose", "Sub", "Mul", "Conv"]), (32, ["Sub", "Mul", "Transpose", "Conv"])],
)
def test_of_equal_choices_the_one_that_broadcasts_in_long_runs(width: int, order: list[str]) -> None:
    """Where three channels lie behind the width, kernels broadcast three numbers at a time."""
    case = Case(
        "an image that is normalised before it is transposed",
        f"g (float[N, 8, 20, {width}] X) => (float[N, 4, h, w] Y) {{ A = Sub(X, m) B = Mul(A, s) "
        f"C = Transpose<perm = [0, 3, 1, 2]>(B) Y = Conv(C, W) }}",
        {"Sub": 1, "Mul": 1, "Transpose": 1, "Conv": 1},
        {"m": normal(1, 1, 1, width), "s": positive(width), "W": normal(4, width, 3, 3)},
    )
    assert [n.op_type for n in check(ChooseLayout(), case).graph] == order


_OPS = st.sampled_from(
    [
        "Relu({0})",
        "Sigmoid({0})",
        "Mul({0}, s)",
        "Add({0}, t)",
        "Concat<axis = 3>({0}, {0})",
        "Sub({0}, {1})",
        "Neg({0})",
        "Softmax<axis = 1>({0})",
        "ReduceSum<keepdims = 1>({0}, a)",
    ]
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    steps=st.lists(st.tuples(_OPS, st.integers(0, 3), st.booleans()), min_size=1, max_size=7),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_any_chain(steps: list[tuple[str, int, bool]], size: tuple[int, int]) -> None:
    """Random graphs with Transposes strewn in: never more bytes than before, and the same numbers."""
    h, w = size
    lines, values = [], ["X"]
    for i, (op, pick, wrap) in enumerate(steps):
        a, b = values[-1], values[max(0, len(values) - 1 - pick)]
        if wrap:
            lines.append(f"T{i} = Transpose<perm = [0, 3, 1, 2]>({a}) U{i} = Relu(T{i})")
            lines.append(f"a{i} = Transpose<perm = [0, 2, 3, 1]>(U{i})")
            a = f"a{i}"
        if op.startswith(("Concat", "ReduceSum")) and i != len(steps) - 1:
            lines.append(f"v{i} = Abs({a})")  # keep the shape until the end
        else:
            lines.append(f"v{i} = " + op.format(a, b))
        values.append(f"v{i}")
    lines.append(f"Y = Identity({values[-1]})")
    text = f"g (float[N, {h}, {w}, 3] X) => (float[N, p, q, r] Y) {{ {' '.join(lines)} }}"
    weights = {"s": positive(3), "t": normal(h, w, 3), "a": np.asarray([1, 2])}
    before, after = graph(text, weights), graph(text, weights)
    ChooseLayout().apply(after)
    kept = sum(n.op_type == "Transpose" for n in after.graph)
    assert kept == 0, "every Transpose here stands in a pair"
    assert_sound(ChooseLayout(), before, after)


def test_minimum_cut_against_every_cut() -> None:
    """The cut's value equals the least over all 2^n bipartitions, on small random graphs."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        inner = int(rng.integers(1, 6))
        edges = [
            (int(a), int(b), int(c))
            for a, b, c in rng.integers((0, 0, 1), (inner + 2, inner + 2, 9), (12, 3))
        ]
        cut = CutGraph()
        vertices = [SOURCE, SINK, *(cut.vertex() for _ in range(inner))]
        for a, b, c in edges:
            cut.edge(vertices[a], vertices[b], c)
        found, side = cut.source_side()

        def cost(source_side: set[int], edges: list[tuple[int, int, int]] = edges) -> int:
            return sum(c for a, b, c in edges if a != b and a in source_side and b not in source_side)

        least = min(
            cost({SOURCE, *(v for i, v in enumerate(range(2, inner + 2)) if mask >> i & 1)})
            for mask in range(2**inner)
        )
        assert found == least == cost(side)
