"""Is a verdict true? Equal models and models 5 % apart, through real child processes, under background load.

    python -m benchmarks.honesty [--comparisons 200] [--minutes 30] [--load 1] [--out FILE]

Each trial starts fresh processes: twice as many of network A as a comparison takes, and as many of network
B, which has 5 % more equal layers. Half of the A processes against the other half must show no difference;
B against A must show that it is slower. The result is written after each trial, with the number reached; a
further call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bench.contender import Contender
from pipeline.bench.host import environment, unlike
from pipeline.bench.measure import Field, Schedule
from pipeline.bench.stats import VERDICT_CONFIDENCE, compare_groups, judge
from pipeline.bench.study import LEAST_EFFECT, calibration
from tests.bench.models import chain, feeds

LAYERS = (100, 105)  # 5 % more work; a little less in time, for the cost of the call itself
RESULTS = Path(__file__).parent / "results"


def _burn() -> None:
    """Work in bursts of uneven length, as other people's jobs do."""
    rng = np.random.default_rng(os.getpid())
    while True:
        end = time.monotonic() + rng.exponential(0.3)
        while time.monotonic() < end:
            pass
        time.sleep(rng.exponential(0.3))


@contextmanager
def background_load(processes: int) -> Iterator[None]:
    """Disturb the machine with so many bursty processes."""
    burners = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(processes)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.terminate()
            burner.join()


Comparison = tuple[str, float, float, float]  # verdict, ratio, low, high


def trial(
    models: tuple[Path, Path], processes: int, schedule: Schedule, width: int
) -> tuple[Comparison, Comparison]:
    """One A/A and one A/B comparison."""
    a = Contender(name="a", kind="onnx", model=str(models[0]))
    again = a.model_copy(update={"name": "again"})
    b = Contender(name="b", kind="onnx", model=str(models[1]))
    counts = {"a": processes, "again": processes, "b": processes}
    with Field([a, again, b], counts) as field:
        timed, refused = field.measure(feeds(width=width), schedule)
    if refused:
        raise SystemExit(f"a contender refused: {refused}")
    groups = {name: [t.blocks for t in group] for name, group in timed.items()}

    def verdict(one: str, other: str) -> Comparison:
        pair = {one: groups[one], other: groups[other]}  # as a benchmark of these two would see it
        ratio = compare_groups(pair, one, other)
        claim = judge(ratio, calibration(pair), least_effect=LEAST_EFFECT)
        return claim, ratio.value, ratio.low, ratio.high

    return verdict("a", "again"), verdict("a", "b")


def summary(found: list[Comparison]) -> dict[str, Any]:
    """Counts of verdicts, and what the ratios were."""
    verdicts = [c[0] for c in found]
    logs = np.log([c[1:] for c in found])
    return {
        "comparisons": len(found),
        "faster": verdicts.count("faster"),
        "slower": verdicts.count("slower"),
        "no_difference_shown": verdicts.count("no_difference_shown"),
        "median_ratio": float(np.exp(np.median(logs[:, 0]))),
        "sd_log_ratio": float(np.std(logs[:, 0])),
        "median_half_width": float(np.median(logs[:, 2] - logs[:, 1]) / 2),
        "verdict_ratio_low_high": found,
    }


def earlier(out: Path, settings: dict[str, Any]) -> tuple[list[Comparison], list[Comparison], float]:
    """Comparisons of an earlier, unfinished measurement with the same settings on a like host."""
    if not out.exists():
        return [], [], 0.0
    found = json.loads(out.read_text())
    if found.get("settings") != settings or unlike(found["host"], environment()):
        return [], [], 0.0
    kept = ([tuple(c) for c in found[key]["verdict_ratio_low_high"]] for key in ("equal", "apart"))
    return *kept, found["wall_s"]  # type: ignore[return-value]


def write(
    out: Path, settings: dict[str, Any], equal: list[Comparison], apart: list[Comparison], wall_s: float
) -> None:
    """Write what was found, aside and then in place."""
    result = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
        "false_claims": sum(c[0] != "no_difference_shown" for c in equal) / len(equal),
        "found": sum(c[0] == "slower" for c in apart) / len(apart),
        "load_average_at_the_end": os.getloadavg()[0],
        "wall_s": round(wall_s, 1),
        "equal": summary(equal),
        "apart": summary(apart),
        "host": environment(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_suffix(".part")
    aside.write_text(json.dumps(result) + "\n")
    aside.replace(out)


def main() -> None:
    """Measure, print, write; an unfinished measurement goes on where it was."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--comparisons", type=int, default=200)
    arguments.add_argument("--minutes", type=float, default=30.0)
    arguments.add_argument("--load", type=int, default=1, help="bursty background processes")
    arguments.add_argument("--processes", type=int, default=4, help="of each contender")
    arguments.add_argument("--width", type=int, default=64)
    arguments.add_argument("--seconds", type=float, default=0.4, help="measured per contender")
    arguments.add_argument("--out", type=Path, default=RESULTS / "honesty.json")
    given = arguments.parse_args()
    settings = {
        "layers": list(LAYERS),
        "width": given.width,
        "processes": given.processes,
        "seconds_per_contender": given.seconds,
        "background_processes": given.load,
        "confidence": VERDICT_CONFIDENCE,
        "least_effect": LEAST_EFFECT,
    }
    equal, apart, spent_s = earlier(given.out, settings)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, background_load(given.load):
        models = tuple(chain(Path(folder) / f"{n}.onnx", layers=n, width=given.width) for n in LAYERS)
        while len(equal) < given.comparisons and time.monotonic() - begin < 60 * given.minutes:
            schedule = Schedule(given.seconds, 10.0, min_samples=100, seed=len(equal))
            same, different = trial((models[0], models[1]), given.processes, schedule, given.width)
            equal.append(same)
            apart.append(different)
            print(f"{len(equal)}: equal {_shown(same)}; 5 % apart {_shown(different)}", flush=True)
            write(given.out, settings, equal, apart, spent_s + time.monotonic() - begin)


def _shown(c: Comparison) -> str:
    return f"{c[0]} {c[1]:.4f} [{c[2]:.4f}, {c[3]:.4f}]"


if __name__ == "__main__":
    main()
