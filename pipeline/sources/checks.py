"""What every conversion must pass before it is written, whatever its source.

1. The graph holds standard operators only: no op of the source left over, no function call, no random op.
2. The ONNX checker accepts the file, and ONNX Runtime loads it.
3. Its outputs agree with the source framework on zeros and on random input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import onnx_ir as ir

from optim.contract import Array, Feeds, Outputs, TensorSpec
from optim.errors import FairleadError, UnsupportedModelError, UserError
from pipeline.sources import check_feeds
from pipeline.sources.contract import SourceLayer, SourceParity
from pipeline.sources.onnx_operators import runtime_operators
from targets.closeness import APART, Closeness, Gate, closeness
from targets.contract import Session
from targets.reference import OrtSession

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)

GATE = Gate(max_abs_over_range=2e-5, snr_db=90.0)
# Half precision carries 11 bits: rounding each of the two runs alone gives 66 dB, sums of products less.
HALF_GATE = Gate(max_abs_over_range=1e-2, snr_db=46.0)
_ROUNDINGS = 4  # units of the output's own precision that summation order alone may move
# Integer outputs are exact. Where they come from comparing floats (ArgMax, Round), a tie may fall otherwise.
_TIES = 1e-3
_TIE_OPS = frozenset({"ArgMax", "ArgMin", "TopK", "Round", "Floor", "Ceil", "Cast", "NonMaxSuppression"})
# Packed copies of the weights buy speed that a single run does not need.
LEAN = {"session.disable_prepacking": "1"}
_HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_INT8_OPS = frozenset({"QuantizeLinear", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear"})


def check_graph(model: ir.Model, layers: Sequence[SourceLayer] = ()) -> None:
    """Refuse leftover operators.

    Raises:
        UnsupportedModelError: names the op, the node, the source layer and what to try.
    """
    schemas = onnx.defs
    opset = model.graph.opset_imports.get("", 1)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain not in STANDARD_DOMAINS:
            if (node.domain, node.op_type) in runtime_operators():
                continue  # an ONNX source may hold ONNX Runtime's own operators; converters here write none
            raise _leftover(node, layers, f"{node.domain}::{node.op_type} is not a standard ONNX operator")
        if node.op_type in RANDOM_OPS:
            raise UnsupportedModelError(
                f"random op {node.op_type} is left in the graph, so that two runs would differ",
                op=node.op_type,
                node=node.name or "",
                layer=layer_of(node, layers),
                hint="freeze the switch that turns it off (--freeze NAME=VALUE), or name outputs before it",
            )
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = opset if domain == "" else model.graph.opset_imports.get(domain, 1)
        if not schemas.has(node.op_type, version, domain):
            raise _leftover(node, layers, f"there is no ONNX operator {node.op_type} at opset {version}")
    if model.functions:
        name = next(iter(model.functions))[1]
        raise UnsupportedModelError(f"function {name} is left over", op=name, hint="report this model")


@dataclass(frozen=True)
class Reference:
    """One input and what the source framework makes of it."""

    feed: str
    feeds: Feeds
    outputs: Outputs


def run_source(source: Session, inputs: Sequence[TensorSpec]) -> tuple[Reference, ...]:
    """The source on zeros and on random input, of sizes at which it runs.

    Args:
        source: a session in the source framework.
        inputs: the converted model's inputs.

    Raises:
        UserError: no size was found at which the source itself runs; with the line to add.
        UnsupportedModelError: the source framework cannot run the model.
    """
    return tuple(Reference(name, feeds, source.run(feeds)) for name, feeds in _runnable(source, inputs))


def check_file(
    file: Path,
    model: ir.Model,
    references: Sequence[Reference],
    layers: Sequence[SourceLayer] = (),
    tolerance: Mapping[str, float] = MappingProxyType({}),
) -> tuple[SourceParity, ...]:
    """Check the file written from ``model`` (whose weights may be gone) and compare it with its source.

    ``tolerance`` gives outputs a bound on max|Δ| in their own unit, which stands in for the gate.

    Raises:
        UnsupportedModelError: the checker or ONNX Runtime refuses it, or the outputs differ.
    """
    try:
        onnx.checker.check_model(str(file))
    except (onnx.checker.ValidationError, ValueError) as error:
        raise _refused("the ONNX checker", error, model, layers) from error
    try:
        with OrtSession(file, optimization="off", threads=0, session_config=LEAN) as session:
            got = [session.run(reference.feeds) for reference in references]
    except FairleadError as error:
        raise _refused("ONNX Runtime", error, model, layers) from error
    names = [reference.feed for reference in references]
    comparisons = compare(model, names, got, [r.outputs for r in references], tolerance)
    _require(comparisons, model, layers)
    return comparisons


@dataclass(frozen=True)
class _Scale:
    """Range and root mean square of an output over all feeds."""

    span: float
    rms: float


def compare(
    model: ir.Model,
    feeds: Sequence[str],
    got: Sequence[Outputs],
    references: Sequence[Outputs],
    tolerance: Mapping[str, float] = MappingProxyType({}),
) -> tuple[SourceParity, ...]:
    """Each output on each feed against its reference; nothing compared is an error.

    Where an output hardly varies, its own range says nothing: a difference is therefore also accepted when
    it is small against the output's range and RMS over all feeds, or no more than rounding of the output.
    """
    gate, ties = gate_of(model), _may_tie(model)
    found: list[SourceParity] = []
    for name in references[0]:
        scale = _scale([outputs[name] for outputs in references])
        for feed, ours, theirs in zip(feeds, got, references, strict=True):
            if name not in ours:
                raise UnsupportedModelError(f"output {name} is missing in the converted model", node=name)
            figures, passed = _judge(ours[name], theirs[name], gate, scale, ties)
            if name in tolerance and figures != APART:
                delta = ours[name].astype(np.float64) - theirs[name].astype(np.float64)
                passed = bool(np.abs(delta).max(initial=0.0) <= tolerance[name])
            found.append(SourceParity(feed, name, figures.max_abs_over_range, figures.snr_db, passed))
    if not found:
        raise UnsupportedModelError("the model has no outputs", expected="at least one output to compare")
    return tuple(found)


def gate_of(model: ir.Model) -> Gate:
    """The bounds for this model: those of float32, or of half precision where it computes in that."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type in _INT8_OPS:
            return HALF_GATE  # one step of eight bits is 4e-3 of the range; float rounding decides ties
        for value in node.outputs:
            # Weights stored in half and cast up before use are computed in float32.
            if value.dtype in _HALF and node.op_type != "Constant":
                return HALF_GATE
        if node.op_type == "Cast" and node.attributes["to"].as_int() in {int(t) for t in _HALF}:
            return HALF_GATE
    if any(value.dtype in _HALF for value in model.graph.inputs):
        return HALF_GATE
    return GATE


def layer_of(node: ir.Node, layers: Sequence[SourceLayer]) -> str:
    """The source layer that a node belongs to: the one whose name is the longest scope of the node's name."""
    names = [node.name or "", *(value.name or "" for value in node.outputs)]
    found = ""
    for layer in layers:
        inside = any(layer.name == part or f"/{layer.name}/" in f"/{part}/" for part in names)
        made = any(name in layer.outputs for name in names)
        if (inside or made) and len(layer.name) > len(found):
            found = layer.name
    return found


def _runnable(source: Session, specs: Sequence[TensorSpec]) -> list[tuple[str, Feeds]]:
    """Zeros and random input of sizes at which the source itself runs."""
    known = {spec.name for spec in source.inputs}
    inputs = [spec for spec in specs if spec.name in known]
    failure: Exception | None = None
    for free in check_feeds.candidates(inputs):
        feeds: list[tuple[str, Feeds]] = [
            ("zeros", check_feeds.zeros(inputs, free)),
            (f"random(seed={check_feeds.SEED})", check_feeds.random(inputs, free)),
        ]
        try:
            outputs = source.run(feeds[0][1])
        except FairleadError as error:
            failure = failure or error
            continue
        if all(array.size for array in outputs.values()):
            return feeds
    free_dims = any(not isinstance(dim, int) for spec in inputs for dim in spec.shape)
    if free_dims and failure is not None:
        line = ",".join(
            f"{s.name}[{','.join('?' if not isinstance(d, int) else str(d) for d in s.shape)}]"
            for s in inputs
        )
        raise UserError(
            f"the source runs at none of the input sizes tried: {failure}",
            hint=f"give the shapes: --inputs '{line}'",
        ) from failure
    if failure is not None:
        raise failure
    raise UnsupportedModelError("the source gives empty outputs", expected="outputs with elements")


def _scale(arrays: Sequence[Array]) -> _Scale:
    if any(array.dtype.kind != "f" for array in arrays):
        return _Scale(0.0, 0.0)
    finite = [a.astype(np.float64).ravel()[np.isfinite(a.astype(np.float64).ravel())] for a in arrays]
    span = max((float(a.max() - a.min()) for a in finite if a.size), default=0.0)
    rms = max((float(np.sqrt(np.mean(a * a))) for a in finite if a.size), default=0.0)
    return _Scale(span, rms)


def _judge(got: Array, ref: Array, gate: Gate, scale: _Scale, ties: bool) -> tuple[Closeness, bool]:
    if got.dtype != ref.dtype or got.shape != ref.shape:
        return APART, False
    figures = closeness(got, ref)
    if ref.dtype.kind in "iub":
        wrong = float(np.mean(got != ref)) if ref.size else 0.0
        return figures, wrong == 0.0 or (ties and wrong <= _TIES)
    if gate.passes(figures):
        return figures, True
    if figures == APART or ref.dtype.kind != "f":
        return figures, False
    a, b = got.astype(np.float64).ravel(), ref.astype(np.float64).ravel()
    finite = np.isfinite(b)
    delta = np.abs(a[finite] - b[finite])
    if float(delta.max()) <= _ROUNDINGS * float(np.finfo(ref.dtype).eps) * float(np.abs(b[finite]).max()):
        return figures, True
    if scale.span == 0.0:
        return figures, False
    noise = float(np.sqrt(np.mean(delta * delta)))
    pooled = Closeness(
        float(delta.max()) / scale.span,
        float("inf") if noise == 0.0 else float(20.0 * np.log10(scale.rms / noise)),
    )
    return figures, gate.passes(pooled)


def _may_tie(model: ir.Model) -> bool:
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    return any(node.op_type in _TIE_OPS for node in nodes)


def _require(comparisons: Sequence[SourceParity], model: ir.Model, layers: Sequence[SourceLayer]) -> None:
    failed = [one for one in comparisons if not one.passed]
    if not failed:
        return
    worst = max(failed, key=lambda one: one.max_abs_over_range)
    gate = gate_of(model)
    output = next((v for v in model.graph.outputs if v.name == worst.output), None)
    node = None if output is None else output.producer()
    raise UnsupportedModelError(
        f"the converted model differs from its source: output {worst.output} on {worst.feed}, "
        f"max|Δ|/range {worst.max_abs_over_range:.3g}, SNR {worst.snr_db:.1f} dB",
        expected=f"at most {gate.max_abs_over_range:g} and at least {gate.snr_db:g} dB",
        op="" if node is None else node.op_type,
        node=worst.output,
        layer="" if node is None else layer_of(node, layers),
        hint="name earlier outputs (--outputs) to find the first that differs; please report the model",
    )


def _refused(
    who: str, error: Exception, model: ir.Model, layers: Sequence[SourceLayer]
) -> UnsupportedModelError:
    text = error.what if isinstance(error, FairleadError) else str(error)
    named = re.search(r"[Nn]ode[^'\"\n]*?\(?name:? ?['\"(]?([^'\"()\s]+)", text)
    node = None
    for candidate in ir.traversal.RecursiveGraphIterator(model.graph):
        if candidate.name and (candidate.name in text if named is None else candidate.name == named.group(1)):
            node = candidate
            break
    return UnsupportedModelError(
        f"{who} refuses the converted model: {text.strip()[:600]}",
        op="" if node is None else node.op_type,
        node="" if node is None else node.name or "",
        layer="" if node is None else layer_of(node, layers),
        hint="name outputs before this node (--outputs), or report the model",
    )


def _leftover(node: ir.Node, layers: Sequence[SourceLayer], what: str) -> UnsupportedModelError:
    layer = layer_of(node, layers)
    return UnsupportedModelError(
        f"op {node.op_type} could not be converted: {what}",
        op=node.op_type,
        node=node.name or "",
        layer=layer,
        hint="name outputs before it (--outputs), give fixed input shapes (--inputs), or try a newer --opset",
    )
