"""Run a recipe: each pass is a transaction that is kept only where it is legal and certified.

When a pass breaks its declared numerics, the sites at fault are found by halving: the graph before the pass
is rewritten again with part of the sites allowed. What passes is kept, what fails alone is rolled back and
noted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias

import onnx_ir as ir

from optim.contract import Certificate, Ledger, Oracle, Pass, PassOutcome, PassRecord, Rollback
from optim.errors import FairleadError, InternalError
from optim.legality import faults
from optim.model import node_count, signature, weight_bytes
from optim.recipes import Recipe
from optim.verify import Breach, Certifier, Probe, probes_for

logger = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[str, float], None]
_MOST_TRIALS = 64  # oracle rounds spent on finding the sites at fault in one pass


def no_progress(_text: str, _fraction: float) -> None:
    """The progress callback that shows nothing."""


@dataclass(frozen=True)
class _Interface:
    """Input and output names that must survive."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, model: ir.Model) -> _Interface:
        inputs, outputs = signature(model)
        return cls(tuple(s.name for s in inputs), tuple(s.name for s in outputs))

    def faults(self, model: ir.Model) -> list[str]:
        return faults(model, self.inputs, self.outputs)


@dataclass(frozen=True)
class _Size:
    """Nodes and bytes of weights."""

    nodes: int
    weight_bytes: int

    @classmethod
    def of(cls, model: ir.Model) -> _Size:
        return cls(node_count(model), weight_bytes(model))


def optimize(
    model: ir.Model,
    recipe: Recipe,
    *,
    oracle: Oracle | None,
    probes: Sequence[Probe] = (),
    progress: Progress = no_progress,
) -> Ledger:
    """Apply ``recipe`` to ``model`` in place.

    Args:
        model: the model.
        recipe: the ordered passes.
        oracle: runs a model without optimising it; None skips the certificates, not the legality check.
        probes: inputs for the certificates; empty: ``probes_for(model)``.
        progress: called with a short text and the fraction done.

    Returns:
        The ledger, one record for each line of the recipe.

    Raises:
        UnsupportedModelError: the oracle can run the model on no probe.
        InternalError: a pass failed, or made an illegal graph and there is no oracle to roll it back with.
    """
    start = perf_counter()
    interface = _Interface.of(model)
    size = _Size.of(model)
    at_first = size
    certifier = None
    if oracle is not None:
        progress("running the model before any rewrite", 0.0)
        certifier = Certifier(oracle, model, probes or probes_for(model))
    records: list[PassRecord] = []
    before: ir.Model | None = None
    for number, line in enumerate(recipe.lines):
        progress(line.make().info.name, number / max(1, len(recipe.lines)))
        if certifier is not None and before is None:
            before = model.clone()
        record = _apply(model, before, line.make(), line.why, interface, certifier, size)
        size = _Size(record.nodes_after, record.bytes_after)
        if record.sites or record.rolled_back:
            before = None
        records.append(record)
    progress("done", 1.0)
    overall = None
    if certifier is not None:
        bound = sum(r.certificate.bound for r in records if r.certificate is not None)
        overall = certifier.overall(bound)
    return Ledger(
        recipe=recipe.name,
        records=tuple(records),
        nodes_before=at_first.nodes,
        nodes_after=size.nodes,
        bytes_before=at_first.weight_bytes,
        bytes_after=size.weight_bytes,
        seconds=perf_counter() - start,
        overall=overall,
        skipped_feeds=() if certifier is None else tuple(f"{n}: {r}" for n, r in certifier.skipped.items()),
    )


def _apply(
    model: ir.Model,
    before: ir.Model | None,
    rewrite: Pass,
    why: str,
    interface: _Interface,
    certifier: Certifier | None,
    size: _Size,
) -> PassRecord:
    start = perf_counter()
    outcome = _run_pass(rewrite, model)
    seconds = perf_counter() - start
    certificate: Certificate | None = None
    rolled_back: tuple[Rollback, ...] = ()
    start = perf_counter()
    if outcome.modified:
        illegal = interface.faults(model)
        if certifier is None or before is None:
            if illegal:
                raise InternalError(
                    f"pass {rewrite.info.name} made an illegal graph: {illegal[0]}",
                    hint=f"drop {rewrite.info.name} from the recipe and report this",
                )
        else:
            trial = _Trial(before, rewrite, interface, certifier)
            certificate, breach = trial.judge(model, illegal)
            if breach is not None:
                outcome, certificate, rolled_back = _roll_back(model, trial, outcome, breach)
            else:
                certifier.accept()
    logger.debug("%s: %d sites, %d refusals", rewrite.info.name, len(outcome.sites), len(outcome.refusals))
    certificate_seconds = perf_counter() - start
    after = _Size.of(model) if outcome.modified else size
    return PassRecord(
        name=rewrite.info.name,
        numerics=rewrite.info.numerics,
        sites=outcome.sites,
        refusals=outcome.refusals,
        rolled_back=rolled_back,
        nodes_before=size.nodes,
        nodes_after=after.nodes,
        bytes_before=size.weight_bytes,
        bytes_after=after.weight_bytes,
        certificate=certificate,
        seconds=seconds,
        certificate_seconds=certificate_seconds,
        why=why,
    )


def _run_pass(rewrite: Pass, model: ir.Model, allowed: Callable[[str], bool] | None = None) -> PassOutcome:
    try:
        return rewrite.apply(model) if allowed is None else rewrite.apply(model, allowed)
    except FairleadError:
        raise
    except Exception as error:
        raise InternalError(
            f"pass {rewrite.info.name} failed: {type(error).__name__}: {error}",
            hint=f"drop {rewrite.info.name} from the recipe and report this",
        ) from error


@dataclass(frozen=True)
class _Trial:
    """One pass, to be tried again on the graph before it with part of its sites."""

    before: ir.Model
    rewrite: Pass
    interface: _Interface
    certifier: Certifier

    def judge(self, model: ir.Model, illegal: list[str]) -> tuple[Certificate, Breach | None]:
        if illegal:
            bound = 0.0
            return Certificate((), math.inf, -math.inf, bound, passed=False), Breach(
                math.inf, bound, f"illegal graph: {illegal[0]}"
            )
        return self.certifier.check(model, self.rewrite.info, self.before)

    def with_sites(self, sites: Sequence[str]) -> tuple[ir.Model, PassOutcome, Certificate, Breach | None]:
        """The graph before the pass, rewritten at these sites only."""
        copy = self.before.clone()
        wanted = frozenset(sites)
        outcome = _run_pass(self.rewrite, copy, wanted.__contains__)
        certificate, breach = self.judge(copy, self.interface.faults(copy))
        return copy, outcome, certificate, breach


def _roll_back(
    model: ir.Model, trial: _Trial, outcome: PassOutcome, breach: Breach
) -> tuple[PassOutcome, Certificate | None, tuple[Rollback, ...]]:
    """Keep the sites that pass together, roll the others back; ``model`` becomes the graph with the kept
    ones.
    """
    kept: list[str] = []
    rolled_back: list[Rollback] = []
    pending = _halves(outcome.sites) if len(outcome.sites) > 1 else [outcome.sites]
    trials = 0
    while pending:
        group = pending.pop()
        if trials >= _MOST_TRIALS:
            rolled_back += [Rollback(s, breach.measured, breach.bound, breach.feed) for s in group]
            continue
        trials += 1
        found = breach if group == outcome.sites else trial.with_sites([*kept, *group])[3]
        if found is None:
            kept += group
        elif len(group) == 1:
            rolled_back.append(Rollback(group[0], found.measured, found.bound, found.feed))
        else:
            pending += _halves(group)
    copy, final, certificate, last = trial.with_sites(kept)
    if last is not None:  # cannot be: the kept sites were judged together
        raise InternalError(f"pass {trial.rewrite.info.name} does not do the same twice")
    model.graph = copy.graph
    trial.certifier.accept()
    return (
        PassOutcome(final.sites, outcome.refusals),
        certificate if final.modified else None,
        tuple(rolled_back),
    )


def _halves(sites: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Two halves, the first on top of the stack."""
    middle = (len(sites) + 1) // 2
    return [sites[middle:], sites[:middle]]
