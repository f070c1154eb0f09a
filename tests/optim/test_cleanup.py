# ruff: noqa: E501 - graphs in tables are easier to read in one line
"""Constants, identities, duplicates and dead ends."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from optim.catalog import PASSES
from optim.errors import UserError
from optim.facts import dims, ints_of
from optim.passes.freeze_shapes import FreezeShapes
from optim.passes.lift_constants import LiftConstants
from optim.recipes import recipe_of
from optim.schedule import optimize
from tests.optim.table import Case, Unoptimised, assert_sound, check, graph, normal

_X = "g (float[N, 3] X) => (float[N, 3] Y)"
_Q = "g (float[N, 2, 3, 4] X) => (float[a, b, c, d] Y)"

CASES = {
    "eliminate_noops": [
        Case(
            "a Reshape and a Transpose that move nothing",
            "g (float[N, 3, 1, 1] X) => (float[N, 3, 1, 1] Y) { A = Reshape(X, s) B = Transpose<perm = [0, 3, 1, 2]>(A) Y = Sigmoid(B) }",
            {"Sigmoid": 1},
            {"s": np.asarray([-1, 1, 1, 3])},
        ),
        Case(
            "a Reshape and a Transpose that move something",
            "g (float[N, 3, 2, 1] X) => (float[N, 3, 2, 1] Y) { A = Reshape(X, s) B = Transpose<perm = [0, 3, 1, 2]>(A) Y = Sigmoid(B) }",
            {"Reshape": 1, "Transpose": 1, "Sigmoid": 1},
            {"s": np.asarray([-1, 2, 1, 3])},
        ),
        Case("identity and dropout", f"{_X} {{ A = Identity(X) B = Dropout(A) Y = Relu(B) }}", {"Relu": 1}),
        Case(
            "a graph output keeps its own node",
            f"{_X} {{ Y = Identity(X) }}",
            {"Identity": 1},
            refusal="graph output",
        ),
        Case(
            "the output's name moves to the node before",
            f"{_X} {{ A = Relu(X) Y = Identity(A) }}",
            {"Relu": 1},
        ),
        Case(
            "live dropout",
            "g (float[N, 3] X, bool t) => (float[N, 3] Y) { A = Dropout(X, , t) Y = Relu(A) }",
            {"Dropout": 1, "Relu": 1},
            refusal="live",
            numbers=False,
        ),
        Case(
            "neutral numbers",
            f"{_X} {{ A = Add(X, z) B = Mul(o, A) C = Div(B, o) D = Sub(C, z) Y = Relu(D) }}",
            {"Relu": 1},
            {"z": np.zeros(3, np.float32), "o": np.ones((1, 1), np.float32)},
        ),
        Case(
            "adding zero may widen",
            "g (float[1, 3] X) => (float[5, 3] Y) { A = Add(X, z) Y = Relu(A) }",
            {"Add": 1, "Relu": 1},
            {"z": np.zeros((5, 1), np.float32)},
        ),
        Case(
            "casts",
            f"{_X} {{ A = Cast<to = 1>(X) B = Cast<to = 11>(A) C = Cast<to = 1>(B) Y = Relu(C) }}",
            {"Relu": 1},
        ),
        Case(
            "reshapes that merge",
            f"{_Q} {{ A = Flatten(X) B = Unsqueeze(A, u) C = Reshape(B, r) Y = Relu(C) }}",
            {"Reshape": 1, "Relu": 1},
            {"u": np.asarray([1]), "r": np.asarray([-1, 4, 3, 2])},
        ),
        Case(
            "reshape to the same shape",
            f"{_Q} {{ A = Reshape(X, r) Y = Relu(A) }}",
            {"Relu": 1},
            {"r": np.asarray([0, 2, -1, 4])},
        ),
        Case(
            "transposes that merge",
            f"{_Q} {{ A = Transpose<perm = [0, 2, 3, 1]>(X) B = Transpose<perm = [0, 3, 2, 1]>(A) Y = Relu(B) }}",
            {"Transpose": 1, "Relu": 1},
        ),
        Case(
            "transposes that cancel",
            f"{_Q} {{ A = Transpose<perm = [0, 2, 3, 1]>(X) B = Transpose<perm = [0, 3, 1, 2]>(A) Y = Relu(B) }}",
            {"Relu": 1},
        ),
        Case(
            "squeeze of unsqueeze",
            f"{_X} {{ A = Unsqueeze(X, u) B = Squeeze(A, v) Y = Relu(B) }}",
            {"Relu": 1},
            {"u": np.asarray([1]), "v": np.asarray([-2])},
        ),
        Case(
            "slice of all, pad by nothing, concat of one, tile by one",
            f"{_X} {{ A = Slice(X, z, e) B = Pad(A, p) C = Concat<axis = 0>(B) D = Tile(C, o) Y = Relu(D) }}",
            {"Relu": 1},
            {
                "z": np.asarray([0, 0]),
                "e": np.asarray([2**40, 2**40]),
                "p": np.asarray([0, 0, 0, 0]),
                "o": np.asarray([1, 1]),
            },
        ),
        Case(
            "relu of relu, of sigmoid, of a clip above zero",
            f"{_X} {{ A = Relu(X) B = Relu(A) C = Sigmoid(B) D = Relu(C) E = Clip(D, l) Y = Relu(E) }}",
            {"Relu": 1, "Sigmoid": 1, "Clip": 1},
            {"l": np.float32(0.25)},
        ),
        Case(
            "an Expand that broadcasting does anyway",
            "g (float[1, 3] X, float[4, 3] Z) => (float[4, 3] Y) { A = Expand(X, s) Y = Mul(A, Z) }",
            {"Mul": 1},
            {"s": np.asarray([4, 3])},
        ),
        Case(
            "an Expand that broadcasting does not do",
            "g (float[1, 3] X, float[1, 3] Z) => (float[4, 3] Y) { A = Expand(X, s) Y = Mul(A, Z) }",
            {"Expand": 1, "Mul": 1},
            {"s": np.asarray([4, 3])},
        ),
        Case(
            "slices along different axes merge",
            "g (float[N, 6, 7] X) => (float[N, p, q] Y) { A = Slice(X, b, e, a) B = Slice(A, b, e, c, s) Y = Relu(B) }",
            {"Slice": 1, "Relu": 1},
            {
                "b": np.asarray([1]),
                "e": np.asarray([6]),
                "a": np.asarray([1]),
                "c": np.asarray([-1]),
                "s": np.asarray([2]),
            },
        ),
        Case(
            "a cast that loses nothing, and one that does",
            f"{_X} {{ A = Cast<to = 11>(X) B = Cast<to = 1>(A) C = Cast<to = 10>(B) D = Cast<to = 1>(C) Y = Relu(D) }}",
            {"Cast": 2, "Relu": 1},
        ),
    ],
    "fold_constants": [
        Case(
            "a subgraph of constants",
            f"{_X} {{ A = Sqrt(c) B = Add(A, c) C = Exp(B) Y = Mul(X, C) }}",
            {"Mul": 1},
            {"c": np.abs(normal(3))},
        ),
        Case(
            "integer division truncates",
            "g (int64[N, 3] X) => (int64[N, 3] Y) { A = Div(c, d) Y = Mul(X, A) }",
            {"Mul": 1},
            {"c": np.asarray([-7, 7, 5]), "d": np.asarray([2, -2, 3])},
        ),
        Case(
            "the shape of a known input",
            "g (float[2, 3, 4] X) => (float[2, 12] Y) { S = Shape(X) A = Gather(S, i) B = Concat<axis = 0>(A, m) Y = Reshape(X, B) }",
            {"Reshape": 1},
            {"i": np.asarray([0]), "m": np.asarray([-1])},
        ),
        Case(
            "a target with one unknown",
            "g (float[N, 3, 4] X) => (float[N, 12] Y) { S = Shape(X) A = Slice(S, z, o) B = Concat<axis = 0>(A, m) Y = Reshape(X, B) }",
            {"Shape": 1, "Slice": 1, "Concat": 1, "Reshape": 1},
            {"z": np.asarray([0]), "o": np.asarray([1]), "m": np.asarray([12])},
        ),
        Case(
            "a target that copies dimensions with names",
            "g (float[N, 6, H, V] X) => (float[N, 2, H, V, W] Y) { S = Shape(X) A = Gather(S, i) B = Gather(S, j) C = Gather(S, k) D = Concat<axis = 0>(A, t, B, C, m) Y = Reshape(X, D) }",
            {"Shape": 1, "Gather": 3, "Concat": 1, "Reshape": 1},
            {
                "i": np.asarray([0]),
                "j": np.asarray([2]),
                "k": np.asarray([3]),
                "t": np.asarray([2]),
                "m": np.asarray([-1]),
            },
        ),
        Case(
            "random stays",
            "g () => (float[3] Y) { A = RandomNormal<shape = [3], seed = 1.0>() Y = Mul(A, z) }",
            {"RandomNormal": 1, "Mul": 1},
            {"z": np.zeros(3, np.float32)},
            numbers=False,
        ),
        Case(
            "what would swell the file stays",
            "g (float[300, 300] X) => (float[300, 300] Y) { A = Expand(c, s) Y = Add(X, A) }",
            {"Expand": 1, "Add": 1},
            {"c": np.ones((1, 300), np.float32), "s": np.asarray([300, 300])},
            refusal="its inputs",
        ),
        Case(
            "a graph output keeps its node",
            "g (float[3] X) => (float[3] Y, float[3] Z) { Y = Relu(X) Z = Neg(c) }",
            {"Relu": 1, "Neg": 1},
            {"c": normal(3)},
            refusal="graph output",
        ),
    ],
    "eliminate_common_subexpressions": [
        Case(
            "two equal nodes",
            f"{_X} {{ A = Sigmoid(X) B = Sigmoid(X) Y = Mul(A, B) }}",
            {"Sigmoid": 1, "Mul": 1},
        ),
        Case(
            "other attributes",
            f"{_X} {{ A = LeakyRelu<alpha = 0.1>(X) B = LeakyRelu<alpha = 0.2>(X) Y = Mul(A, B) }}",
            {"LeakyRelu": 2, "Mul": 1},
        ),
        Case(
            "chains of equal nodes",
            f"{_X} {{ A = Exp(X) B = Exp(X) C = Tanh(A) D = Tanh(B) Y = Add(C, D) }}",
            {"Exp": 1, "Tanh": 1, "Add": 1},
        ),
        Case(
            "a graph output keeps its own",
            "g (float[3] X) => (float[3] Y, float[3] Z) { Y = Relu(X) Z = Relu(X) }",
            {"Relu": 2},
            refusal="graph output",
        ),
    ],
    "remove_dead_ends": [
        Case(
            "unused nodes and weights",
            f"{_X} {{ A = Mul(X, c) B = Relu(A) Y = Relu(X) }}",
            {"Relu": 1},
            {"c": normal(3)},
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "case"), [pytest.param(n, c, id=f"{n}: {c.title}") for n, cases in CASES.items() for c in cases]
)
def test_table(name: str, case: Case) -> None:
    check(PASSES[name](), case)


def test_a_reshape_target_with_one_unknown_becomes_constant() -> None:
    case = next(c for c in CASES["fold_constants"] if c.title == "a target with one unknown")
    model = case.model()
    optimize(model, recipe_of(["fold_constants", "remove_dead_ends"]), oracle=Unoptimised())
    assert [n.op_type for n in model.graph] == ["Reshape"]


def test_a_reshape_target_copies_dimensions_with_names() -> None:
    case = next(c for c in CASES["fold_constants"] if c.title.startswith("a target that copies"))
    model = case.model()
    PASSES["fold_constants"]().apply(model)
    reshape = next(n for n in model.graph if n.op_type == "Reshape")
    # [N, 6, H, V] → [N, 2, H, V, -1]: the axes of H and V stay where they are.
    assert ints_of(reshape.inputs[1]) == (0, 2, 0, 0, -1)


def test_every_form_of_constant_is_lifted() -> None:
    text = (
        "g (float[N, 2] X) => (float[N, 2] Y) { a = Constant<value = float[2] {1, 2}>() b = Constant<value_float = 2.0>() "
        "c = Constant<value_floats = [1.0, 3.0]>() d = Constant<value_ints = [-1, 2]>() e = Constant<value_int = 0>() "
        "A = Mul(X, a) B = Mul(A, b) C = Add(B, c) D = Reshape(C, d) F = Gather(D, e) Y = Add(D, F) }"
    )
    before, after = graph(text), graph(text)
    assert set(LiftConstants().apply(after).sites) == set("abcde")
    assert not any(n.op_type == "Constant" for n in after.graph)
    assert_sound(LiftConstants(), before, after)


def test_equal_initializers_become_one() -> None:
    weights = {"a": normal(3), "b": normal(3), "c": normal(3, seed=1)}
    text = f"{_X} {{ A = Mul(X, a) B = Add(A, b) Y = Sub(B, c) }}"
    before, after = graph(text, weights), graph(text, weights)
    rewrite = PASSES["deduplicate_initializers"]()
    assert rewrite.apply(after).sites == ("b",)
    assert set(after.graph.initializers) == {"a", "c"}
    assert_sound(rewrite, before, after)


def test_large_weights_are_folded_lazily() -> None:
    weight = normal(700, 600)
    model = graph(
        "g (float[N, 600] X) => (float[N, 700] Y) { V = Transpose<perm = [1, 0]>(W) Y = MatMul(X, V) }",
        {"W": weight},
    )
    PASSES["fold_constants"]().apply(model)
    tensor = model.graph.initializers["V"].const_value
    assert isinstance(tensor, ir.LazyTensor)
    assert np.array_equal(tensor.numpy(), weight.T)


def test_freeze_shapes() -> None:
    text = "g (float[N, 3, H, V] X) => (float[N, 3, H, V] Y) { A = Relu(X) Y = Neg(A) }"
    model = graph(text)
    outcome = FreezeShapes().apply(model)
    assert outcome.sites == ("X",)
    assert "is free and no shape is given" in outcome.refusals[0].reason
    assert dims(model.graph.inputs[0]) == (1, 3, "H", "V")
    model = graph(text)
    FreezeShapes({"X": (2, 3, 8, 9)}).apply(model)
    assert [dims(v) for n in model.graph for v in n.outputs] == [(2, 3, 8, 9)] * 2
    for wrong in ({"Z": (1,)}, {"X": (1, 4, 8, 8)}, {"X": (1, 3)}):
        with pytest.raises(UserError, match=r"optimize\.shapes"):
            FreezeShapes(wrong).apply(graph(text))


def test_frozen_shapes_are_certified_on_inputs_that_fit() -> None:
    model = graph("g (float[N, 3] X) => (float[N, 3] Y) { Y = Relu(X) }")
    (record,) = optimize(model, recipe_of(["freeze_shapes"]), oracle=Unoptimised()).records
    assert record.certificate is not None
    assert record.certificate.passed
    assert record.certificate.feeds == ("zeros/batch=1", "random(seed=0)/batch=1")


def test_simplify_runs_under_the_certificate() -> None:
    pytest.importorskip("onnxsim")
    model = graph(f"{_X} {{ A = Identity(X) B = Relu(A) Y = Identity(B) }}")
    (record,) = optimize(model, recipe_of(["simplify"]), oracle=Unoptimised()).records
    assert record.sites == ("onnxsim",)
    assert record.certificate is not None
    assert record.certificate.passed
    assert [n.op_type for n in model.graph] == ["Relu"]
