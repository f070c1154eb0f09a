"""The optimiser against its peers: one part of the evidence at a time, merged into one file.

    python -m benchmarks.optimizer nodes [--part-of I/N]          nodes and parity on every ONNX graph
    python -m benchmarks.optimizer latency MODEL.onnx... [--size N] [--seconds S] [--processes N] [--work DIR]
    python -m benchmarks.optimizer seconds MODEL.onnx...          time of `canonical` on real networks
    python -m benchmarks.optimizer scale [--nodes N...]           deep graphs
    python -m benchmarks.optimizer weights                        2.25 GiB of weights beside the model
    python -m benchmarks.optimizer table                          all bars, from what has been measured

Ours: `canonical` and `fast`. Peers: onnxsim, onnxslim, onnxscript's optimiser, onnxoptimizer, and ONNX
Runtime's own, saved at each level; each in a process of its own with a time limit; those that fail are listed
with the reason. Adds to `benchmarks/results/optimizer.json`, with the host's facts and the load.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.corpus_score import default_corpus
from benchmarks.optimizer.latency import CANONICAL, judged, made, measured
from benchmarks.optimizer.nodes import compare_all, summary
from benchmarks.optimizer.scale import CHAINS, SIZES, large_weights, seconds_on, time_chain, totals
from benchmarks.optimizer.scale import judged as judged_scale
from pipeline.bench.host import environment

RESULT = Path(__file__).parent.parent / "results" / "optimizer.json"


def _nodes(options: argparse.Namespace, results: dict[str, Any]) -> None:
    known = {item["name"]: item for item in results.get("nodes", {}).get("items", [])}

    def told(line: str, items: list[Mapping[str, Any]]) -> None:
        _say(line)
        results["nodes"] = {"items": items, "summary": summary(items)}
        _write(options.out, results)

    first, of = (int(n) for n in options.part_of.split("/"))
    items = compare_all(options.corpus, known, part=(first, of), peers_again=options.peers_again, told=told)
    results["nodes"] = _stamped({"items": items, "summary": summary(items)})


def _latency(options: argparse.Namespace, results: dict[str, Any]) -> None:
    for model in options.models:
        with tempfile.TemporaryDirectory(prefix="fairlead-optimizer-") as aside:
            folder = (options.work or Path(aside)) / model.stem
            files, said = made(model, folder, options.size)
            if options.make_only:
                continue
            found = measured(files, options.seconds, options.processes)
        verdict = judged(model.stem, found)
        results.setdefault("latency", {})[model.stem] = _stamped(
            {**found, **verdict, "canonical": said[CANONICAL], "tools": said}
        )
        _say(f"{model.stem}: {json.dumps(found['best'])} {verdict}")
        _write(options.out, results)


def _seconds(options: argparse.Namespace, results: dict[str, Any]) -> None:
    networks = results.get("seconds", {}).get("networks", {})
    for model in options.models:
        networks[model.stem] = seconds_on(model)
    results["seconds"] = _stamped({"networks": networks, **totals(networks)})


def _scale(options: argparse.Namespace, results: dict[str, Any]) -> None:
    found = results.get("deep_graphs", {})
    for kind in CHAINS:
        runs = {run["nodes"]: run for run in found.get(kind, {}).get("runs", [])}
        for size in options.nodes:
            run = time_chain(kind, size)
            runs[run["nodes"]] = run
        found[kind] = judged_scale(list(runs.values()))
    results["deep_graphs"] = _stamped(found)


def _weights(_options: argparse.Namespace, results: dict[str, Any]) -> None:
    results["large_weights"] = _stamped(large_weights())


def _table(_options: argparse.Namespace, _results: dict[str, Any]) -> None:
    """Only prints."""


def _stamped(found: dict[str, Any]) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {**found, "at": now, "load_after": os.getloadavg(), "host": environment()}


def table(results: Mapping[str, Any]) -> list[str]:
    """One line a bar: what is asked, what was measured."""
    lines: list[str] = []
    if "nodes" in results:
        s = results["nodes"]["summary"]
        ours = s["tools"]["fairlead canonical"]
        lines += [
            f"parity over corpus graphs | 100 % | {ours['kept']} of {s['ran']} run, wrong {ours['wrong']}",
            f"nodes <= best peer | >= 97 % of graphs | {100 * s['share_not_above']:.1f} % of {s['compared']}",
        ]
        lines.append(f"scales and shifts left behind convolutions | 0 | {ours['foldable_affine']}")
        for peer, total in s["against_each_peer"].items():
            lines.append(
                f"nodes in total against {peer} | <= 0.95 | {total['ratio']:.3f} ({total['graphs']} graphs)"
            )
        best = s["ratio_to_best_of_all_graph_by_graph"]
        lines.append(f"nodes in total against the best, graph by graph | | {best:.3f}")
    for name, one in sorted(results.get("latency", {}).items()):
        ratio, interval = one["best"].get("ratio"), one["best"].get("interval")
        shown = "" if ratio is None else f"{ratio:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
        lines.append(
            f"latency {name} against {one['best']['name']} | {one['bar']} | {shown} {one['reached']}"
        )
        canonical = one.get("canonical")
        if canonical is not None:
            reasons = len(canonical["surviving_transposes"])
            lines.append(
                f"{name}: Transposes, foldable affine | 0 or a reason each, 0"
                f" | {canonical['transposes']} ({reasons} reasons), {canonical['foldable_affine']}"
            )
    for kind, chain in results.get("deep_graphs", {}).items():
        if isinstance(chain, Mapping) and "runs" in chain:
            last = chain["runs"][-1]
            lines.append(
                f"{last['nodes']} nodes, {kind} chain | <= 5 s, linear"
                f" | {last['processor_seconds']:.2f} s of the processor ({last['seconds']:.2f} on the clock),"
                f" exponent {chain['exponent'] or math.nan:.2f}"
            )
    if "large_weights" in results:
        w = results["large_weights"]
        lines.append(
            f"{w['weights_mib']:.0f} MiB of weights, peak | <= {512 + w['largest_tensor_mib']:.0f} MiB"
            f" | {w['peak_before_saving_mib']:.0f} MiB, while saving {w['peak_while_saving_mib']:.0f} MiB"
        )
    if "seconds" in results:
        shown = ", ".join(
            f"{tool} {total['processor_seconds']:.2f} s ({total['seconds']:.2f} on the clock)"
            for tool, total in results["seconds"]["totals"].items()
        )
        lines.append(
            f"time of canonical on {len(results['seconds']['networks'])} networks | <= fastest peer | {shown}"
        )
    return lines


def _say(line: str) -> None:
    print(line, flush=True)


def _write(file: Path, results: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1, default=str) + "\n")
    partial.replace(file)


PARTS: dict[str, Callable[[argparse.Namespace, dict[str, Any]], None]] = {
    "nodes": _nodes,
    "latency": _latency,
    "seconds": _seconds,
    "scale": _scale,
    "weights": _weights,
    "table": _table,
}


def main() -> None:
    """Measure one part, merge, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--corpus", type=Path, default=default_corpus())
    parser.add_argument(
        "--part-of", default="0/1", help="i/n: every n-th graph of the corpus from the i-th on"
    )
    parser.add_argument("--peers-again", action="store_true", help="count the peers' nodes anew")
    parser.add_argument("--nodes", type=int, nargs="+", default=SIZES, help="sizes of the deep graphs")
    parser.add_argument("--size", type=int, help="what free dimensions besides the batch become")
    parser.add_argument("--seconds", type=float, default=5.0, help="least measured time of each contender")
    parser.add_argument("--processes", type=int, default=2, help="of each contender")
    parser.add_argument("--work", type=Path, help="where what the tools make is kept and found again")
    parser.add_argument("--make-only", action="store_true", help="make the files, measure later")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.part in ("latency", "seconds") and not options.models:
        parser.error("give the models")
    results = json.loads(options.out.read_text()) if options.out.is_file() else {}
    PARTS[options.part](options, results)
    _write(options.out, results)
    for line in table(results):
        _say(line)


if __name__ == "__main__":
    main()
