"""Which provider ran each node: proved by the executed nodes, not by the list the session was given."""

from __future__ import annotations

from optim.errors import GateNotMetError, UserError
from pipeline.bench.records import PlacedNode, PlacementRecord
from pipeline.bench.trace import Trace

COPIES = frozenset({"MemcpyFromHost", "MemcpyToHost"})


def placement(trace: Trace, wanted: str) -> PlacementRecord:
    """Providers of all executed nodes, in order of execution.

    Raises:
        UserError: nothing was executed, so nothing is proved.
    """
    first: dict[tuple[int, str], PlacedNode] = {}
    for run in trace.events:
        for event in run:
            placed = PlacedNode(node=event.node, op=event.op, provider=event.provider)
            first.setdefault((event.index, event.node), placed)
    if not first:
        raise UserError("the trace holds no executed node, so no placement is proved")
    nodes = tuple(first.values())
    return PlacementRecord(
        wanted=wanted,
        nodes=nodes,
        elsewhere=tuple(n for n in nodes if n.provider != wanted),
        copies=sum(n.op in COPIES for n in nodes),
    )


def require_placement(found: PlacementRecord, *, allow_fallback: bool = False) -> None:
    """Refuse a run that fell back to another provider, unless that is allowed.

    Raises:
        GateNotMetError: names the nodes.
    """
    if found.proved or allow_fallback:
        return
    shown = ", ".join(f"{n.node} ({n.op} on {n.provider})" for n in found.elsewhere[:5])
    more = f" and {len(found.elsewhere) - 5} more" if len(found.elsewhere) > 5 else ""
    raise GateNotMetError(
        f"{len(found.elsewhere)} of {len(found.nodes)} nodes did not run on {found.wanted}: {shown}{more}",
        expected=f"every node on {found.wanted}",
        hint="allow the fallback, or replace these operators",
    )
