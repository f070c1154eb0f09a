"""Which candidates are worth racing: what is expected of each from its graph alone and its threads alone.

Candidates are all combinations of a graph with its kernels and a setting of threads. Each graph is timed once
with the most threads, in the few calls of the parity check; the quickest of them is raced with every setting
of threads. The product of both ratios is what main effects without interaction predict for the rest (Box,
Hunter & Hunter, *Statistics for Experimenters*, 2nd ed., 5.2). Far behind the leader, nothing is raced.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

from pipeline.bench.contender import Contender

FAR: Final = 1.5  # times the leader's expected latency; interaction and noise are smaller than that
Runtime: TypeAlias = Literal["onnxruntime", "openvino", "cuda"]
Numerics: TypeAlias = tuple[str, str, str]
Threads: TypeAlias = tuple[int, bool]


def runtime_of(one: Contender) -> Runtime:
    """Whose bundle the candidate's settings would go into; what a GPU does best says nothing of the CPU."""
    if one.device == "cuda":
        return "cuda"
    return "openvino" if one.kind == "openvino" else "onnxruntime"


def numerics(one: Contender) -> Numerics:
    """What decides the numbers that come out: the runtime, the graph, the kernels; on a GPU its options."""
    if one.device == "cpu":
        return one.kind, one.model, one.optimization
    stated = "as installed" if one.cuda is None else one.cuda.model_dump_json()
    return one.kind, one.model, f"{one.optimization}, cuda {stated}"


def threads(one: Contender) -> Threads:
    """The setting of threads: how many, and whether they spin."""
    return one.threads, one.allow_spinning


def with_most_threads(candidates: Sequence[Contender]) -> dict[Numerics, Contender]:
    """Of each graph with its kernels the candidate with the most threads, the spinning one of two."""
    return {numerics(one): one for one in sorted(candidates, key=threads)}


def quickest_graphs(candidates: Sequence[Contender], graph_ms: Mapping[Numerics, float]) -> list[list[str]]:
    """Names of the candidates of each runtime's quickest graph.

    Args:
        candidates: those in the race.
        graph_ms: latency of each graph with its kernels; a runtime without any has no heat.
    """
    heats = []
    for runtime in dict.fromkeys(runtime_of(one) for one in candidates):
        own = [c for c in candidates if runtime_of(c) == runtime and numerics(c) in graph_ms]
        best = min((numerics(c) for c in own), key=lambda key: graph_ms[key], default=None)
        heats.append([c.name for c in own if numerics(c) == best])
    return [heat for heat in heats if heat]


def expected(
    candidates: Sequence[Contender], graph_ms: Mapping[Numerics, float], levels: Mapping[str, float]
) -> dict[str, float]:
    """Latency of each candidate over its runtime's best, as main effects predict it, where they are known.

    Args:
        candidates: all, those too that have left the race.
        graph_ms: latency of each graph with its kernels, with the most threads.
        levels: measured latencies, by name, of the quickest graph's candidates.
    """
    found: dict[str, float] = {}
    for heat in quickest_graphs(candidates, graph_ms):
        by_name = {c.name: c for c in candidates}
        of_threads = {threads(by_name[name]): levels[name] for name in heat if name in levels}
        own = [c for c in candidates if runtime_of(c) == runtime_of(by_name[heat[0]])]
        least = graph_ms[numerics(by_name[heat[0]])] * min(of_threads.values(), default=math.nan)
        found |= {
            c.name: graph_ms[numerics(c)] * of_threads[threads(c)] / least
            for c in own
            if numerics(c) in graph_ms and threads(c) in of_threads
        }
    return found
