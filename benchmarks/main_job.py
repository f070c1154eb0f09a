"""Figures of the main job: cold and cached `make demo`, the pipeline's overhead over its parts, start-up.

    python benchmarks/main_job.py [--repeats N] [--only help,overhead,demo]

- cold: `make demo` in a fresh clone of the committed tree with an empty environment and an empty home;
- cached: `make demo` again in the same clone;
- overhead: a whole run with an empty store, over the time of its conversion and its benchmark;
- start-up: `fairlead --help` as a whole process.

Writes `benchmarks/results/main_job.json` with every sample and the host's facts; what `--only` leaves out
stays as it is there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.bench.host import environment
from pipeline.bench.stats import median

REPOSITORY = Path(__file__).resolve().parent.parent
PARTS = ("help", "overhead", "demo")
RESULT = REPOSITORY / "benchmarks" / "results" / "main_job.json"


def timed(command: list[str], **options: Any) -> tuple[float, str]:
    """Wall seconds of a command and its output; it must succeed."""
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    seconds = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr[-3000:]}")
    return seconds, done.stdout


def demo_seconds(repeats: int) -> dict[str, list[float]]:
    """Cold and cached `make demo` in fresh clones."""
    found: dict[str, list[float]] = {"cold": [], "cached": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="fairlead-demo-") as folder:
            clone, home = Path(folder) / "clone", Path(folder) / "home"
            home.mkdir()
            subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
            kept = ("PATH", "LANG", "SSL_CERT_FILE")
            pip = {
                name: value for name, value in os.environ.items() if name in kept or name.startswith("PIP_")
            }
            options = {"cwd": clone, "env": {**pip, "HOME": str(home)}}
            found["cold"].append(timed(["make", "demo"], **options)[0])
            found["cached"].append(timed(["make", "demo"], **options)[0])
    return found


def overhead(repeats: int) -> list[dict[str, float]]:
    """Whole runs with an empty store, and the times of their parts as the record gives them."""
    samples = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="fairlead-run-") as folder:
            settings = [f"store={folder}/store", f"out={folder}/runs"]
            words = [word for setting in settings for word in ("--set", setting)]
            fairlead = [sys.executable, "-m", "pipeline.cli"]
            command = [*fairlead, "run", "configs/quickstart.yaml", "--json", "--quiet", *words]
            seconds, output = timed(command, cwd=REPOSITORY)
        record = json.loads(output)
        steps = {step["name"]: step["seconds"] for step in record["steps"]}
        parts = record["convert"]["seconds"] + record["benchmark"]["seconds"]
        samples.append({"whole_s": seconds, "parts_s": parts, "ratio": seconds / parts, **steps})
    return samples


def described(samples: list[float]) -> dict[str, Any]:
    """Median and the samples; its interval where they are enough for one."""
    return {"median": statistics.median(samples), "interval": median(samples).interval, "samples": samples}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--cold-repeats", type=int, default=1)
    parser.add_argument("--only", type=lambda text: set(text.split(",")), default=set(PARTS))
    options = parser.parse_args()
    if unknown := options.only - set(PARTS):
        parser.error(f"--only takes some of {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    if "help" in options.only:
        found = [timed([sys.executable, "-m", "pipeline.cli", "--help"])[0] for _ in range(20)]
        result["help_s"] = described(found)
    if "overhead" in options.only:
        runs = overhead(options.repeats)
        result |= {"overhead_ratio": described([run["ratio"] for run in runs]), "runs": runs}
    if "demo" in options.only:
        demo = demo_seconds(options.cold_repeats)
        result |= {"demo_cold_s": described(demo["cold"]), "demo_cached_s": described(demo["cached"])}
    result["host"] = environment()
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1, default=str) + "\n")
    for name, figures in result.items():
        if isinstance(figures, dict) and "median" in figures:
            print(f"{name:<16} {figures['median']:.3f}  {figures['interval']}")


if __name__ == "__main__":
    main()
