# ruff: noqa: E501 - graphs in tables are easier to read in one line
"""Decomposed activations, squeeze-excite reshapes, dense layers and crops become the operators they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from optim.catalog import PASSES
from tests.optim.table import Case, check, normal, positive

_X = "g (float[N, 3, 5, 6] X) => (float[N, 3, 5, 6] Y)"
_3, _6, _SIXTH = np.float32(3), np.float32(6), np.float32(1 / 6)
_ZERO, _2 = np.float32(0), np.float32(2)

_GELU = {"r": np.sqrt(_2), "o": np.float32(1), "h": np.float32(0.5), "t": _2}

CASES = {
    "fuse_clips": [
        Case("Relu and Min", f"{_X} {{ A = Relu(X) Y = Min(A, s) }}", {"Clip": 1}, {"s": _6}),
        Case(
            "Max and Min, numbers first",
            f"{_X} {{ A = Max(z, X) B = Min(s, A) Y = Relu(B) }}",
            {"Clip": 1},
            {"s": _6, "z": -_3},
        ),
        Case(
            "Clip of Clip",
            f"{_X} {{ A = Clip(X, z, s) Y = Clip(A, t, ) }}",
            {"Clip": 1},
            {"z": _ZERO, "s": _6, "t": _SIXTH},
        ),
        Case("Max with zero", f"{_X} {{ Y = Max(X, z) }}", {"Relu": 1}, {"z": _ZERO}),
        Case(
            "a bound for each channel stays",
            f"{_X} {{ A = Relu(X) Y = Min(A, s) }}",
            {"Relu": 1, "Min": 1},
            {"s": positive(3, 1, 1)},
        ),
        Case(
            "the inner value is read twice",
            f"{_X} {{ A = Relu(X) B = Min(A, s) Y = Add(A, B) }}",
            {"Relu": 1, "Min": 1, "Add": 1},
            {"s": _6},
        ),
        Case(
            "integers stay",
            "g (int32[N] X) => (int32[N] Y) { A = Max(X, z) Y = Min(A, z) }",
            {"Max": 1, "Min": 1},
            {"z": np.int32(3)},
        ),
    ],
    "fuse_hardswish": [
        Case(
            "hard sigmoid",
            f"{_X} {{ A = Add(X, h) B = Clip(A, z, s) Y = Mul(B, k) }}",
            {"HardSigmoid": 1},
            {"h": _3, "z": _ZERO, "s": _6, "k": _SIXTH},
        ),
        Case(
            "hard swish",
            f"{_X} {{ A = Add(X, h) B = Clip(A, z, s) C = Div(B, s) Y = Mul(X, C) }}",
            {"HardSwish": 1},
            {"h": _3, "z": _ZERO, "s": _6},
        ),
        Case(
            "hard swish, product first",
            f"{_X} {{ A = Add(h, X) B = Clip(A, z, s) C = Mul(B, X) Y = Div(C, s) }}",
            {"HardSwish": 1},
            {"h": _3, "z": _ZERO, "s": _6},
        ),
        Case(
            "Keras' hard sigmoid 0.2 x + 0.5",
            f"{_X} {{ M = Mul(X, k) A = Add(M, h) Y = Clip(A, z, o) }}",
            {"HardSigmoid": 1},
            {"k": np.float32(0.2), "h": np.float32(0.5), "z": _ZERO, "o": np.float32(1)},
        ),
        Case(
            "another slope is no hard swish",
            f"{_X} {{ A = HardSigmoid<alpha = 0.2>(X) Y = Mul(X, A) }}",
            {"HardSigmoid": 1, "Mul": 1},
            refusal="alpha 1/6",
        ),
        Case(
            "another number behind the clip",
            f"{_X} {{ A = Add(X, h) B = Clip(A, z, s) Y = Mul(B, h) }}",
            {"Add": 1, "Clip": 1, "Mul": 1},
            {"h": _3, "z": _ZERO, "s": _6},
        ),
        Case(
            "no HardSwish before opset 14",
            f"{_X} {{ A = Add(X, h) B = Clip(A, z, s) C = Div(B, s) Y = Mul(X, C) }}",
            {"HardSigmoid": 1, "Mul": 1},
            {"h": _3, "z": _ZERO, "s": _6},
            opset=13,
        ),
    ],
    "fuse_prelu": [
        Case(
            "PReLU by channel",
            f"{_X} {{ A = Relu(X) B = Neg(X) C = Relu(B) D = Mul(C, s) Y = Add(A, D) }}",
            {"PRelu": 1},
            {"s": normal(3, 1, 1)},
        ),
        Case(
            "minus",
            f"{_X} {{ A = Relu(X) B = Neg(X) C = Relu(B) D = Mul(s, C) Y = Sub(A, D) }}",
            {"PRelu": 1},
            {"s": normal(3, 5, 6)},
        ),
        Case(
            "one slope",
            f"{_X} {{ A = Relu(X) B = Mul(X, m) C = Relu(B) D = Mul(C, s) Y = Add(D, A) }}",
            {"LeakyRelu": 1},
            {"s": np.full((3, 1, 1), -0.25, np.float32), "m": np.float32(-1)},
        ),
        Case("Max", f"{_X} {{ A = Mul(X, k) Y = Max(A, X) }}", {"LeakyRelu": 1}, {"k": np.float32(0.1)}),
        Case(
            "Max with a slope above one",
            f"{_X} {{ A = Mul(X, k) Y = Max(A, X) }}",
            {"Mul": 1, "Max": 1},
            {"k": _3},
            refusal="no LeakyRelu",
        ),
        Case(
            "two different inputs",
            "g (float[N, 3] X, float[N, 3] Z) => (float[N, 3] Y) { A = Relu(X) B = Neg(Z) C = Relu(B) D = Mul(C, s) Y = Add(A, D) }",
            {"Relu": 2, "Neg": 1, "Mul": 1, "Add": 1},
            {"s": normal(3)},
        ),
    ],
    "keep_reduced_axes": [
        Case(
            "Reshape back",
            "g (float[N, 3, 5, 6] X) => (float[N, 3, 1, 1] Y) { A = ReduceMean<keepdims = 0>(X, a) Y = Reshape(A, r) }",
            {"ReduceMean": 1},
            {"a": np.asarray([2, 3]), "r": np.asarray([-1, 3, 1, 1])},
        ),
        Case(
            "Unsqueeze back",
            "g (float[N, 5, 6, 3] X) => (float[N, 1, 1, 3] Y) { A = ReduceMax<keepdims = 0>(X, a) Y = Unsqueeze(A, a) }",
            {"ReduceMax": 1},
            {"a": np.asarray([1, 2])},
        ),
        Case(
            "ones elsewhere",
            "g (float[N, 5, 6, 3] X) => (float[N, 3, 1, 1] Y) { A = ReduceMean<keepdims = 0>(X, a) Y = Reshape(A, r) }",
            {"ReduceMean": 1, "Reshape": 1},
            {"a": np.asarray([1, 2]), "r": np.asarray([-1, 3, 1, 1])},
        ),
    ],
    "fuse_gemm": [
        Case(
            "an early operator set, where C is required and given",
            "g (float[2, 4] X) => (float[2, 3] Y) { A = MatMul(X, W) Y = Add(A, b) }",
            {"Gemm": 1},
            {"W": normal(4, 3), "b": normal(3)},
            opset=8,
        ),
        Case(
            "dense",
            "g (float[N, 4] X) => (float[N, 3] Y) { A = MatMul(X, W) Y = Add(b, A) }",
            {"Gemm": 1},
            {"W": normal(4, 3), "b": normal(3)},
        ),
        Case(
            "Gemm without bias, Transpose of the weight input",
            "g (float[N, 4] X, float[3, 4] W) => (float[N, 3] Y) { V = Transpose<perm = [1, 0]>(W) A = Gemm(X, V) Y = Add(A, b) }",
            {"Gemm": 1},
            {"b": normal(3)},
        ),
        Case(
            "both transposed",
            "g (float[4, 5] X, float[3, 4] W) => (float[5, 3] Y) { U = Transpose(X) V = Transpose(W) Y = MatMul(U, V) }",
            {"Gemm": 1},
        ),
        Case(
            "a Transpose behind the product",
            "g (float[5, 4] X, float[4, 3] W) => (float[3, 5] Y) { A = MatMul(X, W) Y = Transpose<perm = [1, 0]>(A) }",
            {"Gemm": 1},
        ),
        Case(
            "three dimensions stay",
            "g (float[N, 2, 4] X) => (float[N, 2, 3] Y) { A = MatMul(X, W) Y = Add(A, b) }",
            {"MatMul": 1, "Add": 1},
            {"W": normal(4, 3), "b": normal(3)},
        ),
        Case(
            "an Add that widens",
            "g (float[1, 4] X) => (float[5, 3] Y) { A = MatMul(X, W) Y = Add(A, b) }",
            {"MatMul": 1, "Add": 1},
            {"W": normal(4, 3), "b": normal(5, 3)},
            refusal="broadcast",
        ),
    ],
    "fuse_layer_norm": [
        Case(
            "with scale and shift",
            "g (float[N, 4, 6] X) => (float[N, 4, 6] Y) { M = ReduceMean(X, a) D = Sub(X, M) S = Mul(D, D) V = ReduceMean(S, a) "
            "E = Add(V, e) R = Sqrt(E) Q = Div(D, R) T = Mul(Q, g) Y = Add(b, T) }",
            {"LayerNormalization": 1},
            {"a": np.asarray([-1]), "e": np.float32(1e-5), "g": positive(6), "b": normal(6)},
        ),
        Case(
            "two axes, Pow, no scale",
            "g (float[N, 4, 6] X) => (float[N, 4, 6] Y) { M = ReduceMean(X, a) D = Sub(X, M) S = Pow(D, two) V = ReduceMean(S, a) "
            "E = Add(V, e) R = Sqrt(E) Y = Div(D, R) }",
            {"LayerNormalization": 1},
            {"a": np.asarray([1, 2]), "e": np.float32(1e-5), "two": _2},
        ),
        Case(
            "over the middle axis: no layer normalisation",
            "g (float[N, 4, 6] X) => (float[N, 4, 6] Y) { M = ReduceMean(X, a) D = Sub(X, M) S = Pow(D, two) V = ReduceMean(S, a) "
            "E = Add(V, e) R = Sqrt(E) Y = Div(D, R) }",
            {"ReduceMean": 2, "Sub": 1, "Pow": 1, "Add": 1, "Sqrt": 1, "Div": 1},
            {"a": np.asarray([1]), "e": np.float32(1e-5), "two": _2},
        ),
    ],
    "crop_transposed_convolutions": [
        Case(
            "crop at both ends",
            "g (float[N, 2, 5, 5] X) => (float[N, 3, h, w] Y) { A = ConvTranspose<strides = [2, 2]>(X, W) Y = Slice(A, b, e, a) }",
            {"ConvTranspose": 1},
            {
                "W": normal(2, 3, 3, 3),
                "b": np.asarray([1, 0]),
                "e": np.asarray([-1, 10]),
                "a": np.asarray([2, 3]),
            },
        ),
        Case(
            "steps",
            "g (float[N, 2, 5, 5] X) => (float[N, 3, h, w] Y) { A = ConvTranspose(X, W) Y = Slice(A, b, e, a, t) }",
            {"ConvTranspose": 1, "Slice": 1},
            {
                "W": normal(2, 3, 3, 3),
                "b": np.asarray([0]),
                "e": np.asarray([6]),
                "a": np.asarray([2]),
                "t": np.asarray([2]),
            },
            refusal="steps",
        ),
        Case(
            "channels",
            "g (float[N, 2, 5, 5] X) => (float[N, 1, h, w] Y) { A = ConvTranspose(X, W) Y = Slice(A, b, e, a) }",
            {"ConvTranspose": 1, "Slice": 1},
            {"W": normal(2, 3, 3, 3), "b": np.asarray([0]), "e": np.asarray([1]), "a": np.asarray([1])},
            refusal="channels",
        ),
    ],
    "fuse_softmax": [
        Case(
            "with the maximum",
            f"{_X} {{ M = ReduceMax(X, a) S = Sub(X, M) E = Exp(S) T = ReduceSum(E, a) Y = Div(E, T) }}",
            {"Softmax": 1},
            {"a": np.asarray([1])},
        ),
        Case(
            "without it, and its logarithm",
            f"{_X} {{ E = Exp(X) T = ReduceSum<keepdims = 1>(E, a) D = Div(E, T) Y = Log(D) }}",
            {"LogSoftmax": 1},
            {"a": np.asarray([-1])},
        ),
        Case(
            "two axes",
            f"{_X} {{ E = Exp(X) T = ReduceSum(E, a) Y = Div(E, T) }}",
            {"Exp": 1, "ReduceSum": 1, "Div": 1},
            {"a": np.asarray([2, 3])},
            refusal="one axis",
        ),
        Case(
            "the sum of something else",
            f"{_X} {{ E = Exp(X) F = Abs(X) T = ReduceSum(F, a) Y = Div(E, T) }}",
            {"Exp": 1, "Abs": 1, "ReduceSum": 1, "Div": 1},
            {"a": np.asarray([1])},
        ),
        Case(
            "an earlier operator set, where Softmax flattens",
            f"{_X} {{ E = Exp(X) T = ReduceSum<axes = [1]>(E) Y = Div(E, T) }}",
            {"Exp": 1, "ReduceSum": 1, "Div": 1},
            opset=11,
        ),
    ],
    "fuse_gelu": [
        *[
            Case(
                title,
                f"{_X} {{ A = Div(X, r) B = Erf(A) C = Add(B, o) {rest} }}",
                {"Gelu": 1},
                _GELU,
                opset=20,
            )
            for title, rest in {
                "x · s / 2": "D = Mul(X, C) Y = Mul(D, h)",
                "s / 2 · x": "D = Mul(C, h) Y = Mul(D, X)",
                "x / 2 · s": "D = Div(X, t) Y = Mul(D, C)",
            }.items()
        ],
        Case(
            "an earlier operator set",
            f"{_X} {{ A = Div(X, r) B = Erf(A) C = Add(B, o) D = Mul(X, C) Y = Mul(D, h) }}",
            {"Div": 1, "Erf": 1, "Add": 1, "Mul": 2},
            _GELU,
            refusal="from opset 20",
        ),
        Case(
            "another scale",
            f"{_X} {{ A = Div(X, t) B = Erf(A) C = Add(B, o) D = Mul(X, C) Y = Mul(D, h) }}",
            {"Div": 1, "Erf": 1, "Add": 1, "Mul": 2},
            _GELU,
            opset=20,
        ),
        Case("swish", f"{_X} {{ A = Sigmoid(X) Y = Mul(X, A) }}", {"Sigmoid": 1, "Mul": 1}, opset=20),
    ],
    "fuse_quotients": [
        Case(
            "one over a length",
            f"{_X} {{ A = Mul(X, X) B = ReduceSum(A, a) C = Clip(B, h) D = Sqrt(C) E = Div(o, D) Y = Mul(X, E) }}",
            {"Mul": 1, "ReduceSum": 1, "Clip": 1, "Sqrt": 1, "Div": 1},
            {"a": np.asarray([1]), **_GELU},
        ),
        Case("reciprocal", f"{_X} {{ A = Exp(X) E = Reciprocal(A) Y = Mul(E, X) }}", {"Exp": 1, "Div": 1}),
        Case(
            "two over something",
            f"{_X} {{ A = Exp(X) E = Div(t, A) Y = Mul(E, X) }}",
            {"Exp": 1, "Div": 1, "Mul": 1},
            _GELU,
        ),
        Case(
            "the reciprocal is read twice",
            f"{_X} {{ A = Exp(X) E = Reciprocal(A) B = Mul(E, X) Y = Add(B, E) }}",
            {"Exp": 1, "Reciprocal": 1, "Mul": 1, "Add": 1},
        ),
    ],
    "split_gemm": [
        Case(
            "bias and a turned weight",
            "g (float[N, 4] X) => (float[N, 3] Y) { Y = Gemm<transB = 1>(X, W, b) }",
            {"MatMul": 1, "Add": 1},
            {"W": normal(3, 4), "b": normal(3)},
        ),
        Case(
            "no bias",
            "g (float[N, 4] X) => (float[N, 3] Y) { Y = Gemm(X, W) }",
            {"MatMul": 1},
            {"W": normal(4, 3)},
        ),
        Case(
            "alpha",
            "g (float[N, 4] X) => (float[N, 3] Y) { Y = Gemm<alpha = 0.5>(X, W, b) }",
            {"Gemm": 1},
            {"W": normal(4, 3), "b": normal(3)},
            refusal="alpha",
        ),
        Case(
            "a computed operand is turned",
            "g (float[4, N] X) => (float[N, 3] Y) { Y = Gemm<transA = 1>(X, W) }",
            {"Gemm": 1},
            {"W": normal(4, 3)},
            refusal="not constant",
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "case"), [pytest.param(n, c, id=f"{n}: {c.title}") for n, cases in CASES.items() for c in cases]
)
def test_table(name: str, case: Case) -> None:
    check(PASSES[name](), case)
