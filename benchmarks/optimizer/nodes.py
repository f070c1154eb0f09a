"""Nodes and parity of every ONNX graph of the corpus, ours and the peers', each tool in a process of its own.

Counted are results that hold standard operators only; the best peer is the one with the fewest nodes whose
result also kept its outputs. A graph that the runtime cannot run unoptimised is listed and not counted:
nothing can be proved about it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.optimizer.tools import described, kept, probes_of, reason
from optim.errors import FairleadError
from pipeline.sources.child import Child, ChildLimits

_LIMITS: Final = ChildLimits(memory_mib=8192, time_s=200.0)
OURS: Final = "fairlead canonical"
PEERS: Final = (
    "onnxsim",
    "onnxslim",
    "onnxscript",
    "onnxoptimizer",
    "onnxruntime basic",
    "onnxruntime extended",
)


class Workers:
    """One warm child a tool; started anew after a crash or a hang."""

    def __init__(self, limits: ChildLimits = _LIMITS) -> None:
        self._limits = limits
        self._children: dict[str, Child] = {}

    def run(self, tool: str, source: Path, out: Path) -> dict[str, Any]:
        """What the tool said, or why it made nothing."""
        child = self._children.get(tool) or Child(self._limits)
        self._children[tool] = child
        try:
            return dict(child.call("benchmarks.optimizer.tools:run_tool", tool, str(source), str(out)).value)
        except FairleadError as error:
            self._children.pop(tool).close()
            return {"failed": str(error).splitlines()[0][:300]}

    def close(self) -> None:
        for child in self._children.values():
            child.close()


def compare_all(
    corpus: Path,
    known: Mapping[str, Mapping[str, Any]],
    *,
    part: tuple[int, int] = (0, 1),
    peers_again: bool = False,
    told: Callable[[str, list[Mapping[str, Any]]], None],
) -> list[Mapping[str, Any]]:
    """Our results on a part of the ONNX items of the corpus, and the peers' where they are not known.

    Args:
        corpus: its folder.
        known: earlier results by item name; what is not in this part stays, and so do the peers' figures.
        part: (i, n): every n-th graph from the i-th on, so that one run fits into a short window.
        peers_again: measure the peers too, though they are known.
        told: called with a line and all results so far, after each graph.
    """
    manifest = [i for i in json.loads((corpus / "manifest.json").read_text()) if i["kind"] == "onnx"]
    found: dict[str, Mapping[str, Any]] = {
        i["name"]: known[i["name"]] for i in manifest if i["name"] in known
    }
    workers = Workers()
    try:
        with tempfile.TemporaryDirectory(prefix="fairlead-nodes-") as folder:
            for item in manifest[part[0] :: part[1]]:
                before = found.get(item["name"], {}).get("tools", {})
                peers = {} if peers_again else {p: before[p] for p in PEERS if p in before}
                tools = (OURS, *(p for p in PEERS if p not in peers))
                one = _compare(workers, tools, item, corpus, Path(folder))
                if "tools" in one:
                    one["tools"] |= peers
                found[item["name"]] = one
                told(_line(one), list(found.values()))
    finally:
        workers.close()
    return list(found.values())


def _compare(
    workers: Workers, tools: Sequence[str], item: Mapping[str, Any], corpus: Path, folder: Path
) -> dict[str, Any]:
    source = corpus / item["dir"] / "model.onnx"
    found: dict[str, Any] = {"name": item["name"], "family": item["family"], "tools": {}}
    try:
        probes = probes_of(source)
        found["raw"] = described(source)
        own = kept(source, source, probes)
    except Exception as error:
        return {**found, "not_run": reason(error, source)}
    if own["parity"] is None:
        return {**found, "not_run": "ONNX Runtime runs the raw graph on no probe"}
    for tool in tools:
        out = folder / "out.onnx"
        for stale in folder.iterdir():
            stale.unlink()
        said = workers.run(tool, source, out)
        if "failed" not in said:
            try:
                said |= described(out) | kept(source, out, probes)
            except Exception as error:
                said |= {"parity": False, "why": reason(error, out)}
        said.pop("surviving_transposes", None)
        found["tools"][tool] = said
    return found


def best_peer(item: Mapping[str, Any]) -> tuple[str, int] | None:
    """The peer with the fewest nodes among those with standard operators only and unchanged outputs."""
    fit = {
        name: tool["nodes"]
        for name, tool in item["tools"].items()
        if name != OURS and tool.get("parity") and not tool["nodes_outside_standard"]
    }
    if not fit:
        return None
    name = min(fit, key=lambda n: fit[n])
    return name, fit[name]


def summary(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The bars: wrong graphs of each tool, graphs on which the best peer has fewer nodes, totals."""
    ran = [i for i in items if "not_run" not in i]
    tools: dict[str, Any] = {}
    for name in (OURS, *PEERS):
        results = [i["tools"][name] for i in ran if name in i["tools"]]
        if not results:
            continue
        tools[name] = {
            "kept": sum(bool(r.get("parity")) for r in results),
            "wrong": sum(r.get("parity") is False for r in results),
            "failed": sum("failed" in r for r in results),
            "nodes": sum(r["nodes"] for r in results if r.get("parity")),
            "foldable_affine": sum(r.get("foldable_affine", 0) for r in results if r.get("parity")),
            "transposes": sum(r["transposes"] for r in results if r.get("parity")),
        }
    pairs = [(i, best_peer(i)) for i in ran if i["tools"].get(OURS, {}).get("parity")]
    paired = [(i, b) for i, b in pairs if b is not None]
    more = [i["name"] for i, b in paired if i["tools"][OURS]["nodes"] > b[1]]
    ours = sum(i["tools"][OURS]["nodes"] for i, _ in paired)
    best = sum(b[1] for _, b in paired)
    single = {peer: _against(ran, peer) for peer in PEERS if any(peer in i["tools"] for i in ran)}
    return {
        "graphs": len(items),
        "ran": len(ran),
        "not_run": {i["name"]: i["not_run"] for i in items if "not_run" in i},
        "tools": tools,
        "compared": len(paired),
        "above_best_peer": more,
        "share_not_above": None if not paired else 1 - len(more) / len(paired),
        "nodes_raw": sum(i["raw"]["nodes"] for i, _ in paired),
        "nodes_ours": ours,
        "nodes_best_of_all_peers_graph_by_graph": best,
        "ratio_to_best_of_all_graph_by_graph": None if not best else ours / best,
        "against_each_peer": single,
    }


def _against(ran: Sequence[Mapping[str, Any]], peer: str) -> dict[str, Any]:
    """Totals on the graphs that both did with standard operators and kept."""
    both = [
        (i["tools"][OURS]["nodes"], i["tools"][peer]["nodes"])
        for i in ran
        if i["tools"].get(OURS, {}).get("parity")
        and i["tools"].get(peer, {}).get("parity")
        and not i["tools"][peer]["nodes_outside_standard"]
    ]
    ours, theirs = sum(a for a, _ in both), sum(b for _, b in both)
    return {"graphs": len(both), "ours": ours, "theirs": theirs, "ratio": ours / theirs if theirs else None}


def _line(item: Mapping[str, Any]) -> str:
    if "not_run" in item:
        return f"{item['name']}: not run: {item['not_run'][:100]}"
    best = best_peer(item)
    ours = item["tools"].get(OURS, {})
    mark = "WRONG " if ours.get("parity") is False or "failed" in ours else ""
    mark += "MORE " if best is not None and ours.get("nodes", 0) > best[1] else ""
    return f"{mark}{item['name']}: raw {item['raw']['nodes']} ours {ours.get('nodes', ours)} best {best}"
