"""The optimiser against its peers: nodes, bytes, parity, and latency interleaved in one run.

    python -m benchmarks.optimizer MODEL.onnx [...] [--size N] [--seconds S] [--processes N] [--out FILE]

Ours: `canonical` and `fast`, certified. Peers: onnxsim, onnxslim, onnxscript's optimiser, and ONNX Runtime's
own, saved at each level; each in a process of its own with a time limit; those that are not installed or fail
are listed with the reason. Free dimensions besides the batch are first set to N for all alike. Every result
is opened by ONNX Runtime with all its optimisations on, batch 1, one thread; parity is taken against the raw
model with them off. Adds to `benchmarks/results/optimizer.json`, with the host's facts and the load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optim.contract import Feeds, Outputs
from optim.model import load, op_counts, save, signature, weight_bytes
from optim.passes.freeze_shapes import FreezeShapes
from optim.probes import probes_for
from optim.verify import PARITY_GATE, difference
from pipeline.bench.contender import Contender
from pipeline.bench.host import environment
from pipeline.bench.study import benchmark
from pipeline.config import BenchmarkConfig
from pipeline.records import BenchmarkRecord
from targets.reference import OrtSession

RESULT = Path(__file__).parent / "results" / "optimizer.json"
RAW = "raw"
LIMIT_S = 300  # of one tool on one model
_LEVELS = {"basic": "BASIC", "extended": "EXTENDED", "layout": "LAYOUT", "all": "ALL"}

OURS = (
    "import sys; from pathlib import Path; from pipeline.stages.optimize import optimize_file;"
    "r = optimize_file(Path(sys.argv[1]), Path(sys.argv[2]), recipe='{recipe}', progress=lambda t, f: None);"
    "print(r.model_dump_json(by_alias=True))"
)
PEERS = {
    "onnxsim": (
        "import sys, onnx, onnxsim; m, ok = onnxsim.simplify(sys.argv[1]); assert ok, 'its own check failed';"
        "onnx.save(m, sys.argv[2])"
    ),
    "onnxslim": "import sys, onnx, onnxslim; onnx.save(onnxslim.slim(sys.argv[1]), sys.argv[2])",
    "onnxscript": (
        "import sys, onnx, onnxscript.optimizer as o;"
        "onnx.save(o.optimize(onnx.load(sys.argv[1])), sys.argv[2])"
    ),
    **{
        f"onnxruntime {name}": (
            "import sys, onnxruntime as ort; o = ort.SessionOptions(); o.intra_op_num_threads = 1;"
            f"o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_{level};"
            "o.optimized_model_filepath = sys.argv[2]; o.log_severity_level = 3;"
            "ort.InferenceSession(sys.argv[1], o, providers=['CPUExecutionProvider'])"
        )
        for name, level in _LEVELS.items()
    },
}


def made_by(code: str, source: Path, out: Path) -> dict[str, Any]:
    """Run one tool in a process of its own: seconds, what it printed, or why it made nothing."""
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(source), str(out)],
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {LIMIT_S} s"}
    if done.returncode or not out.is_file():
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"failed": last[:300]}
    return {"seconds": time.perf_counter() - begin, "output": done.stdout}


def frozen(source: Path, out: Path, size: int | None) -> Path:
    """The model with its free dimensions, the batch apart, set to ``size``."""
    model = load(source)
    shapes = {
        spec.name: tuple(
            d if isinstance(d, int) and d > 0 else (1 if axis == 0 else size or 0)
            for axis, d in enumerate(spec.shape)
        )
        for spec in signature(model)[0]
        if any(not isinstance(d, int) or d < 1 for d in spec.shape[1:])
    }
    if not shapes:
        return source
    if size is None:
        raise SystemExit(f"{source}: inputs {sorted(shapes)} have free dimensions; give --size")
    FreezeShapes(shapes, batch=None).apply(model)
    save(model, out)
    return out


def outputs_of(model: Path, feeds: Feeds, *, optimized: bool) -> Outputs:
    """Outputs in ONNX Runtime."""
    with OrtSession(model, optimization="all" if optimized else "off") as session:
        return session.run(feeds)


def described(file: Path, feeds: Feeds, truth: Outputs) -> dict[str, Any]:
    """Nodes, bytes and parity of one result."""
    model = load(file)
    apart = difference(outputs_of(file, feeds, optimized=True), truth)
    foreign = sum(1 for node in model.graph if node.domain not in ("", "ai.onnx"))
    return {
        "nodes": sum(op_counts(model).values()),
        "nodes_outside_standard": foreign,
        "weight_bytes": weight_bytes(model),
        "max_abs_over_range": apart.max_abs_over_range,
        "snr_db": apart.snr_db,
        "parity": apart.max_abs_over_range <= PARITY_GATE,
    }


def compare(source: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All tools on one model."""
    raw = frozen(source, folder / "raw.onnx", options.size)
    feeds = probes_for(load(raw), batches=(1,))[-1].feeds
    truth = outputs_of(raw, feeds, optimized=False)
    codes = {f"fairlead {r}": OURS.format(recipe=r) for r in ("canonical", "fast")} | PEERS
    tools: dict[str, Any] = {RAW: described(raw, feeds, truth)}
    files = {RAW: raw}
    for name, code in codes.items():
        out = folder / f"{name.replace(' ', '_')}.onnx"
        run = made_by(code, raw, out)
        if "failed" not in run:
            printed = run.pop("output")
            run |= described(out, feeds, truth)
            files[name] = out
            if name.startswith("fairlead"):
                run |= _ledger(json.loads(printed))
        tools[name] = run
        print(f"  {name}: {json.dumps({k: v for k, v in run.items() if k != 'ledger'})}", flush=True)
    config = BenchmarkConfig(
        min_duration_s=options.seconds, max_duration_s=3 * options.seconds, min_samples=30
    )
    timed = benchmark(
        [Contender(name=name, kind="onnx", model=str(file)) for name, file in files.items()],
        config, {1: feeds}, processes=options.processes,
    )  # fmt: skip
    return {"tools": tools, "latency": _latency(timed), "best_peer": _best_peer(timed)}


def _ledger(record: dict[str, Any]) -> dict[str, Any]:
    lines = [
        {"pass": line["pass"], "sites": line["sites"], "rolled_back": len(line["rolled_back"])}
        for line in record["ledger"]
        if line["sites"] or line["rolled_back"]
    ]
    certificates = sum(line["certificate_seconds"] for line in record["ledger"])
    return {"ledger": lines, "certificate_seconds": certificates}


def _latency(record: BenchmarkRecord) -> dict[str, Any]:
    """Each contender against the raw model."""
    against_raw = {c.b: c for c in record.comparisons if c.a == RAW}
    return {
        "load_average": record.host["load_average"],
        "skipped": record.skipped,
        "contenders": {
            r.contender: {
                "latency_ms": r.latency_ms,
                "interval_ms": r.interval_ms,
                "samples": r.samples,
                "grade": r.grade,
                **_ratio(against_raw.get(r.contender)),
            }
            for r in record.results
        },
    }


def _ratio(comparison: Any) -> dict[str, Any]:
    if comparison is None:
        return {}
    return {"ratio": comparison.ratio, "interval": comparison.interval, "verdict": comparison.verdict}


def _best_peer(record: BenchmarkRecord) -> dict[str, Any]:
    """`fairlead fast` against the fastest of the raw model and all peers."""
    ours = "fairlead fast"
    peers = {r.contender: r.latency_ms for r in record.results if not r.contender.startswith("fairlead")}
    best = min(peers, key=lambda name: peers[name])
    for c in record.comparisons:
        if {c.a, c.b} == {best, ours}:
            inverse = c.a == ours
            ratio = 1 / c.ratio if inverse else c.ratio
            interval = (1 / c.interval[1], 1 / c.interval[0]) if inverse else c.interval
            return {"name": best, "ratio": ratio, "interval": interval, "verdict_of_b": c.verdict, "b": c.b}
    return {"name": best}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--size", type=int, help="what free dimensions besides the batch become")
    parser.add_argument("--seconds", type=float, default=5.0, help="least measured time of each contender")
    parser.add_argument("--processes", type=int, default=2, help="of each contender")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.is_file() else {"models": {}}
    for model in options.models:
        print(model.stem, flush=True)
        with tempfile.TemporaryDirectory(prefix="fairlead-optimizer-") as folder:
            found = compare(model, Path(folder), options)
        found |= {"at": datetime.now(UTC).isoformat(timespec="seconds"), "load_after": os.getloadavg()}
        results["models"][model.stem] = {**found, "host": environment()}
        for name, figures in found["latency"]["contenders"].items():
            print(f"  {name:24} {figures['latency_ms']:9.3f} ms  {figures.get('ratio', 1.0):.3f}", flush=True)
        print(f"  against the best peer: {found['best_peer']}", flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        partial = options.out.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=1, default=str) + "\n")
        partial.replace(options.out)


if __name__ == "__main__":
    main()
