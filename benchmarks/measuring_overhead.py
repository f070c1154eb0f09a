"""What measuring adds to each inference, above the runtime's own call: at most 2 µs is allowed.

    python -m benchmarks.measuring_overhead [--out FILE]

Two parts. *loop*: the worker's timed loop round a call that does nothing, less a bare loop of the same calls,
by this process's CPU time, so that other people's work does not count. *call*: the call that is timed for an
ONNX model (arguments bound beforehand) against ``InferenceSession.run`` written out by hand, on a one-node
model, interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime as ort

from pipeline.bench.callers import OrtCaller
from pipeline.bench.contender import Contender
from pipeline.bench.host import environment
from pipeline.bench.worker import time_runs
from tests.bench.models import chain, feeds

RUNS = 20_000
REPEATS = 50


def nothing() -> None:
    """The cheapest call there is."""


def untimed_ns() -> float:
    """Nanoseconds of one call in a bare loop."""
    begin = time.process_time_ns()
    for _ in range(RUNS):
        nothing()
    return (time.process_time_ns() - begin) / RUNS


def call_ns() -> tuple[float, float]:
    """Median nanoseconds of our bound call and of ``session.run`` written out, interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        model = chain(Path(folder) / "m.onnx", layers=1, width=8)
        given = feeds(width=8)
        bound = OrtCaller(Contender(name="m", kind="onnx", model=str(model))).bind(given)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

        def by_hand() -> object:
            return session.run(["y"], given)

        ours, theirs = [], []
        for _ in range(REPEATS):
            ours.append(np.median(time_runs(bound, 400)))
            theirs.append(np.median(time_runs(by_hand, 400)))
    return float(np.median(ours)), float(np.median(theirs))


def timed_ns() -> tuple[float, float]:
    """Nanoseconds of one call in the worker's loop: of the whole loop, and as each sample reports it."""
    begin = time.process_time_ns()
    samples = time_runs(nothing, RUNS)
    return (time.process_time_ns() - begin) / RUNS, float(np.median(samples))


def main() -> None:
    """Measure, print, write."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    default = Path(__file__).parent / "results" / "measuring_overhead.json"
    arguments.add_argument("--out", type=Path, default=default)
    given = arguments.parse_args()
    bare = [untimed_ns() for _ in range(REPEATS)]
    loops = [timed_ns() for _ in range(REPEATS)]
    ours, theirs = call_ns()
    added = [whole - empty for (whole, _), empty in zip(loops, bare, strict=True)]
    found = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": os.getloadavg()[0],
        "added_per_run_ns": {
            "median": float(np.median(added)),
            "worst": max(added),
            "bound": 2000,
        },
        "inside_a_sample_ns": float(np.median([sample for _, sample in loops])),
        "call_ns": {"bound": ours, "session_run_by_hand": theirs, "added": ours - theirs},
        "host": environment(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({k: v for k, v in found.items() if k != "host"}, indent=1))


if __name__ == "__main__":
    main()
