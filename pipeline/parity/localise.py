"""Find the first tensor at which two graphs part beyond rounding noise.

Both graphs run in float64 side by side. Wherever a tensor of the second has the first one's name and value,
the first one's value is put in its place, so that each stretch between two matched tensors is judged by
itself: rounding left by a rewrite does not pile up, and a fault is not hidden behind later ones. The first
difference is the one from which an unbroken chain of differing tensors leads to an output that differs.

What only happens in a runtime's arithmetic (overflow, TF32, cancellation) leaves no trace in float64; for
that ``localise_runtime`` compares a runtime's own intermediate values with the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Feeds
from optim.facts import label, sources_of
from optim.heads import saturating_heads
from pipeline.parity.cause import Cause, Evidence, classify, same_numbers, weights_of
from pipeline.parity.metrics import max_abs_over_range
from pipeline.parity.restore_order import own_nodes, with_order_restored
from pipeline.records import DivergenceRecord
from targets.float64.call import to_host
from targets.float64.evaluate import GraphEvaluator

OUTPUT_NOISE = 2e-5  # of the range: the default gate
LOCAL_NOISE = (1e-5, 1e-6, 1e-7, 1e-9)  # tried in turn: the coarsest that shows an origin names it


@dataclass(frozen=True)
class Divergence:
    """Where two models part, and the evidence.

    ``inputs``: tensors that both graphs agree on and that the stretch reads; ``error``: max|Δ| / range there,
    infinite where the shapes differ or one side is not finite.
    """

    node: str
    op: str
    tensor: str
    cause: Cause
    detail: str
    error: float
    feed: str
    level: Literal["graph", "runtime"]
    inputs: tuple[str, ...]
    nodes_a: tuple[str, ...]
    nodes_b: tuple[str, ...]

    def record(self) -> DivergenceRecord:
        """For ``--json`` and the report."""
        return DivergenceRecord(
            node=self.node, tensor=self.tensor, cause=self.cause.value, detail=self.detail, feed=self.feed
        )


def localise(a: ir.Model, b: ir.Model, feeds: Mapping[str, Feeds]) -> Divergence | None:
    """The first difference of graph ``b`` from graph ``a``; None where the outputs agree on all feeds.

    Tensors that a pass has reordered are compared in their original order (see ``restore_order``).

    Raises:
        UnsupportedModelError: a node cannot be evaluated in float64.
    """
    first, second = GraphEvaluator(a), GraphEvaluator(with_order_restored(b))
    for name, feed in feeds.items():
        with np.errstate(all="ignore"):
            if outputs_agree(first, second, feed):
                continue
            for noise in LOCAL_NOISE:
                comparison = _Comparison.run(first, second, feed, noise)
                origin = comparison.origin()
                if origin is not None:
                    return _explain(origin, comparison, first, second, feed, name)
    return None


def outputs_agree(first: GraphEvaluator, second: GraphEvaluator, feed: Feeds) -> bool:
    """Whether all outputs, and the logits before saturating ones, agree within the gate."""
    wanted_a, wanted_b = _watched(first.model), _watched(second.model)
    shared = {key: name for key, name in wanted_b.items() if key in wanted_a}
    x = first.run(feed, tuple(wanted_a.values()))
    y = second.run(feed, tuple(wanted_b.values()))
    return all(
        difference(to_host(x[wanted_a[key]]), to_host(y[name])) <= OUTPUT_NOISE
        for key, name in shared.items()
    )


def _watched(model: ir.Model) -> dict[str, str]:
    names = {v.name: v.name for v in model.graph.outputs if v.name}
    heads = {f"{head.output} before {head.op}": head.logits for head in saturating_heads(model).values()}
    return names | heads


def difference(reference: Array, got: Array) -> float:
    """max|Δ| / range; infinite where the shapes, the kinds of dtype or the non-finite places differ."""
    if reference.shape != got.shape or (reference.dtype.kind == "f") != (got.dtype.kind == "f"):
        return float("inf")
    if reference.size == 0:
        return 0.0
    if reference.dtype.kind != "f":
        return 0.0 if np.array_equal(reference, got) else float("inf")
    finite = np.isfinite(reference)
    if not np.array_equal(reference[~finite], got[~finite], equal_nan=True):
        return float("inf")
    if not finite.all():
        reference, got = reference[finite], got[finite]
    return max_abs_over_range(reference, got) if reference.size else 0.0


class _Reference:
    """Values of the first graph, taken from its running trace when the second one needs them."""

    def __init__(self, trace: Iterator[tuple[ir.Node, str, Array]], wanted: set[str]) -> None:
        self._trace = trace
        self._wanted = wanted
        self._waiting: dict[str, Array] = {}

    def take(self, name: str) -> Array:
        """The value of ``name``, once; runs the first graph only as far as is necessary."""
        while name not in self._waiting:
            _node, produced, value = next(self._trace)
            if produced in self._wanted:
                self._waiting[produced] = value
        self._wanted.discard(name)
        return self._waiting.pop(name)


@dataclass(frozen=True)
class _Comparison:
    """Errors of all tensors that both graphs name, each with its stretch's inputs set right."""

    model_a: ir.Model
    model_b: ir.Model
    errors: Mapping[str, float]
    noise: float
    turned: frozenset[str]  # tensors whose numbers only stand in another order

    @staticmethod
    def run(first: GraphEvaluator, second: GraphEvaluator, feed: Feeds, noise: float) -> _Comparison:
        names_a = {v.name for node in first.model.graph for v in node.outputs if v.name}
        names_b = {v.name for node in second.model.graph for v in node.outputs if v.name}
        ends = set(_watched(second.model).values())
        turned: set[str] = set()
        reference = _Reference(first.trace(feed), names_a & names_b)
        errors: dict[str, float] = {}

        def replace(_node: ir.Node, name: str, value: Array) -> Array:
            if name not in names_a:
                return value
            expected = reference.take(name)
            x, y = to_host(expected), to_host(value)
            error = difference(x, y)
            if error > noise and name not in ends and same_numbers(x, y):
                turned.add(name)  # a pass may have moved a change of layout behind it: what reads it tells
                return value
            errors[name] = error
            return expected if error <= noise else value

        for _ in second.trace(feed, replace):
            pass
        return _Comparison(first.model, second.model, errors, noise, frozenset(turned))

    def agrees(self, name: str | None) -> bool:
        """Whether both graphs compute a tensor of this name, and alike."""
        return name is not None and self.errors.get(name, float("inf")) <= self.noise

    def parts(self, name: str | None) -> bool:
        """Whether both compute a tensor of this name, and differently."""
        return name is not None and self.errors.get(name, 0.0) > self.noise

    def origin(self) -> ir.Value | None:
        """The earliest differing tensor of the second graph behind a differing output."""
        order = {id(node): i for i, node in enumerate(self.model_b.graph)}
        found: dict[int, ir.Value] = {}
        watched = set(_watched(self.model_b).values())  # logits too: a saturated output may hide them
        ends = [v for node in self.model_b.graph for v in node.outputs if v.name in watched]
        waiting = [v for v in ends if not self.agrees(v.name)]
        seen: set[int] = set()
        while waiting:
            value = waiting.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            behind = self.frontier(value)
            if self.parts(value.name) and not any(self.parts(v.name) for v in behind):
                found[order[id(value.producer())]] = value
            waiting += [v for v in behind if self.parts(v.name)]
        return found[min(found)] if found else None

    def frontier(self, value: ir.Value) -> list[ir.Value]:
        """The nearest tensors behind ``value`` that both graphs name."""
        return stretch(value, lambda v: v.name in self.errors)[1]


def stretch(value: ir.Value, stop: object) -> tuple[list[ir.Node], list[ir.Value]]:
    """Nodes behind ``value`` up to tensors where ``stop`` says so, in graph order, and those tensors."""
    assert callable(stop)
    nodes: dict[int, ir.Node] = {}
    ends: dict[int, ir.Value] = {}
    producer = value.producer()
    waiting = [producer] if producer is not None else []
    while waiting:
        node = waiting.pop()
        if id(node) in nodes:
            continue
        nodes[id(node)] = node
        for source in node.inputs:
            behind = None if source is None else source.producer()
            if source is None or source.const_value is not None:
                continue
            if behind is None or stop(source):
                ends[id(source)] = source
            else:
                waiting.append(behind)
    graph = producer.graph if producer is not None else None
    order = {id(n): i for i, n in enumerate(graph)} if graph is not None else {}
    return sorted(nodes.values(), key=lambda n: order.get(id(n), 0)), list(ends.values())


def _explain(
    origin: ir.Value,
    comparison: _Comparison,
    first: GraphEvaluator,
    second: GraphEvaluator,
    feed: Feeds,
    feed_name: str,
) -> Divergence:
    """Cut out both stretches that lead to ``origin``, and ask for the cause."""
    name = origin.name or ""
    twin = _named(comparison.model_a, name)
    nodes_a, ends_a = stretch(twin, lambda v: comparison.agrees(v.name))
    nodes_b, ends_b = stretch(origin, lambda v: comparison.agrees(v.name))
    turned = [v for n in nodes_b for v in n.outputs if v.name in comparison.turned]
    if turned and not _reordered_weights(
        nodes_a, nodes_b
    ):  # nothing undoes the other order: that is the fault
        origin, name = turned[0], turned[0].name or ""
        nodes_a, ends_a = stretch(_named(comparison.model_a, name), lambda v: comparison.agrees(v.name))
        nodes_b, ends_b = stretch(origin, lambda v: comparison.agrees(v.name))
        turned = []
    inputs = tuple(dict.fromkeys(v.name for v in (*ends_a, *ends_b) if v.name))
    values = {k: to_host(v) for k, v in first.run(feed, (*inputs, name)).items()}
    expected = values.pop(name)
    got = to_host(replay(second, nodes_b, values, name))
    own = own_nodes(nodes_b)
    reordered = bool(turned) or len(own) < len(nodes_b)
    verdict = classify(Evidence(nodes_a, own, values, expected, got, first, turned=reordered))
    node = _to_blame(nodes_a, own, origin, verdict.node)
    return Divergence(
        node=label(node),
        op=node.op_type,
        tensor=name,
        cause=verdict.cause,
        detail=verdict.detail,
        error=comparison.errors.get(name, difference(expected, got)),
        feed=feed_name,
        level="graph",
        inputs=inputs,
        nodes_a=tuple(label(n) for n in nodes_a),
        nodes_b=tuple(label(n) for n in own),
    )


def _named(model: ir.Model, name: str) -> ir.Value:
    return next(v for node in model.graph for v in node.outputs if v.name == name)


def _reordered_weights(nodes_a: Sequence[ir.Node], nodes_b: Sequence[ir.Node]) -> bool:
    """Whether the second stretch reads a weight that the first one does not hold so."""
    ours, theirs = weights_of(nodes_a), weights_of(nodes_b)
    return any(not any(np.array_equal(x, y) for x in ours) for y in theirs)


def _to_blame(
    nodes_a: Sequence[ir.Node], nodes_b: Sequence[ir.Node], origin: ir.Value, explains: ir.Node | None
) -> ir.Node:
    """The node of the second graph that is at fault.

    ``explains``: the node of the first one that, changed in one way, gives the second's values by itself:
    then whatever carries it over there, else itself. Without it the node that computes the tensor.
    """
    if explains is not None:
        names = {v.name for v in explains.outputs}
        return next((n for n in nodes_b if names & {*sources_of(n), *(v.name for v in n.outputs)}), explains)
    producer = origin.producer()
    if producer is not None and own_nodes([producer]):
        return producer
    return (nodes_b or nodes_a)[-1]


def replay(
    evaluator: GraphEvaluator, nodes: Sequence[ir.Node], values: Mapping[str, Array], name: str
) -> Array:
    """Run a stretch of nodes on given values and return one of its tensors."""
    result: Array = evaluator.run_nodes(nodes, values)[name]
    return result
