"""Whether ONNX Runtime still computes the model when it optimises it, as it does unless told otherwise.

The conversion itself is judged unoptimised (``checks.py``): what differs here is the runtime's own doing. The
model is right all the same, but whoever runs it with the defaults must know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import onnx_ir as ir

from optim.errors import FairleadError
from pipeline.sources.checks import LEAN, Reference, compare
from targets.reference import LEVELS, OptimizationLevel, OrtSession, import_onnxruntime

_LEVELS: tuple[OptimizationLevel, ...] = ("all", "extended", "basic")  # the default first


def check_optimised(
    file: Path,
    model: ir.Model,
    references: Sequence[Reference],
    tolerance: Mapping[str, float] = MappingProxyType({}),
) -> tuple[str, ...]:
    """A note where ONNX Runtime's default optimisations make another model of ``file``.

    Args:
        file: the converted model, which is right without optimisations.
        model: its graph; weights may be absent.
        references: inputs and what the source makes of them.
        tolerance: bounds of outputs in their own unit (see ``Converted``).

    Returns:
        Nothing where all is well; else what goes wrong, and the highest level at which it does not.
    """
    wrong = _wrong_at(_LEVELS[0], file, model, references, tolerance)
    if not wrong:
        return ()
    lower = _LEVELS[1:]
    good: OptimizationLevel = next(
        (level for level in lower if not _wrong_at(level, file, model, references, tolerance)), "off"
    )
    return (
        f"WARNING: the model is right, but ONNX Runtime {import_onnxruntime().__version__} computes it wrong "
        f"with its default optimisations: {wrong}. Set graph_optimization_level to {LEVELS[good]}, the "
        "highest at which it is computed right",
    )


def _wrong_at(
    level: OptimizationLevel,
    file: Path,
    model: ir.Model,
    references: Sequence[Reference],
    tolerance: Mapping[str, float],
) -> str:
    """What is wrong at an optimisation level; empty: nothing."""
    try:
        with OrtSession(file, optimization=level, threads=0, session_config=LEAN) as session:
            got = [session.run(reference.feeds) for reference in references]
    except FairleadError as error:
        return f"it fails with '{error.what[:200]}'"
    names = [reference.feed for reference in references]
    failed = [
        one
        for one in compare(model, names, got, [r.outputs for r in references], tolerance)
        if not one.passed
    ]
    if not failed:
        return ""
    worst = max(failed, key=lambda one: one.max_abs_over_range)
    return f"output {worst.output} on {worst.feed} is {worst.max_abs_over_range:.2g} of its range off"
