"""Tune one model: variants of its graph from the optimiser, parity on references, and the race."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optim.contract import Feeds, Outputs
from optim.errors import FairleadError
from optim.heads import saturating_heads
from optim.model import load, sha256, signature
from pipeline.bench.candidates import cpu_candidates, cuda_candidates, cuda_refinements, refinements
from pipeline.bench.child import Child
from pipeline.bench.contender import Contender
from pipeline.bench.cuda.libraries import why_no_cuda
from pipeline.bench.records import Dropped, TuneRecord
from pipeline.bench.tune import Parity, Race, Refine, Sameness, tune
from pipeline.config import TuneConfig
from pipeline.sources.contract import Progress
from targets.closeness import (
    SOURCE_ERROR_SLACK,
    Closeness,
    Gate,
    OwnError,
    closeness,
    own_error,
    worst,
    worst_error,
)
from targets.references import Reference

VARIANTS_SHARE: Final = 0.35  # of the budget, for making variants of the graph
SCOUT_S: Final = 0.02  # of calls, to see how long one takes
SCOUT_RUNS: Final = (3, 200)


@dataclass(frozen=True)
class Subject:
    """What is tuned: graphs of one model by what made them, and the contender that is the default."""

    default: Contender
    models: Mapping[str, Path]
    raw: Path  # what recipes start from
    references: Sequence[Reference]
    gate: Gate
    cpu_fallback: bool = False  # nodes that a GPU cannot run may run on the CPU


def tune_model(
    subject: Subject, settings: TuneConfig, feeds: Feeds, folder: Path, seed: int, progress: Progress
) -> TuneRecord:
    """Race the settings for ``subject``.

    Args:
        subject: the model.
        settings: what to combine, and the budget.
        feeds: inputs at the batch size of the race.
        folder: keeps the race's state and the variants, so that an interrupted race goes on.
        seed: of the order.
        progress: progress callback.

    Raises:
        GateNotMetError: nothing is the same model.
    """
    begin = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    models, failed = _variants(subject, settings, folder, progress)
    on_gpu, left_out = _on_gpu(subject, models, settings)
    candidates = (*cpu_candidates(subject.default, models, settings), *on_gpu)
    parity = parity_on(subject.references, subject.gate, subject.raw)
    unlike: list[Dropped] = []
    key = sha256(subject.raw)[:16]
    race = Race(
        budget_s=settings.budget_s,
        precision=settings.precision,
        seed=seed,
        batch=settings.batch,
        state=folder / f"race_{key}_{settings.batch}.json",
        spent_s=time.monotonic() - begin,
        recipes={str(path): label for label, path in models.items()},
    )
    record = tune(
        candidates,
        feeds,
        race,
        parity=parity,
        refine=refined(settings, parity, unlike),
        progress=progress,
    )
    return record.model_copy(update={"dropped": (*failed, *left_out, *record.dropped, *unlike)})


def refined(settings: TuneConfig, parity: Parity, unlike: list[Dropped]) -> Refine:
    """Small variants of a winner. On the GPU each is held to the references first, by its own call.

    Args:
        settings: what to vary.
        parity: whether a variant is the same model; asked once of each.
        unlike: gets those that are not.
    """
    known: dict[str, tuple[Contender, ...]] = {}

    def refine(winner: Contender) -> tuple[Contender, ...]:
        if winner.cuda is None:
            return refinements(winner, settings)
        if winner.name not in known:
            kept = []
            for one in cuda_refinements(winner, settings, fixed_shapes=not free_inputs(Path(winner.model))):
                found = parity(one)
                if found.reason:
                    unlike.append(Dropped(name=one.name, stage=0, reason=f"parity: {found.reason}"))
                else:
                    kept.append(one)
            known[winner.name] = tuple(kept)
        return known[winner.name]

    return refine


def free_inputs(model: Path) -> tuple[str, ...]:
    """Inputs with a dimension that is not fixed: a CUDA graph replays fixed shapes only."""
    inputs, _outputs = signature(load(model))
    return tuple(spec.name for spec in inputs if not all(isinstance(d, int) for d in spec.shape))


def _on_gpu(
    subject: Subject, models: Mapping[str, Path], settings: TuneConfig
) -> tuple[tuple[Contender, ...], tuple[Dropped, ...]]:
    """Candidates on the GPU, and what is left out of them with the reason."""
    found = cuda_candidates(models, settings, cpu_fallback=subject.cpu_fallback)
    if not found:
        return (), ()
    if why := why_no_cuda():
        return (), (Dropped(name="CUDA", stage=0, reason=why),)
    free = sorted({name for path in models.values() for name in free_inputs(path)})
    if not free or True not in settings.cuda_graph:
        return found, ()
    reason = f"the shapes of its inputs are free ({', '.join(free)}); optimize.shapes fixes them"
    return found, (Dropped(name="CUDA graph", stage=0, reason=reason),)


def parity_on(references: Sequence[Reference], gate: Gate, model: Path) -> Parity:
    """Whether a candidate gives the references' outputs within the gate, by the very call that is timed.

    Where a reference has float64 outputs, the candidate's own error is held to the gate's factor as well:
    what breaks that could win the race, and its bundle would fail.
    """
    heads = {name for name, head in saturating_heads(load(model)).items() if head.op == "Softmax"}

    def check(candidate: Contender) -> Sameness:
        figures: list[Closeness] = []
        errors: list[OwnError] = []
        try:
            with Child(candidate) as child:
                child.open()
                for reference in references:
                    got = child.outputs(reference.feeds)
                    figures += [
                        closeness(got[name], expected, softmax=name in heads)
                        for name, expected in reference.outputs.items()
                    ]
                    errors += _own_errors(reference, got, heads)
                least_ms = _least_ms(child)
        except FairleadError as error:
            return Sameness(None, str(error))
        found = worst(figures)
        reason = _why_unlike(found, worst_error(errors), gate)
        return Sameness(found.max_abs_over_range, reason, None if reason else least_ms)

    return check


def _why_unlike(found: Closeness, own: OwnError | None, gate: Gate) -> str:
    """Which bound is broken; empty where all hold."""
    if not gate.passes(found):
        return (
            f"max|Δ|/range {found.max_abs_over_range:.3g} (bound {gate.max_abs_over_range:g}), "
            f"SNR {found.snr_db:.1f} dB (bound {gate.snr_db:g} dB)"
        )
    factor = gate.source_error_factor
    if own is None or factor is None or own.within(factor):
        return ""
    return (
        f"error against float64 {own.artefact:.3g} of the range, above {factor:g} × the source's own "
        f"{own.source:.3g} + {SOURCE_ERROR_SLACK:g}"
    )


def _own_errors(reference: Reference, got: Outputs, heads: Collection[str]) -> list[OwnError]:
    """Distances from float64, where the reference has it."""
    found = [
        own_error(got[name], expected, reference.truth[name], softmax=name in heads)
        for name, expected in reference.outputs.items()
        if name in reference.truth
    ]
    return [one for one in found if one is not None]


def _least_ms(child: Child) -> float:
    """The quickest of a few calls, in milliseconds."""
    few, many = SCOUT_RUNS
    first = child.run(few)
    more = min(many, int(SCOUT_S * 1e9 / max(first.min(), 1)) - few)
    quickest = min(first.min(), child.run(more).min()) if more > 0 else first.min()
    return float(quickest) / 1e6


def _variants(
    subject: Subject, settings: TuneConfig, folder: Path, progress: Progress
) -> tuple[dict[str, Path], list[Dropped]]:
    """The graphs at hand and those that further recipes make of the raw one, each in a bounded child."""
    models = dict(subject.models)
    failed: list[Dropped] = []
    digest = sha256(subject.raw)[:16]
    deadline = time.monotonic() + VARIANTS_SHARE * settings.budget_s
    for recipe in settings.recipes:
        if recipe in models:
            continue
        progress(f"graph by recipe {recipe}", 0.0)
        out = folder / f"{digest}_{recipe}.onnx"
        reason = "" if out.is_file() else _optimize(subject.raw, out, recipe, deadline - time.monotonic())
        if reason:
            failed.append(Dropped(name=f"recipe {recipe}", stage=0, reason=reason))
        else:
            models[recipe] = out
    return models, failed


def _optimize(raw: Path, out: Path, recipe: str, seconds: float) -> str:
    """Make a variant; the reason where there is none."""
    command = [sys.executable, "-m", "pipeline.cli", "optimize", str(raw), "-o", str(out)]
    try:
        done = subprocess.run(
            [*command, "--recipe", recipe, "--quiet"],
            capture_output=True,
            text=True,
            check=False,
            timeout=max(seconds, 1.0),
        )
    except subprocess.TimeoutExpired:
        return f"not made within {VARIANTS_SHARE:.0%} of the budget"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return ""
