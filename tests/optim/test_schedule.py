# ruff: noqa: E501 - graphs in tables are easier to read in one line
"""A recipe is a row of transactions: what is wrong is rolled back where it is wrong, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest

from optim import catalog
from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.errors import InternalError, UnsupportedModelError, UserError
from optim.facts import dims, site_of
from optim.model import op_counts, signature
from optim.recipes import RECIPES, recipe_named, recipe_of
from optim.rewrite import Rewrite, kept
from optim.schedule import optimize
from optim.verify import Certifier, Probe, difference, probes_for
from targets.reference import OrtOracle
from tests.optim.table import Unoptimised, graph, normal, positive

# Eight branches, so that halving has something to halve.
_BRANCHES = 8
_TEXT = (
    "g (float[N, 3, 6, 6] X) => (float[N, c, h, w] Y) {"
    + " ".join(f"C{i} = Conv(X, W{i}) R{i} = Relu(C{i})" for i in range(_BRANCHES))
    + " Y = Concat<axis = 1>("
    + ", ".join(f"R{i}" for i in range(_BRANCHES))
    + ") }"
)
_WEIGHTS = {f"W{i}": normal(2, 3, 3, 3, seed=i) for i in range(_BRANCHES)}


@dataclass(frozen=True)
class ScaleWeights:
    """Deliberately wrong: replaces each Conv by one whose weights are scaled, at ``wrong`` by a factor that shows."""

    wrong: frozenset[str] = frozenset({"C5"})
    factor: float = 1.001
    numerics: Numerics = Numerics.REASSOCIATES

    @property
    def info(self) -> PassInfo:
        return PassInfo("scale_weights", self.numerics, "a mutant")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        for node in tuple(model.graph):
            weight = node.inputs[1].const_value if node.op_type == "Conv" else None
            if weight is None or node.metadata_props.get("mutated") or not rw.allows(site_of(node)):
                continue
            factor = self.factor if site_of(node) in self.wrong else 1.0
            changed = rw.constant((weight.numpy() * factor).astype(np.float32), "weight")
            old = node.outputs[0]
            new = rw.node(
                "Conv", [node.inputs[0], changed], kept(node), before=node, sources=(node,), like=old
            )
            new.producer().metadata_props["mutated"] = "yes"
            rw.replace(old, new)
            rw.drop(node)
            rw.done(new.name)
        return rw.outcome()


@dataclass(frozen=True)
class BreakTheGraph:
    """Deliberately illegal: gives the graph's output another name."""

    info = PassInfo("break_the_graph", Numerics.EXACT, "a mutant")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        if not allowed("Y"):
            return PassOutcome()
        model.graph.outputs[0].name = "Z"
        return PassOutcome(sites=("Y",))


@pytest.fixture
def mutants(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, make in {
        "scale_one": ScaleWeights,
        "scale_three": lambda: ScaleWeights(wrong=frozenset({"C0", "C3", "C7"})),
        "scale_slightly": lambda: ScaleWeights(factor=1 + 1e-4),
        "scale_exactly": lambda: ScaleWeights(
            wrong=frozenset({"C2"}), factor=1 + 2e-7, numerics=Numerics.EXACT
        ),
        "break_the_graph": BreakTheGraph,
    }.items():
        monkeypatch.setitem(catalog.PASSES, name, make)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("scale_one", {"C5"}),
        ("scale_three", {"C0", "C3", "C7"}),
        ("scale_slightly", {"C5"}),
        ("scale_exactly", {"C2"}),
    ],
)
def test_a_wrong_site_is_rolled_back_and_the_rest_stays(mutants: None, name: str, wrong: set[str]) -> None:
    model = graph(_TEXT, _WEIGHTS)
    oracle, probes = Unoptimised(), probes_for(model)
    before = {p.name: oracle(model, p.feeds) for p in probes}
    ledger = optimize(model, recipe_of([name]), oracle=oracle, probes=probes)
    (record,) = ledger.records
    assert {r.site for r in record.rolled_back} == wrong
    assert set(record.sites) == {f"C{i}" for i in range(_BRANCHES)} - wrong
    assert all(r.measured > r.bound for r in record.rolled_back)
    assert all(r.feed in before for r in record.rolled_back)
    assert record.certificate is not None
    assert record.certificate.passed
    mutated = {n.outputs[0].name for n in model.graph if n.metadata_props.get("mutated")}
    assert mutated == set(record.sites)
    for probe in probes:
        assert difference(oracle(model, probe.feeds), before[probe.name]).max_abs_over_range < 2e-6


def test_an_illegal_graph_is_rolled_back(mutants: None) -> None:
    model = graph(_TEXT, _WEIGHTS)
    ledger = optimize(model, recipe_of(["break_the_graph", "eliminate_noops"]), oracle=Unoptimised())
    assert [r.feed.split(":")[0] for r in ledger.records[0].rolled_back] == ["illegal graph"]
    assert [v.name for v in model.graph.outputs] == ["Y"]


def test_an_illegal_graph_without_an_oracle_is_our_bug(mutants: None) -> None:
    with pytest.raises(InternalError, match="break_the_graph"):
        optimize(graph(_TEXT, _WEIGHTS), recipe_of(["break_the_graph"]), oracle=None)


def test_nothing_compared_is_no_proof() -> None:
    model = graph(
        "g (float[N, 3] X) => (float[N, 4] Y) { Y = MatMul(X, W) }", {"W": normal(5, 4)}, infer=False
    )
    with pytest.raises(UnsupportedModelError, match="none of the probe inputs"):
        optimize(model, recipe_named("cleanup"), oracle=Unoptimised())


def test_canonical_on_a_small_network() -> None:
    text = (
        "g (float[N, 8, 8, 3] X) => (float[N, 5] Y) { A = Transpose<perm = [0, 3, 1, 2]>(X) "
        'B = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(A, W) T = Transpose<perm = [0, 2, 3, 1]>(B) '
        "C = Mul(T, s) D = Add(C, t) E = Relu(D) F = Identity(E) k = Constant<value = int64[2] {-1, 64}>() "
        "G = Reshape(F, k) H = Dropout(G) I = MatMul(H, V) Y = Softmax(I) }"
    )
    weights = {"W": normal(4, 3, 3, 3), "s": positive(4), "t": normal(4), "V": normal(64, 5)}
    model = graph(text, weights, infer=False)
    shape = signature(model)
    ledger = optimize(model, recipe_named("canonical"), oracle=Unoptimised())
    assert op_counts(model) == {"Conv": 1, "MatMul": 1, "Relu": 1, "Reshape": 1, "Softmax": 1, "Transpose": 1}
    assert signature(model) == shape
    assert ledger.nodes_before == 12
    assert ledger.nodes_after == 6
    assert ledger.overall is not None
    assert ledger.overall.passed
    assert not any(r.rolled_back for r in ledger.records)
    assert all(r.certificate is None or r.certificate.passed for r in ledger.records)
    again = optimize(model, recipe_named("canonical"), oracle=None)
    assert [r.name for r in again.records if r.sites] == []


def test_an_activation_that_transposes_kept_apart_becomes_one_node() -> None:
    text = (
        "g (float[N, 3, 4, 4] X) => (float[N, 2, 4, 4] Y) {"
        " A = Add(X, h) B = Clip(A, z, s) C = Transpose<perm = [0, 2, 3, 1]>(B) D = Div(C, s)"
        " E = Transpose<perm = [0, 2, 3, 1]>(X) F = Mul(E, D)"
        " G = Transpose<perm = [0, 3, 1, 2]>(F) Y = Conv(G, W) }"
    )
    weights = {
        "h": np.float32(3), "z": np.float32(0), "s": np.float32(6), "W": normal(2, 3, 1, 1),
    }  # fmt: skip
    model = graph(text, weights)
    optimize(model, recipe_named("canonical"), oracle=Unoptimised())
    assert op_counts(model) == {"Conv": 1, "HardSwish": 1}


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UserError, match="canonical"):
        recipe_named("cannonical")
    with pytest.raises(UserError, match="fold_batchnorm") as caught:
        recipe_of(["fold_batchnrom"])
    assert caught.value.hint == "'fold_batchnorm'"


def test_a_line_of_the_users_list_may_carry_options() -> None:
    recipe = recipe_of(["fold_constants:growth_limit_bytes=8", "freeze_shapes:batch=4", "fold_pads"])
    assert [line.name for line in recipe.lines] == ["fold_constants", "freeze_shapes", "fold_pads"]
    model = graph("g (float[N, 3] X) => (float[N, 3] Y) { Y = Relu(X) }")
    recipe.lines[1].make().apply(model)
    assert dims(model.graph.inputs[0]) == (4, 3)
    with pytest.raises(UserError, match="no option 'bacth=4'") as caught:
        recipe_of(["freeze_shapes:bacth=4"])
    assert caught.value.hint == "'batch'"
    with pytest.raises(UserError, match="batch is 'four'"):
        recipe_of(["freeze_shapes:batch=four"])
    with pytest.raises(UserError, match="no option"):
        recipe_of(["fold_pads:x=1"])


def test_every_recipe_names_passes_that_exist_and_says_why() -> None:
    for recipe in RECIPES.values():
        for line in recipe.lines:
            assert line.make().info.name == line.name
            assert line.why


def test_probes_cover_batches_and_free_sizes() -> None:
    fixed = probes_for(graph("g (float[2, 3] X) => (float[2, 3] Y) { Y = Relu(X) }"))
    assert [p.name for p in fixed] == ["zeros/batch=1", "random(seed=0)/batch=1"]
    free = probes_for(graph("g (float[N, 3, H, V] X) => (float[N, 3, H, V] Y) { Y = Relu(X) }"))
    shapes = {p.feeds["X"].shape for p in free}
    assert {s[0] for s in shapes} == {1, 2, 7}
    assert {s[2] % 2 for s in shapes} == {0, 1}
    assert all(
        np.array_equal(a.feeds["X"], b.feeds["X"])
        for a, b in zip(
            free,
            probes_for(graph("g (float[N, 3, H, V] X) => (float[N, 3, H, V] Y) { Y = Relu(X) }")),
            strict=True,
        )
    )


def test_supplied_arrays_must_name_the_inputs() -> None:
    model = graph("g (float[N, 3] X) => (float[N, 3] Y) { Y = Relu(X) }")
    probes = probes_for(model, {"X": np.ones((40, 3), np.float32)})
    assert probes[0] == Probe("supplied", probes[0].feeds)
    assert probes[0].feeds["X"].shape == (16, 3)
    with pytest.raises(UserError, match="supplied arrays"):
        probes_for(model, {"Z": np.ones((1, 3), np.float32)})


@pytest.mark.parametrize(
    ("got", "reference", "equal", "size"),
    [
        ([1.0, 2.0], [1.0, 2.0], True, 0.0),
        ([np.nan, 2.0], [np.nan, 2.0], True, 0.0),
        ([np.inf, 2.0], [np.inf, 2.0], True, 0.0),
        ([-0.0], [0.0], True, 0.0),
        ([1.0, 2.0], [1.0, np.nan], False, np.inf),
        ([1.0, np.inf], [1.0, 2.0], False, np.inf),
        ([1.0, 4.0], [1.0, 5.0], False, 0.2),
        ([0.0, 1.5], [-1.0, 1.0], False, 0.5),
    ],
)
def test_difference(got: list[float], reference: list[float], equal: bool, size: float) -> None:
    found = difference({"y": np.asarray(got)}, {"y": np.asarray(reference)})
    assert found.equal == equal
    assert found.max_abs_over_range == pytest.approx(size)


def test_the_networks_own_rounding_is_measured_though_sizes_are_floats() -> None:
    """A sum that cancels amplifies rounding; scales of Resize must not be moved to see by how much."""
    text = (
        "g (float[1, 1, 4, 4] X) => (float[1, 1, 8, 8] Y)"
        ' { A = Add(X, u) B = Sub(A, v) Y = Resize<mode = "linear">(B, , s) }'
    )
    big, scales = np.float32(64), np.asarray([1, 1, 2, 2], np.float32)
    before = graph(text, {"u": big, "v": big, "s": scales})
    after = graph(text, {"u": np.nextafter(big, np.float32(65)), "v": big, "s": scales})
    certifier = Certifier(Unoptimised(), before, probes_for(before)[1:])
    info = PassInfo("moves_one_step", Numerics.REASSOCIATES, "")
    certificate, breach = certifier.check(after, info, before)
    assert breach is None
    assert 16 * np.finfo(np.float32).eps < certificate.max_abs_over_range < certificate.bound


_SUMS = (
    "g (float[1, 112, 112, 4] X) => (float[1, 4] Y) { Y = ReduceMean<keepdims = 0>(X, a) }",
    "g (float[1, 112, 112, 4] X) => (float[1, 4] Y)"
    " { T = Transpose<perm = [0, 3, 1, 2]>(X) S = ReduceMean<keepdims = 0>(T, b) Y = Mul(S, f) }",
)


@pytest.mark.parametrize(
    ("before", "factor", "truth", "sound"),
    [
        pytest.param(0, 1.0, True, True, id="the rewritten graph is nearer the truth"),
        pytest.param(0, 1.0, False, False, id="nobody knows the truth"),
        pytest.param(0, 1.0 + 2e-5, True, False, id="the rewritten graph is wrong"),
        pytest.param(1, 1.0, True, False, id="the rewritten graph is farther from the truth"),
    ],
)
def test_rounding_that_differs_is_judged_against_float64(
    before: int, factor: float, truth: bool, sound: bool
) -> None:
    """ONNX Runtime sums 12,544 numbers one by one where channels lie behind them, and in parts where not."""
    weights = {"a": np.asarray([1, 2]), "b": np.asarray([2, 3]), "f": np.float32(factor)}
    graphs = [graph(text, weights) for text in _SUMS]
    oracle = OrtOracle() if truth else Unoptimised()
    rng = np.random.default_rng(0)
    image = Probe("image", {"X": rng.random((1, 112, 112, 4), dtype=np.float32)})
    certifier = Certifier(oracle, graphs[before], [image])
    info = PassInfo("adds_up_in_another_order", Numerics.REASSOCIATES, "")
    certificate, breach = certifier.check(graphs[1 - before], info, graphs[before])
    assert (breach is None) == sound == certificate.passed
    assert certificate.max_abs_over_range > 16 * np.finfo(np.float32).eps
    if sound:
        assert certificate.max_abs_over_range <= certificate.bound < 6e-5


def test_probabilities_are_judged_by_their_logits() -> None:
    """Logits of 60 and 59.9 that move by 1e-5 of their range: the probabilities move more, in absolute numbers."""
    logits = np.asarray([[60.0, 59.9, 0.0]], np.float32)
    moved = logits + np.asarray([[6e-4, -6e-4, 0.0]], np.float32)
    before, after = ({"Y": _softmax(x)} for x in (logits, moved))
    assert difference(after, before).max_abs_over_range > 1e-4
    with_both = ({"Y": _softmax(x), "Y/logits": x} for x in (moved, logits))
    assert difference(*with_both).max_abs_over_range < 2e-5
    # Logits in another layout: logarithms stand in. Vanished probabilities: they are taken as they are.
    turned = {"Y": _softmax(moved), "Y/logits": moved.T}
    assert difference(turned, {"Y": _softmax(logits), "Y/logits": logits}).max_abs_over_range < 2e-5
    gone, shifted = np.asarray([[1.0, 0.0]], np.float32), np.asarray([[1.0 - 1e-3, 1e-3]], np.float32)
    found = difference({"Y": shifted}, {"Y": gone, "Y/logits": logits})
    assert found.max_abs_over_range == pytest.approx(1e-3, rel=1e-3)


def _softmax(x: np.ndarray) -> np.ndarray:
    power = np.exp(x.astype(np.float64) - x.max())
    return (power / power.sum()).astype(np.float32)


def test_a_wrong_logit_is_seen_behind_a_saturated_softmax() -> None:
    text = "g (float[N, 3] X) => (float[N, 3] Y) { A = Mul(X, s) B = Add(A, b) Y = Softmax(B) }"
    scale, bias = np.float32(1e-3), np.asarray([200, 0, 0], np.float32)
    before = graph(text, {"s": scale, "b": bias})
    after = graph(text, {"s": scale, "b": bias + np.asarray([0, 1, 0], np.float32)})
    certifier = Certifier(Unoptimised(), before, probes_for(before))
    assert np.array_equal(
        *(Unoptimised()(m, probes_for(before)[0].feeds)["Y"].argmax(1) for m in (before, after))
    )
    _, breach = certifier.check(after, PassInfo("adds_one", Numerics.REASSOCIATES, ""), before)
    assert breach is not None
    assert breach.measured == pytest.approx(1 / 200, rel=0.1)


def test_difference_of_shapes_types_and_nothing() -> None:
    one = {"y": np.ones(2, np.float32)}
    assert difference({"y": np.ones(3, np.float32)}, one).max_abs_over_range == np.inf
    assert difference({"y": np.ones(2, np.float64)}, one).max_abs_over_range == np.inf
    assert difference({}, {}).max_abs_over_range == np.inf
