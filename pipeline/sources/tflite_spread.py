"""How far TFLite's own kernel sets lie apart on an integer model: the yardstick for its conversion.

The built-in kernels round twice when they scale an integer sum, XNNPACK's round once. Each such step can move
a result by one, and a deep network carries that on: on one and the same file the two differ by several steps.
A conversion that computes in float32 with QuantizeLinear in between cannot be held to less.

For 16-bit activations TFLite has one kernel set only. There the yardstick is what that set makes of inputs
that are one step off: how far it carries a rounding.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optim.contract import Array, Feeds, Outputs
from optim.errors import FairleadError
from pipeline.sources import check_feeds
from pipeline.sources.contract import ConvertRequest
from pipeline.sources.tflite_model import Subgraph
from pipeline.sources.tflite_session import Kernels, TfliteSession

_SEEDS = range(4)


def computes_in_integers(subgraph: Subgraph) -> bool:
    """Whether some operator's result is quantised."""
    produced = {index for operator in subgraph.operators for index in operator.outputs}
    return any(
        subgraph.tensors[index].quantization is not None and subgraph.tensors[index].dtype.itemsize <= 2
        for index in produced
    )


def tolerance(request: ConvertRequest, subgraph: Subgraph) -> dict[str, float]:
    """For each output, a bound on max|Δ| in its own unit: one step and twice the kernels' spread."""
    if not computes_in_integers(subgraph):
        return {}
    spread = _carried(request, subgraph) if _has_16_bits(subgraph) else _spread(request)
    allowed: dict[str, float] = {}
    for index in subgraph.outputs:
        tensor = subgraph.tensors[index]
        step = 1.0 if tensor.dtype.kind in "iu" else _step_behind(subgraph, index)
        allowed[tensor.name] = step + 2.0 * spread.get(tensor.name, 0.0)
    return allowed


def _spread(request: ConvertRequest) -> dict[str, float]:
    """Largest difference of each output between two kernel sets; empty where no second set runs the model."""
    for kernels in (Kernels.FASTEST, Kernels.REFERENCE):
        with TfliteSession(request) as plain:
            for free in check_feeds.candidates(plain.inputs):
                try:
                    with TfliteSession(request, kernels) as other:
                        return _largest_difference(plain, other, free)
                except FairleadError:  # not these sizes, or not these kernels
                    continue
    return {}


def _has_16_bits(subgraph: Subgraph) -> bool:
    produced = (index for operator in subgraph.operators for index in operator.outputs)
    tensors = (subgraph.tensors[index] for index in produced)
    return any(one.quantization is not None and one.dtype == np.int16 for one in tensors)


def _carried(request: ConvertRequest, subgraph: Subgraph) -> dict[str, float]:
    """Largest difference of each output between inputs and the same inputs one step off, up or down."""
    found: dict[str, float] = {}
    steps = {subgraph.tensors[index].name: _step_of_input(subgraph, index) for index in subgraph.inputs}
    with TfliteSession(request) as session:
        for free in check_feeds.candidates(session.inputs):
            feeds = [check_feeds.zeros(session.inputs, free)]
            feeds += [check_feeds.random(session.inputs, free, seed) for seed in _SEEDS]
            try:
                for seed, feed in enumerate(feeds):
                    plain = session.run(feed)
                    _note_largest(found, plain, session.run(_one_step_off(feed, steps, seed)))
            except FairleadError:  # not these sizes
                continue
            return found
    return found


def _one_step_off(feed: Feeds, steps: Mapping[str, float], seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    moved: dict[str, Array] = {}
    for name, array in feed.items():
        shift = rng.choice([-1.0, 1.0], array.shape) * steps[name]
        limits = np.iinfo(array.dtype) if array.dtype.kind in "iu" else np.finfo(np.float32)
        moved[name] = np.clip(array + shift, limits.min, limits.max).astype(array.dtype)
    return moved


def _step_of_input(subgraph: Subgraph, index: int) -> float:
    """One step of the integers that an input holds or is quantised to first; 0 where it stays as it is."""
    tensor = subgraph.tensors[index]
    if tensor.quantization is not None and tensor.dtype.kind in "iu":
        return 1.0
    for operator in subgraph.operators:
        if index in operator.inputs and operator.name == "QUANTIZE":
            quantization = subgraph.tensors[operator.outputs[0]].quantization
            return 0.0 if quantization is None else float(quantization.scales.max())
    return 0.0


def _largest_difference(
    plain: TfliteSession, other: TfliteSession, free: check_feeds.FreeSizes
) -> dict[str, float]:
    specs = plain.inputs
    feeds = [check_feeds.zeros(specs, free), *(check_feeds.random(specs, free, seed) for seed in _SEEDS)]
    found: dict[str, float] = {}
    for feed in feeds:
        _note_largest(found, plain.run(feed), other.run(feed))
    return found


def _note_largest(found: dict[str, float], ours: Outputs, theirs: Outputs) -> None:
    for name, array in ours.items():
        delta = np.abs(array.astype(np.float64) - theirs[name].astype(np.float64))
        found[name] = max(found.get(name, 0.0), float(delta.max(initial=0.0)))


def _step_behind(subgraph: Subgraph, output: int) -> float:
    """The step of the integers that a real output was dequantised from; 0 where it was computed in floats."""
    for operator in subgraph.operators:
        if output in operator.outputs and operator.name == "DEQUANTIZE":
            quantization = subgraph.tensors[operator.inputs[0]].quantization
            return 0.0 if quantization is None else float(quantization.scales.max())
    return 0.0
