"""Trace a model in ONNX Runtime, in a child process: its profiler's events and the graph it really ran.

``python -m pipeline.bench.trace`` reads one JSON request from stdin and writes the events into a folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from optim.contract import Feeds
from optim.errors import MissingRuntimeError, UnsupportedModelError
from pipeline.bench.contender import Contender
from pipeline.bench.cuda.libraries import preload
from pipeline.bench.worker import thread_environment

WARMUP_RUNS: Final = 3
TRACE_LIMIT_S: Final = 600.0
CPU: Final = "CPUExecutionProvider"


@dataclass(frozen=True)
class NodeEvent:
    """One execution of one node, as the profiler saw it. Shapes of activations; prepacked weights are not in
    it.
    """

    node: str
    op: str
    provider: str
    microseconds: float
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    output_dtypes: tuple[str, ...]
    index: int  # position of the node in the executed graph


@dataclass(frozen=True)
class Trace:
    """Events of the steady runs, in order, and the weights of the graph as ONNX Runtime optimised it."""

    events: tuple[tuple[NodeEvent, ...], ...]  # one tuple per run
    run_microseconds: tuple[float, ...]
    weight_shapes: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)  # by node name
    weight_bytes: Mapping[str, int] = field(default_factory=dict)  # by node name


def trace(
    contender: Contender, feeds: Feeds, *, runs: int = 20, providers: tuple[str, ...] = (CPU,)
) -> Trace:
    """Run ``contender`` (an ONNX model) with the profiler on.

    Raises:
        UnsupportedModelError: ONNX Runtime refuses the model; with its own words.
        MissingRuntimeError: ONNX Runtime is not installed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "feeds.npz", **feeds)  # type: ignore[arg-type]  # numpy types keywords as its options
        request = {
            "model": str(Path(contender.model).resolve()),
            "folder": name,
            "runs": runs + WARMUP_RUNS,
            "threads": contender.threads,
            "allow_spinning": contender.allow_spinning,
            "optimization": contender.optimization,
            "providers": list(providers),
        }
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.bench.trace"],
            input=json.dumps(request),
            text=True,
            capture_output=True,
            check=False,
            timeout=TRACE_LIMIT_S,
            env=_environment(contender),
        )
        if done.returncode == MissingRuntimeError.exit_code:
            raise MissingRuntimeError("ONNX Runtime is not installed", hint="pip install 'fairlead[cpu]'")
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise UnsupportedModelError(f"it cannot be traced: {said[-1]}", where=contender.model)
        events = json.loads((folder / "events.json").read_text())
        shapes, sizes = _weights(folder / "optimized.onnx")
    return Trace(*read_events(events, skip_runs=WARMUP_RUNS), weight_shapes=shapes, weight_bytes=sizes)


def read_events(
    events: list[dict[str, Any]], *, skip_runs: int
) -> tuple[tuple[tuple[NodeEvent, ...], ...], tuple[float, ...]]:
    """Node events grouped by run, and the runs' durations; the first ``skip_runs`` runs are left out."""
    ends = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == "model_run")[skip_runs:]
    nodes = [e for e in events if e.get("cat") == "Node" and str(e["name"]).endswith("_kernel_time")]
    nodes.sort(key=lambda e: e["ts"])
    runs = tuple(tuple(_node_event(e) for e in nodes if start <= e["ts"] < end) for start, end in ends)
    return runs, tuple(float(end - start) for start, end in ends)


def _node_event(event: dict[str, Any]) -> NodeEvent:
    arguments = event["args"]
    outputs = arguments.get("output_type_shape", [])
    return NodeEvent(
        node=str(event["name"]).removesuffix("_kernel_time"),
        op=arguments["op_name"],
        provider=arguments.get("provider", ""),
        microseconds=float(event["dur"]),
        input_shapes=tuple(_shape(entry) for entry in arguments.get("input_type_shape", [])),
        output_shapes=tuple(_shape(entry) for entry in outputs),
        output_dtypes=tuple(next(iter(entry), "") for entry in outputs),
        index=int(arguments.get("node_index", -1)),
    )


def _shape(entry: Mapping[str, list[int]]) -> tuple[int, ...]:
    return tuple(next(iter(entry.values()), []))


def _weights(optimized: Path) -> tuple[dict[str, tuple[tuple[int, ...], ...]], dict[str, int]]:
    """Shapes and bytes of each node's initializers in the graph as it ran, by node name."""
    import onnx

    shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
    sizes: dict[str, int] = {}
    if not optimized.exists():
        return shapes, sizes
    graph = onnx.load(optimized, load_external_data=False).graph
    known = {t.name: t for t in graph.initializer}
    for node in graph.node:
        own = [known[name] for name in node.input if name in known]
        shapes[node.name] = tuple(tuple(t.dims) for t in own)
        sizes[node.name] = sum(
            int(np.prod(t.dims)) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in own
        )
    return shapes, sizes


def _environment(contender: Contender) -> dict[str, str]:
    import os

    return {**os.environ, **thread_environment(contender.threads, allow_spinning=contender.allow_spinning)}


def _run(request: Mapping[str, Any]) -> None:
    """The child's part."""
    try:
        import onnxruntime as ort
    except ImportError:
        sys.exit(MissingRuntimeError.exit_code)
    from targets.reference import LEVELS

    if any("CUDA" in name for name in request["providers"]):
        preload(ort)
    folder = Path(request["folder"])
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[request["optimization"]])
    options.intra_op_num_threads = request["threads"]
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if request["allow_spinning"] else "0"
    )
    providers = list(request["providers"])
    session = ort.InferenceSession(request["model"], options, providers=providers, enable_fallback=0)
    with np.load(folder / "feeds.npz", allow_pickle=False) as arrays:
        feeds = {name: arrays[name] for name in arrays.files}
    for _ in range(request["runs"]):
        session.run(None, feeds)
    Path(session.end_profiling()).replace(folder / "events.json")


if __name__ == "__main__":
    _run(json.load(sys.stdin))
