"""In a child process: a source's own float64 run beside its own run and the converted graph's float64 run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from optim.errors import FairleadError
from pipeline.feeds import random
from pipeline.sources.contract import ConvertRequest
from pipeline.sources.conversion import convert_here
from pipeline.sources.sessions import open_native
from targets.reference import Float64Session
from tests.sources import tf_models, tf_ops

Distances = dict[str, float]


def of_model(name: str, file: str, folder: Path, progress: Any) -> Distances | str:
    """A model of ``tf_models``: ``apart`` (the two float64 runs) and ``rounding`` (its own), or why not."""
    tf_models.build(name, folder / file, progress)
    return _distances(ConvertRequest(str(folder / file)), folder, progress)


def of_operators(folder: Path, progress: Any) -> dict[str, Distances | str]:
    """Likewise for every graph of ``tf_ops`` that fixes its own shapes."""
    found: dict[str, Distances | str] = {}
    for name in tf_ops.names():
        tf_ops.build(name, folder / "net.pb", progress)
        try:
            found[name] = _distances(ConvertRequest(str(folder / "net.pb")), folder, progress)
        except FairleadError as error:
            found[name] = str(error)
    return found


def _distances(request: ConvertRequest, folder: Path, progress: Any) -> Distances | str:
    convert_here(request, folder / "net.onnx", progress)
    with open_native(request) as source:
        feed = random(source.inputs, 0, 2)
        try:
            own = source.run_float64(feed)  # type: ignore[attr-defined]
        except FairleadError as error:
            return error.what
        plain = source.run(feed)
    graph = Float64Session(folder / "net.onnx").run(feed)
    return {
        "apart": max(_share(own[key], graph[key]) for key in graph),
        "rounding": max(_share(own[key], plain[key]) for key in graph),
    }


def _share(x: Any, y: Any) -> float:
    """max|Δ| / range; infinite where the shapes differ."""
    if x.shape != y.shape:
        return float("inf")
    a, b = (np.asarray(v, np.float64) for v in (x, y))
    return float(np.abs(a - b).max() / (np.ptp(a) or 1.0)) if a.size else 0.0
