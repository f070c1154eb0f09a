"""Intermediate values of a model as ONNX Runtime computes them, a few tensors at a time.

Exposing a tensor keeps a runtime from fusing across it, so with optimisations on the values are those of a
slightly different program; with them off they are exact. Memory is bounded: tensors are exposed in groups of
at most ``budget_bytes``, and the model runs once for each group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from optim.contract import Array, Feeds
from targets.light_model import light_model
from targets.reference import OptimizationLevel, OrtSession, Provider

BUDGET_BYTES = 256 << 20


def float_tensors(model: ir.Model) -> tuple[str, ...]:
    """Names of all values that the main graph's nodes compute, in order."""
    return tuple(v.name for node in model.graph for v in node.outputs if v.name)


def grouped(sizes: Mapping[str, int], budget_bytes: int) -> Iterator[tuple[str, ...]]:
    """Names in order, in groups whose sizes add up to at most the budget; a larger one stands alone."""
    group: list[str] = []
    total = 0
    for name, size in sizes.items():
        if group and total + size > budget_bytes:
            yield tuple(group)
            group, total = [], 0
        group.append(name)
        total += size
    if group:
        yield tuple(group)


def runtime_values(
    model: ir.Model | Path,
    feeds: Feeds,
    sizes: Mapping[str, int],
    *,
    optimization: OptimizationLevel = "off",
    threads: int = 1,
    providers: Sequence[Provider] = ("CPUExecutionProvider",),
    budget_bytes: int = BUDGET_BYTES,
) -> Iterator[tuple[str, Array]]:
    """(name, value) of the tensors named in ``sizes`` (bytes of each), in that order.

    Raises:
        UserError: the model computes no such tensor, or the feeds do not fit.
        UnsupportedModelError: ONNX Runtime cannot run the model.
    """
    opened = light_model(model) if isinstance(model, ir.Model) else model
    for names in grouped(sizes, budget_bytes):
        with OrtSession(
            opened, optimization=optimization, threads=threads, providers=providers, expose=names
        ) as session:
            outputs = session.run(feeds)
        for name in names:
            yield name, outputs.pop(name)
