"""The certificate: a graph after a pass against the graph before it, under an oracle that does not optimise.

Bounds (max|Δ| divided by the scale of the reference, see ``difference``):

* ``exact``: equal bit for bit, where -0 counts as +0 and any NaN as any other.
* ``reassociates``: 16 machine epsilons of the output's type (1.9e-6 for float32), or, where the network
itself
  amplifies rounding more than that, four times what its outputs move when every weight and input is moved
  by one rounding step. A rewrite that only reassociates is backward stable: it computes the exact result of
  data changed by a few rounding steps (Higham, Accuracy and Stability of Numerical Algorithms, ch. 3), so
  the network's own answer to such a change is the yardstick. Never above ``PARITY_GATE``. A pass that
  declares a bound of its own (fast algorithms that are stable, but with a larger constant) is held to that.
  Where a graph's own kernels round worse (a long float32 sum, element after element), its error against
  float64 is the yardstick: the rewritten graph may err by twice that + 1e-6, as the parity gate has it, and
  so differ from the graph before by three times that + 1e-6.
* ``lossy``: what the pass declares, else ``PARITY_GATE``.

Outputs that end in a Softmax are compared by its logits. Where classes compete, a probability moves by up
to a quarter of what the logits move in absolute numbers, however large these are; and where one class has
won, probabilities say nothing at all. If a rewrite has moved the logits to another layout, logarithms of the
probabilities stand in, unless some have vanished.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import ml_dtypes
import numpy as np
import onnx_ir as ir

from optim.contract import Array, Certificate, Feeds, Numerics, Oracle, Outputs, PassInfo
from optim.errors import FairleadError, UnsupportedModelError
from optim.heads import with_logits
from optim.model import signature
from optim.probes import Probe, probes_for

__all__ = ["Certifier", "Difference", "Probe", "difference", "probes_for"]

PARITY_GATE = 2e-5
_ROUNDING_STEPS = 16
_NOISE_FACTOR = 4.0
_ERROR_FACTOR, _ERROR_SLACK = 2.0, 1e-6  # of the error against float64 that the graph before has
_SIZED_BY = frozenset({"Resize", "Upsample", "Range"})
_STEP_ELEMENTS = 1 << 18
_LEAST_PROBABILITY = 1e-30  # below it a float32 Softmax flushes to zero, and its logarithm says nothing


@dataclass(frozen=True)
class Difference:
    """How far outputs lie from the reference."""

    max_abs_over_range: float  # inf where shapes, types, or the places of NaN and infinity differ
    snr_db: float  # inf where equal
    equal: bool


@dataclass(frozen=True)
class Breach:
    """A probe on which a bound was broken."""

    measured: float
    bound: float
    feed: str


LOGITS = "/logits"
"""Ending of the key under which outputs hold the logits of the output of that name."""


def difference(got: Outputs, reference: Outputs) -> Difference:
    """The worst over all outputs; one that comes with its logits (key ``NAME/logits``) is judged by them.

    The scale of an output is its range (max - min), or its largest magnitude where that is more: rounding is
    relative to magnitude, and an output that is constant has no range at all.
    """
    names = {name for name in reference if not name.endswith(LOGITS)}
    if {name for name in got if not name.endswith(LOGITS)} != names or not names:
        return Difference(math.inf, -math.inf, equal=False)
    each = [_of_output(name, got, reference) for name in names]
    return Difference(
        max(d.max_abs_over_range for d in each), min(d.snr_db for d in each), all(d.equal for d in each)
    )


def _of_output(name: str, got: Outputs, reference: Outputs) -> Difference:
    plain = _difference(got[name], reference[name])
    logits = reference.get(name + LOGITS)
    if logits is None or math.isinf(plain.max_abs_over_range):
        return plain
    logarithms = _logarithms(got[name], reference[name])
    ways = [] if logarithms is None else [_difference(*logarithms)]
    other = got.get(name + LOGITS)
    if other is not None and np.shape(other) == np.shape(logits):
        ways.append(_difference(other, logits))
    return min(ways, key=lambda d: d.max_abs_over_range, default=plain)


def _logarithms(got: Array, reference: Array) -> tuple[Array, Array] | None:
    """Both as float64 logarithms; None where probabilities have vanished on either side."""
    a, b = np.asarray(got), np.asarray(reference)
    if b.dtype.kind != "f" or b.size == 0 or not min(a.min(), b.min()) >= _LEAST_PROBABILITY:
        return None
    return np.log(a.astype(np.float64)), np.log(b.astype(np.float64))


def _difference(got: Array, reference: Array) -> Difference:
    nothing_alike = Difference(math.inf, -math.inf, equal=False)
    got, reference = np.asarray(got), np.asarray(reference)
    if got.shape != reference.shape or got.dtype != reference.dtype:
        return nothing_alike
    if reference.dtype.kind in "OUSb" or reference.size == 0:
        same = bool(np.array_equal(got, reference))
        return Difference(0.0, math.inf, equal=True) if same else nothing_alike
    wide = np.complex128 if reference.dtype.kind == "c" else np.float64
    a, b = got.astype(wide), reference.astype(wide)
    finite = np.isfinite(b)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return nothing_alike
    odd = ~finite & ~np.isnan(b)
    if not np.array_equal(a[odd], b[odd]) or not np.isfinite(a[finite]).all():
        return nothing_alike
    error = np.abs(a[finite] - b[finite])
    worst = float(error.max(initial=0.0))
    if worst == 0.0:
        return Difference(0.0, math.inf, equal=True)
    values = b[finite]
    spread = 0.0 if wide is np.complex128 else float(values.max() - values.min())
    scale = max(spread, float(np.abs(values).max()))
    noise, signal = float((error**2).mean()), float((np.abs(values) ** 2).mean())
    snr_db = 10 * math.log10(signal / noise) if signal > 0 else -math.inf
    return Difference(worst / scale if scale > 0 else math.inf, snr_db, equal=False)


class Certifier:
    """Holds the outputs of the graph as it stands and judges each changed graph against them.

    Raises:
        UnsupportedModelError: the oracle can run the model on none of the probes; nothing compared is no
        proof.
    """

    def __init__(self, oracle: Oracle, model: ir.Model, probes: Sequence[Probe], seed: int = 0) -> None:
        self._oracle = oracle
        self._seed = seed
        self.skipped: dict[str, str] = {}
        self._noise: dict[str, float] = {}
        self._truths: dict[str, Outputs | None] = {}  # of the graph before, in float64, as they are needed
        self._before: dict[str, Outputs] = {}
        self._after: dict[str, Outputs] = {}
        kept = []
        try:
            run = self._prepare(model)
        except Exception as error:  # each runtime has its own kinds; the reason is kept
            raise _unprovable(_reason(error)) from error
        for probe in probes:
            try:
                self._before[probe.name] = run(probe.feeds)
            except Exception as error:
                self.skipped[probe.name] = _reason(error)
            else:
                kept.append(probe)
        self._probes = tuple(kept)
        self._first = dict(self._before)
        if not kept:
            raise _unprovable(next(iter(self.skipped.values()), "there are no probe inputs"))

    def check(self, model: ir.Model, info: PassInfo, before: ir.Model) -> tuple[Certificate, Breach | None]:
        """The certificate of ``model`` against ``before``, and the worst breach if a bound was broken."""
        self._after = {}
        try:
            run = self._prepare(model)
        except Exception:
            run = _unrunnable
        worst, bound, breach = Difference(0.0, math.inf, equal=True), _least_bound(info), None
        fitting = [p for p in self._probes if _fits(model, p)]
        if not fitting:
            nothing = Breach(math.inf, 0.0, "no probe fits the rewritten graph's inputs")
            return Certificate((), math.inf, -math.inf, 0.0, passed=False), nothing
        answers = {probe.name: _run(run, probe.feeds) for probe in fitting}
        del run  # frees the graph: what is run below to find a bound is as large
        for probe in fitting:
            reference, found = self._before[probe.name], answers[probe.name]
            delta = (
                Difference(math.inf, -math.inf, equal=False)
                if found is None
                else difference(found, reference)
            )
            here = self._bound(info, probe, reference, delta, before)
            if found is not None and here < delta.max_abs_over_range < math.inf:
                here = max(here, self._granted(info, probe, reference, found, before))
            bound = max(bound, here)
            worst = Difference(
                max(worst.max_abs_over_range, delta.max_abs_over_range),
                min(worst.snr_db, delta.snr_db),
                worst.equal and delta.equal,
            )
            if delta.max_abs_over_range > here and (
                breach is None or delta.max_abs_over_range > breach.measured
            ):
                breach = Breach(delta.max_abs_over_range, here, probe.name)
            if found is not None:
                self._after[probe.name] = found
        names = tuple(p.name for p in fitting)
        return Certificate(names, worst.max_abs_over_range, worst.snr_db, bound, breach is None), breach

    def accept(self) -> None:
        """The graph checked last is now the one to compare with."""
        self._before = self._after
        self._truths = {}
        self._probes = tuple(p for p in self._probes if p.name in self._after)

    def overall(self, bound: float) -> Certificate:
        """The accepted graph against the very first; costs no run."""
        each = [difference(self._before[p.name], self._first[p.name]) for p in self._probes]
        worst = max(d.max_abs_over_range for d in each)
        return Certificate(
            tuple(p.name for p in self._probes), worst, min(d.snr_db for d in each), bound, worst <= bound
        )

    def _granted(
        self, info: PassInfo, probe: Probe, reference: Outputs, found: Outputs, before: ir.Model
    ) -> float:
        """How far a rewrite that errs no more than the graph before may differ from it; 0 where it does."""
        if info.numerics is not Numerics.REASSOCIATES or info.bound is not None:
            return 0.0
        if probe.name not in self._truths:
            self._truths[probe.name] = self._truth(before, probe)
        truth = self._truths[probe.name]
        if truth is None:
            return 0.0
        own = difference(_widened(reference), truth).max_abs_over_range
        allowed = min(_ERROR_FACTOR * own + _ERROR_SLACK, PARITY_GATE)
        return own + allowed if difference(_widened(found), truth).max_abs_over_range <= allowed else 0.0

    def _truth(self, model: ir.Model, probe: Probe) -> Outputs | None:
        """What the graph computes in float64; None where the oracle has no such answer."""
        evaluate = getattr(self._oracle, "truth", None)
        if evaluate is None:
            return None
        try:
            return self._prepare(model, evaluate)(probe.feeds)
        except FairleadError:
            return None

    def _prepare(
        self, model: ir.Model, prepare: Callable[[ir.Model], Callable[[Feeds], Outputs]] | None = None
    ) -> Callable[[Feeds], Outputs]:
        model, logits = with_logits(model)
        prepare = prepare or getattr(self._oracle, "prepare", None)
        run = partial(self._oracle, model) if prepare is None else prepare(model)
        return partial(_with_keys, run, logits) if logits else run

    def _bound(
        self, info: PassInfo, probe: Probe, reference: Outputs, delta: Difference, before: ir.Model
    ) -> float:
        if info.numerics is Numerics.EXACT:
            return 0.0
        if info.numerics is Numerics.LOSSY:
            return PARITY_GATE if info.bound is None else info.bound
        if info.bound is not None:
            return min(info.bound, PARITY_GATE)
        least = _ROUNDING_STEPS * max((_epsilon(a) for a in reference.values()), default=0.0)
        if delta.max_abs_over_range <= least or math.isinf(delta.max_abs_over_range):
            return least
        if probe.name not in self._noise:
            self._noise[probe.name] = self._rounding_noise(before, probe, reference)
        cap = max(PARITY_GATE, least)
        return min(max(least, _NOISE_FACTOR * self._noise[probe.name]), cap)

    def _rounding_noise(self, model: ir.Model, probe: Probe, reference: Outputs) -> float:
        """How far the outputs move when weights and inputs move by one rounding step, signs at random."""
        moved = model.clone()
        rng = np.random.default_rng(self._seed)
        for value in moved.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.dtype.is_floating_point() and not _is_structural(value):
                value.const_value = ir.tensor(_one_step(tensor.numpy(), rng), name=value.name)
        feeds = {name: _one_step(np.asarray(feed), rng) for name, feed in probe.feeds.items()}
        found = _run(self._prepare(moved), feeds)
        noise = 0.0 if found is None else difference(found, reference).max_abs_over_range
        return noise if math.isfinite(noise) else 0.0


def _with_keys(run: Callable[[Feeds], Outputs], logits: Mapping[str, str], feeds: Feeds) -> Outputs:
    """Outputs of a model with logits, those under the keys that ``difference`` looks for."""
    found = run(feeds)
    beside = {f"{output}{LOGITS}": found[name] for output, name in logits.items()}
    added = set(logits.values())
    return {name: array for name, array in found.items() if name not in added} | beside


def _widened(outputs: Outputs) -> Outputs:
    """Floating-point arrays as float64."""
    return {
        name: array.astype(np.float64) if array.dtype.kind == "f" else array
        for name, array in outputs.items()
    }


def _is_structural(value: ir.Value) -> bool:
    """Whether a tensor decides about sizes: a Resize scaled by 1.0000001 is another graph, or none at all."""
    return any(
        use.node.op_type in _SIZED_BY and (use.idx > 0 or use.node.op_type == "Range") for use in value.uses()
    )


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _unprovable(reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the model runs on none of the probe inputs: {reason}",
        expected="at least one input on which the rewrites can be checked",
        hint="supply inputs (--data io.npz), or fix input shapes in the config",
    )


def _fits(model: ir.Model, probe: Probe) -> bool:
    """Whether a probe has the shapes that the inputs declare; fewer do once shapes are frozen."""
    for spec in signature(model)[0]:
        shape: tuple[int, ...] | None = None
        if spec.name in probe.feeds:
            shape = np.asarray(probe.feeds[spec.name]).shape
        if shape is None or len(shape) != len(spec.shape):
            continue
        declared: tuple[int | str | None, ...] = spec.shape
        if any(isinstance(d, int) and 0 <= d != n for d, n in zip(declared, shape, strict=True)):
            return False
    return True


def _least_bound(info: PassInfo) -> float:
    return 0.0 if info.numerics is not Numerics.LOSSY else (info.bound or PARITY_GATE)


def _unrunnable(_feeds: Feeds) -> Outputs:
    raise UnsupportedModelError("the oracle cannot load the rewritten graph")


def _run(run: Callable[[Feeds], Outputs], feeds: Feeds) -> Outputs | None:
    try:
        return run(feeds)
    except Exception:  # a graph that no longer runs is as wrong as one with wrong numbers
        return None


def _epsilon(array: Array) -> float:
    dtype = np.asarray(array).dtype
    if dtype.kind not in "fcV":
        return 0.0
    finfo = cast(Callable[[object], np.finfo[np.float32]], ml_dtypes.finfo)
    try:
        return float(finfo(dtype).eps)
    except ValueError:
        return 0.0


def _one_step(array: Array, rng: np.random.Generator) -> Array:
    """Every number moved by one rounding step, up or down; block by block, since numbers are many."""
    eps = _epsilon(array)
    if eps == 0.0:
        return array
    wide = np.float64 if array.dtype == np.float64 else np.float32
    source = np.ascontiguousarray(array).reshape(-1)
    moved = np.empty_like(source)
    # Four signs come of one draw: blocks of a multiple of four give the signs that one block would.
    for start in range(0, source.size, _STEP_ELEMENTS):
        block = source[start : start + _STEP_ELEMENTS]
        signs = rng.integers(0, 2, block.shape, dtype=np.int8) * 2 - 1
        factor: Array = (1 + eps * signs).astype(wide)
        product: Array = block.astype(wide) * factor
        moved[start : start + _STEP_ELEMENTS] = product.astype(array.dtype)
    return moved.reshape(array.shape)
