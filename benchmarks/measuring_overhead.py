"""What the timing loop itself adds to each inference: the worker's loop round a call that does nothing.

    python -m benchmarks.measuring_overhead [--out FILE]

The empty call is there in both: an untimed loop of the same calls is subtracted. Loops are timed by this
process's CPU time, so that other people's work does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from optim.contract import Feeds, Outputs
from pipeline.bench.host import environment
from pipeline.bench.worker import time_runs

RUNS = 20_000
REPEATS = 50


def nothing(_feeds: Feeds) -> Outputs:
    """The cheapest session there is."""
    return {}


def untimed_ns() -> float:
    """Nanoseconds of one call in a bare loop."""
    feeds: Feeds = {}
    begin = time.process_time_ns()
    for _ in range(RUNS):
        nothing(feeds)
    return (time.process_time_ns() - begin) / RUNS


def timed_ns() -> tuple[float, float]:
    """Nanoseconds of one call in the worker's loop: of the whole loop, and as each sample reports it."""
    begin = time.process_time_ns()
    samples = time_runs(nothing, {}, RUNS)
    return (time.process_time_ns() - begin) / RUNS, float(np.median(samples))


def main() -> None:
    """Measure, print, write."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    default = Path(__file__).parent / "results" / "measuring_overhead.json"
    arguments.add_argument("--out", type=Path, default=default)
    given = arguments.parse_args()
    bare = [untimed_ns() for _ in range(REPEATS)]
    loops = [timed_ns() for _ in range(REPEATS)]
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
        "host": environment(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({k: v for k, v in found.items() if k != "host"}, indent=1))


if __name__ == "__main__":
    main()
