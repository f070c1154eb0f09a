"""Stage optimize: certified rewrites of the converted graph."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from optim.catalog import PASSES
from optim.contract import Feeds, Ledger, PassRecord
from optim.errors import UnsupportedModelError
from optim.model import load, op_counts, save, sha256, signature
from optim.passes.freeze_shapes import FreezeShapes
from optim.probes import probes_for
from optim.recipes import RECIPES, Line, Recipe, recipe_named, recipe_of
from optim.schedule import optimize
from optim.timing import Stopwatch
from pipeline.affinity import usable_cpu_count
from pipeline.feeds import load_data
from pipeline.records import CertificateRecord, LedgerLine, OptimizeRecord, RefusalRecord, RollbackRecord
from pipeline.sources.contract import Progress
from pipeline.sources.onnx_operators import refuse_unknown
from pipeline.stages.contract import CONVERTED, OPTIMIZED, StageContext
from targets.reference import OrtOracle
from targets.timer import OrtTimer


def execute(context: StageContext) -> OptimizeRecord:
    """Optimise the converted model into the step's folder; the user's data is among the probes."""
    config = context.config
    source = context.done["convert"] / CONVERTED
    supplied: Feeds | None = None
    dataset = load_data(config, signature(load(source))[0])
    if dataset is not None:
        supplied = dataset.feeds
    recipe = _chosen(config.optimize.recipe, config.optimize.passes, simplify=config.optimize.simplify)
    record = optimize_file(
        source,
        context.out / OPTIMIZED,
        recipe=recipe,
        supplied=supplied,
        shapes=config.optimize.shapes,
        progress=context.progress,
    )
    return record.model_copy(update={"output": OPTIMIZED})


def optimize_file(
    source: Path,
    output: Path,
    *,
    recipe: str | Recipe,
    progress: Progress,
    passes: tuple[str, ...] | None = None,
    supplied: Feeds | None = None,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> OptimizeRecord:
    """Optimise one ONNX file.

    Args:
        source: the model.
        output: where the result is written; may be ``source``.
        recipe: a recipe or its name.
        progress: progress callback.
        passes: passes in order, each ``name`` or ``name:option=value``, instead of the recipe.
        supplied: the user's own arrays by input name, certified on besides zeros and random input.
        shapes: input shapes to fix first.

    Raises:
        UserError: unknown recipe or pass, unreadable model, shapes that do not fit.
    """
    begin = time.perf_counter()
    chosen = recipe if isinstance(recipe, Recipe) else _chosen(recipe, passes, simplify=False)
    if chosen.measured:
        chosen = chosen.timed_by(Stopwatch(OrtTimer(), timings_file()))
    model = load(source)
    before, probed = op_counts(model), model
    if shapes:
        options = {"shapes": shapes, "batch": None}
        first = Line("freeze_shapes", "the shapes that the config gives", options=options)
        chosen = replace(chosen, lines=(first, *chosen.lines))
        probed = model.clone()
        FreezeShapes(shapes, batch=None).apply(probed)  # the inputs tried must have the shapes to come
    oracle = OrtOracle(threads=usable_cpu_count())
    try:
        ledger = optimize(
            model, chosen, oracle=oracle, probes=probes_for(probed, supplied), progress=progress
        )
    except UnsupportedModelError:
        if not model.functions:
            refuse_unknown(model)  # says which node it is
        raise
    save(model, output)
    return _record(ledger, before, op_counts(model), output, time.perf_counter() - begin)


def timings_file() -> Path:
    """Where this user's measurements of sites are kept, for all projects: they belong to the host."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "fairlead" / "timings.json"


def list_passes() -> dict[str, Any]:
    """Passes and recipes as plain values for ``fairlead passes``."""
    infos = [make().info for _name, make in sorted(PASSES.items())]
    return {
        "passes": [{"name": i.name, "numerics": i.numerics.value, "summary": i.summary} for i in infos],
        "recipes": [
            {
                "name": recipe.name,
                "summary": recipe.summary,
                "lines": [{"pass": line.name, "why": line.why} for line in recipe.lines],
            }
            for recipe in RECIPES.values()
        ],
    }


def _chosen(recipe: str, passes: tuple[str, ...] | None, *, simplify: bool) -> Recipe:
    chosen = recipe_named(recipe) if passes is None else recipe_of(passes)
    if not simplify:
        return chosen
    first = recipe_of(("simplify",))
    return Recipe(f"simplify+{chosen.name}", (*first.lines, *chosen.lines), chosen.summary)


def _record(
    ledger: Ledger, before: dict[str, int], after: dict[str, int], output: Path, seconds: float
) -> OptimizeRecord:
    return OptimizeRecord(
        output=str(output),
        recipe=ledger.recipe,
        ledger=tuple(_line(record) for record in ledger.records),
        nodes_before=ledger.nodes_before,
        nodes_after=ledger.nodes_after,
        bytes_before=ledger.bytes_before,
        bytes_after=ledger.bytes_after,
        ops_before=before,
        ops_after=after,
        sha256=sha256(output),
        seconds=seconds,
    )


def _line(record: PassRecord) -> LedgerLine:
    certificate = record.certificate
    return LedgerLine(
        name=record.name,
        why=record.why,
        numerics=record.numerics,
        sites=len(record.sites),
        site_names=record.sites,
        refusals=tuple(RefusalRecord(site=one.site, reason=one.reason) for one in record.refusals),
        rolled_back=tuple(
            RollbackRecord(site=one.site, measured=one.measured, bound=one.bound, feed=one.feed)
            for one in record.rolled_back
        ),
        nodes_before=record.nodes_before,
        nodes_after=record.nodes_after,
        bytes_before=record.bytes_before,
        bytes_after=record.bytes_after,
        certificate=None
        if certificate is None
        else CertificateRecord(
            feeds=certificate.feeds,
            max_abs_over_range=certificate.max_abs_over_range,
            snr_db=certificate.snr_db,
            bound=certificate.bound,
            passed=certificate.passed,
        ),
        seconds=record.seconds,
        certificate_seconds=record.certificate_seconds,
    )
