"""Where a run's time goes: by node and by operator, and how much of it only moves data to another layout."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import numpy as np

from optim.errors import UserError
from pipeline.bench.records import NodeProfile, OpProfile, ProfileRecord
from pipeline.bench.trace import Trace

# Ops that compute nothing: they move data between layouts, devices or types.
LAYOUT_OPS: Final = frozenset(
    {"ReorderInput", "ReorderOutput", "Transpose", "MemcpyFromHost", "MemcpyToHost", "Reshape", "Cast"}
)
REORDERS: Final = frozenset({"ReorderInput", "ReorderOutput"})

ON_A_GPU: Final = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider"})
LAUNCHES: Final = (
    "of nodes on a GPU these times are what the host takes to launch them, not what the GPU takes to run them"
)


def profile(trace: Trace) -> ProfileRecord:
    """Medians over the runs of a trace.

    Raises:
        UserError: the trace holds no run or no node.
    """
    if not trace.events or not any(trace.events):
        raise UserError("the trace holds no executed node", hint="give the profiler more runs")
    times: dict[tuple[int, str], list[float]] = defaultdict(list)
    known = {}
    for run in trace.events:
        spent: dict[tuple[int, str], float] = defaultdict(float)
        for event in run:  # a node in a loop runs many times
            spent[event.index, event.node] += event.microseconds
            known[event.index, event.node] = event
        for key, value in spent.items():
            times[key].append(value)
    medians = {key: float(np.median(values)) for key, values in times.items()}
    total = sum(medians.values()) or 1.0
    nodes = sorted(
        (
            NodeProfile(
                node=key[1],
                op=known[key].op,
                provider=known[key].provider,
                median_us=value,
                share=value / total,
                output_shapes=known[key].output_shapes,
            )
            for key, value in medians.items()
        ),
        key=lambda n: -n.median_us,
    )
    run_us = float(np.median(trace.run_microseconds))
    layout = [n for n in nodes if n.op in LAYOUT_OPS]
    return ProfileRecord(
        runs=len(trace.events),
        run_us=run_us,
        nodes_us=sum(medians.values()),
        outside_us=max(0.0, run_us - sum(medians.values())),
        nodes=tuple(nodes),
        ops=_by_op(nodes),
        layout_nodes=len(layout),
        layout_share=sum(n.share for n in layout),
        reorders=sum(n.op in REORDERS for n in nodes),
        note=LAUNCHES if any(n.provider in ON_A_GPU for n in nodes) else "",
    )


def _by_op(nodes: list[NodeProfile]) -> tuple[OpProfile, ...]:
    groups: dict[str, list[NodeProfile]] = defaultdict(list)
    for node in nodes:
        groups[node.op].append(node)
    found = [
        OpProfile(
            op=op,
            nodes=len(own),
            median_us=sum(n.median_us for n in own),
            share=sum(n.share for n in own),
        )
        for op, own in groups.items()
    ]
    return tuple(sorted(found, key=lambda o: -o.median_us))
