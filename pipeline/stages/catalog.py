"""The one table of stages, imported when a run needs them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from pipeline.records import (
    BenchmarkRecord,
    BundleRecord,
    ConvertRecord,
    OptimizeRecord,
    ParityRecord,
    Record,
)
from pipeline.stages.contract import Stage

# stage -> (module, record)
STAGES: Mapping[str, tuple[str, type[Record]]] = {
    "convert": ("pipeline.stages.convert", ConvertRecord),
    "optimize": ("pipeline.stages.optimize", OptimizeRecord),
    "parity": ("pipeline.stages.parity", ParityRecord),
    "benchmark": ("pipeline.stages.benchmark", BenchmarkRecord),
    "export": ("pipeline.stages.export", BundleRecord),
}


def stage_named(name: str) -> Stage:
    """The function of a stage."""
    module, _record = STAGES[name]
    stage: Stage = importlib.import_module(module).execute
    return stage
