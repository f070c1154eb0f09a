"""Find the first tensor at which a runtime's arithmetic leaves the float64 truth of its own graph.

Overflow in float16, TF32 and cancellation are faults of the arithmetic, not of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Feeds
from optim.facts import label
from pipeline.config import GateConfig
from pipeline.parity.cause_runtime import classify_runtime
from pipeline.parity.localise import OUTPUT_NOISE, Divergence, difference
from pipeline.parity.runtime_values import runtime_values
from targets.closeness import SOURCE_ERROR_SLACK
from targets.float64.call import to_host
from targets.float64.evaluate import GraphEvaluator, widen
from targets.reference import Float64Session, OptimizationLevel, OrtSession, Provider, written

# Where an error can arise or come to light by cancellation. Other operators only pass on what they are given:
# a steep one (Softmax, Exp) makes it larger, which is its nature and no fault.
SUMS = frozenset(
    {
        "Add", "Sub", "Sum", "Mean", "Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization",
        "Einsum",
        "AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "LRN", "InstanceNormalization",
        "LayerNormalization", "Cast",
    }
)  # fmt: skip
FLOAT32_NOISE = 1e-6  # of the range: what a single float32 operator may add


def localise_runtime(
    model: ir.Model,
    feeds: Mapping[str, Feeds],
    *,
    optimization: OptimizationLevel = "off",
    threads: int = 1,
    providers: Sequence[Provider] = ("CPUExecutionProvider",),
    reference: ir.Model | None = None,
) -> Divergence | None:
    """The first tensor that a runtime computes beyond noise; None where all outputs stay within the gate.

    ``reference``: a model whose own plain float32 run tells what rounding alone does on these feeds; an error
    of no more than twice that is none of the model's.

    Raises:
        UnsupportedModelError: the model cannot be run, or not in float64.
    """
    evaluator = GraphEvaluator(model)
    outputs = {v.name for v in model.graph.outputs}
    for name, feed in feeds.items():
        errors = tensor_errors(evaluator, feed, optimization, threads, providers)
        worst = max((errors[o] for o in outputs if o in errors), default=0.0)
        if worst <= OUTPUT_NOISE:
            continue
        if reference is not None and worst <= _allowed(reference, feed):
            continue
        node = _origin(model, errors)
        if node is not None:
            return _explain(node, evaluator, errors, feed, name, optimization, threads, providers)
    return None


def _allowed(reference: ir.Model, feed: Feeds) -> float:
    """Twice the worst error of the reference's own float32 run, and a little."""
    with np.errstate(all="ignore"):
        truth = Float64Session(reference).run(feed)
    with written(reference) as path, OrtSession(path, optimization="off") as session:
        got = session.run(feed)
    own = max((difference(truth[name], widen(got[name])) for name in truth), default=0.0)
    return GateConfig().source_error_factor * own + SOURCE_ERROR_SLACK if np.isfinite(own) else 0.0


def tensor_errors(
    evaluator: GraphEvaluator,
    feed: Feeds,
    optimization: OptimizationLevel,
    threads: int,
    providers: Sequence[Provider],
) -> dict[str, float]:
    """max|Δ| / range of every floating-point tensor of the main graph against float64."""
    with np.errstate(all="ignore"):
        sizes = {
            n: v.nbytes for _, n, v in evaluator.trace(feed) if getattr(v, "dtype", np.dtype("O")).kind == "f"
        }
        truth = ((n, to_host(v)) for _, n, v in evaluator.trace(feed) if n in sizes)
        measured = runtime_values(
            evaluator.model, feed, sizes, optimization=optimization, threads=threads, providers=providers
        )
        return {
            name: difference(expected, widen(got))
            for (name, expected), (_, got) in zip(truth, measured, strict=True)
        }


def _origin(model: ir.Model, errors: Mapping[str, float]) -> ir.Node | None:
    """The first node that is not finite; else the sum whose error outgrows that of its inputs the most."""
    growths: list[tuple[float, ir.Node]] = []
    for node in model.graph:
        own = max((errors.get(v.name or "", 0.0) for v in node.outputs), default=0.0)
        if own == np.inf:
            return node
        behind = max((errors.get(v.name or "", 0.0) for v in node.inputs if v is not None), default=0.0)
        if node.op_type in SUMS and own > FLOAT32_NOISE:
            growths.append((own / max(behind, FLOAT32_NOISE), node))
    return max(growths, key=lambda g: g[0])[1] if growths else None


def _explain(
    node: ir.Node,
    evaluator: GraphEvaluator,
    errors: Mapping[str, float],
    feed: Feeds,
    feed_name: str,
    optimization: OptimizationLevel,
    threads: int,
    providers: Sequence[Provider],
) -> Divergence:
    tensor = node.outputs[0].name or ""
    reads = [v for v in node.inputs if v is not None]
    computed = tuple(v.name for v in reads if v.name and v.const_value is None)
    with np.errstate(all="ignore"):
        values = {k: to_host(v) for k, v in evaluator.run(feed, (*computed, tensor)).items()}
        expected = values[tensor]
        measured = runtime_values(
            evaluator.model,
            feed,
            {tensor: 0},
            optimization=optimization,
            threads=threads,
            providers=providers,
        )
        got = widen(next(iter(measured))[1])
        inputs = [_value(v, values) for v in node.inputs]

        def run(given: Sequence[Array | None]) -> Array:
            named = {
                v.name: g
                for v, g in zip(node.inputs, given, strict=True)
                if v is not None and v.name and g is not None
            }
            return to_host(evaluator.run_nodes([_unbound(node)], named)[tensor])

        finding = classify_runtime(node, inputs, expected, got, run)
    return Divergence(
        node=label(node),
        op=node.op_type,
        tensor=tensor,
        cause=finding.cause,
        detail=finding.detail,
        error=errors[tensor],
        feed=feed_name,
        level="runtime",
        inputs=computed,
        nodes_a=(label(node),),
        nodes_b=(label(node),),
    )


def _value(value: ir.Value | None, values: Mapping[str, Array]) -> Array | None:
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(widen(value.const_value.numpy()))
    return values[value.name or ""]


def _unbound(node: ir.Node) -> ir.Node:
    """A copy that reads plain named values, constants too."""
    fresh = ir.node(
        node.op_type,
        [None if v is None else ir.Value(name=v.name) for v in node.inputs],
        domain=node.domain,
        outputs=[ir.Value(name=v.name) for v in node.outputs],
        name=node.name,
    )
    fresh.attributes.update(node.attributes)
    return fresh
