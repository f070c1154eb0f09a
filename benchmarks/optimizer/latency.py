"""Latency of ``fast`` against the best of the raw model, onnxsim, onnxslim and ONNX Runtime's own optimiser.

All contenders run in ONNX Runtime with every optimisation on, one thread, batch 1, interleaved in one
measurement, in several processes each. What the tools make is kept in a folder, so that a network can be
measured again without making it again; ours chooses its sites by measuring, so it too wants a quiet machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.optimizer.nodes import Workers
from benchmarks.optimizer.tools import RAW, described, kept, session_outputs
from optim.model import load, save, signature
from optim.passes.freeze_shapes import FreezeShapes
from optim.probes import probes_for
from optim.verify import difference
from pipeline.bench.contender import Contender
from pipeline.bench.study import benchmark
from pipeline.config import BenchmarkConfig
from pipeline.records import BenchmarkRecord
from pipeline.sources.child import ChildLimits

OURS: Final = "fairlead fast"
CANONICAL: Final = "fairlead canonical"  # made for its Transposes and the reasons of those; not timed
PEERS: Final = ("onnxsim", "onnxslim", "onnxruntime basic", "onnxruntime extended", "onnxruntime all")
REACH: Final = {
    "vgg16": 0.68,
    "vgg16_keras": 0.68,
    "alexnet": 0.80,
    "mobilenet_v3_small": 0.80,
    "efficientnet_b0": 0.92,
    "densenet121": 0.93,
    "resnet50_v2": 0.97,
}
"""The bars, by network; every other network: no slower than the best peer, within the noise."""


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


def made(source: Path, folder: Path, size: int | None) -> tuple[dict[str, Path], dict[str, Any]]:
    """What each tool makes of a model: files by tool, and what is to say about each."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = frozen(source, folder / "raw.onnx", size)
    files, said = {RAW: raw}, {RAW: described(raw)}
    probes = probes_for(load(raw), batches=(1,))
    workers = Workers(ChildLimits(memory_mib=16384, time_s=345.0))
    try:
        for name in (CANONICAL, OURS, *PEERS):
            out, note = folder / f"{name.replace(' ', '_')}.onnx", folder / f"{name.replace(' ', '_')}.json"
            if not (out.is_file() and note.is_file()):
                run = workers.run(name, raw, out)
                if "failed" not in run:
                    run |= described(out) | kept(raw, out, probes)
                note.write_text(json.dumps(run, indent=1, default=str))
            said[name] = json.loads(note.read_text())
            if "failed" not in said[name] and name != CANONICAL:
                files[name] = out
    finally:
        workers.close()
    return files, said


def measured(files: Mapping[str, Path], seconds: float, processes: int) -> dict[str, Any]:
    """All contenders, interleaved; ours against each, and against the fastest of the others."""
    feeds = probes_for(load(files[RAW]), batches=(1,))[-1].feeds
    truth = session_outputs(files[RAW], feeds, optimized=False)
    apart = difference(session_outputs(files[OURS], feeds, optimized=True), truth)
    config = BenchmarkConfig(min_duration_s=seconds, max_duration_s=3 * seconds, min_samples=30)
    record = benchmark(
        [Contender(name=name, kind="onnx", model=str(file)) for name, file in files.items()],
        config, {1: feeds}, processes=processes,
    )  # fmt: skip
    return {
        "load_average": record.host["load_average"],
        "skipped": record.skipped,
        "optimized_max_abs_over_range": apart.max_abs_over_range,
        "contenders": {
            r.contender: {
                "latency_ms": r.latency_ms,
                "interval_ms": r.interval_ms,
                "samples": r.samples,
                "grade": r.grade,
            }
            for r in record.results
        },
        "against": {name: against(record, name) for name in files if name != OURS},
        "best": best(record),
    }


def against(record: BenchmarkRecord, other: str) -> dict[str, Any] | None:
    """Ours over ``other``: ratio of medians, its interval and the verdict."""
    for c in record.comparisons:
        if {c.a, c.b} == {other, OURS}:
            inverse = c.a == OURS
            return {
                "ratio": 1 / c.ratio if inverse else c.ratio,
                "interval": [1 / c.interval[1], 1 / c.interval[0]] if inverse else list(c.interval),
                "verdict": c.verdict,
                "of": c.b,
                "a_a_interval": c.a_a_ratio_interval,
            }
    return None


def best(record: BenchmarkRecord) -> dict[str, Any]:
    """Ours against the fastest of the raw model and all peers."""
    peers = {r.contender: r.latency_ms for r in record.results if r.contender != OURS}
    name = min(peers, key=lambda n: peers[n])
    return {"name": name, **(against(record, name) or {})}


def judged(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the network's bar is reached by the point estimate, and whether the interval allows it."""
    ratio, interval = found["best"].get("ratio"), found["best"].get("interval")
    if ratio is None or interval is None:
        return {"bar": None, "reached": None}
    bar = REACH.get(name)
    if bar is None:
        return {"bar": "1.00 + noise", "reached": bool(interval[0] <= 1.0)}
    return {"bar": bar, "reached": bool(ratio <= bar), "within_interval": bool(interval[0] <= bar)}
