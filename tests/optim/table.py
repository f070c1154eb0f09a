"""What every table of cases needs: a graph from text, an independent oracle, the four checks of a pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from optim.contract import Array, Feeds, Outputs, Pass, PassOutcome
from optim.legality import faults
from optim.model import op_counts, signature
from optim.verify import Certifier, probes_for


class Unoptimised:
    """ONNX Runtime with every optimisation off: it fuses nothing, so it can tell a wrong fusion."""

    def prepare(self, model: ir.Model) -> Callable[[Feeds], Outputs]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        return lambda feeds: dict(zip(names, session.run(None, dict(feeds)), strict=True))

    def __call__(self, model: ir.Model, feeds: Feeds) -> Outputs:
        return self.prepare(model)(feeds)


def graph(
    text: str, weights: Mapping[str, Array] | None = None, *, opset: int = 18, infer: bool = True
) -> ir.Model:
    """A model from the body of ONNX's text format; ``weights`` become initializers.

    Shapes are inferred unless ``infer`` is off, as a recipe does first.
    """
    header = f'<ir_version: 10, opset_import: ["" : {opset}]>\n'
    proto = onnx.parser.parse_model(header + text)
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    model = ir.from_proto(proto)
    if infer:
        from optim.passes.infer_shapes import annotate

        annotate(model)
    return model


@dataclass(frozen=True)
class Case:
    """One row: a graph and what a pass must make of it."""

    title: str
    text: str
    expected: Mapping[str, int]  # op counts afterwards
    weights: Mapping[str, Array] = field(default_factory=dict)
    refusal: str = ""  # part of a reason that must be given
    opset: int = 18
    numbers: bool = True  # off for graphs that draw random numbers

    def __str__(self) -> str:
        return self.title

    def model(self) -> ir.Model:
        return graph(self.text, self.weights, opset=self.opset)


def check(rewrite: Pass, case: Case) -> ir.Model:
    """Apply ``rewrite`` to the case and check ops, refusals, legality, numbers and idempotence."""
    before, after = case.model(), case.model()
    outcome = rewrite.apply(after)
    counts = {op: n for op, n in op_counts(after).items() if op != "Constant"}
    assert counts == dict(case.expected), f"{counts}; refusals: {outcome.refusals}"
    assert outcome.modified == (op_counts(before) != op_counts(after)) or outcome.modified
    if case.refusal:
        assert any(case.refusal in r.reason for r in outcome.refusals), outcome.refusals
    if case.numbers:
        assert_sound(rewrite, before, after)
    return after


def assert_sound(rewrite: Pass, before: ir.Model, after: ir.Model) -> None:
    """Legal, within the declared numerics under the oracle, and a second application changes nothing."""
    inputs, outputs = signature(before)
    names = tuple(s.name for s in inputs), tuple(s.name for s in outputs)
    assert faults(after, *names) == []
    assert signature(after) == (inputs, outputs)
    certifier = Certifier(Unoptimised(), before, probes_for(before))
    certificate, breach = certifier.check(after, rewrite.info, before)
    assert breach is None, breach
    assert certificate.feeds
    again: PassOutcome = rewrite.apply(after)
    assert not again.modified, f"the second application rewrote {again.sites}"


def normal(*shape: int, seed: int = 0, scale: float = 0.3) -> Array:
    """Reproducible float32 weights."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def positive(*shape: int, seed: int = 1) -> Array:
    """Reproducible float32 numbers in [0.5, 1.5)."""
    return (np.random.default_rng(seed).random(shape) + 0.5).astype(np.float32)
