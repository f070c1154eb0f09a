"""Is a verdict true? Equal models under background load, and models 5 % apart on a quiet machine.

    python -m benchmarks.honesty equal [--comparisons 200] [--minutes 5] [--load 1] [--out FILE]
    python -m benchmarks.honesty apart [--comparisons 200] [--minutes 5] [--load 0] [--out FILE]
    python -m benchmarks.honesty simulated [--trials 2000]

Each comparison starts fresh processes, as many of either network as a benchmark does, measures them as it
does, and asks for the verdict. *equal*: both are the same file, while bursty processes disturb the machine;
a verdict other than "no difference shown" is a false claim. *apart*: the other has more equal layers and
takes 5 % longer; "slower" must be found. *simulated*: the same statistics on synthetic latencies with known
differences between processes, many times. The result is written after each comparison; a further call with
the same settings on a like machine adds to it.
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
from pipeline.bench.stats import VERDICT_CONFIDENCE, Groups, compare_groups, judge, quantile
from pipeline.bench.study import LEAST_EFFECT, PROCESSES, calibration
from tests.bench.models import chain, feeds
from tests.bench.noise import Noise, measured

# 6 % more layers are 4.9 % more time: a call costs as much as 18 layers by itself, as measured.
LAYERS = {"equal": (100, 100), "apart": (100, 106)}
RESULTS = Path(__file__).parent / "results" / "honesty.json"
TRUE_VERDICT = {"equal": "no_difference_shown", "apart": "slower"}
NOISES = {
    "quiet": Noise(load=0.01, own=0.01, stolen=0.005, drift=0.02, process=0.005),
    "shared": Noise(),
    "slow waves": Noise(load=0.3, load_memory=0.999),
    "sensitive to memory": Noise(process=0.02),
}


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


def verdict(groups: Groups) -> Comparison:
    """What a benchmark of the contenders a and b would say."""
    ratio = compare_groups(groups, "a", "b")
    claim = judge(ratio, calibration(groups), least_effect=LEAST_EFFECT)
    return claim, ratio.value, ratio.low, ratio.high


def trial(models: tuple[Path, Path], schedule: Schedule, width: int, processes: int) -> Comparison:
    """One comparison in fresh processes."""
    contenders = [
        Contender(name=name, kind="onnx", model=str(model)) for name, model in zip("ab", models, strict=True)
    ]
    with Field(contenders, {"a": processes, "b": processes}) as field:
        timed, refused = field.measure(feeds(width=width), schedule)
    if refused:
        raise SystemExit(f"a contender refused: {refused}")
    return verdict({name: [t.blocks for t in group] for name, group in timed.items()})


def summary(what: str, found: list[Comparison]) -> dict[str, Any]:
    """Counts of verdicts, and what the ratios were."""
    verdicts = [c[0] for c in found]
    logs = np.log([c[1:] for c in found])
    right = verdicts.count(TRUE_VERDICT[what])
    return {
        "comparisons": len(found),
        "right": right / len(found),
        "right_interval_95": binomial_interval(right, len(found)),
        "faster": verdicts.count("faster"),
        "slower": verdicts.count("slower"),
        "no_difference_shown": verdicts.count("no_difference_shown"),
        "median_ratio": float(np.exp(np.median(logs[:, 0]))),
        "sd_log_ratio": float(np.std(logs[:, 0])),
        "median_half_width": float(np.median(logs[:, 2] - logs[:, 1]) / 2),
    }


def binomial_interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927)."""
    z = 1.959964
    p, d = successes / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / d
    half = z / d * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return round(centre - half, 4), round(centre + half, 4)


def earlier(whole: dict[str, Any], what: str, settings: dict[str, Any]) -> tuple[list[Comparison], float]:
    """Comparisons of an earlier, unfinished measurement with the same settings on a like host."""
    found = whole.get(what, {})
    if found.get("settings") != settings or unlike(found["host"], environment()):
        return [], 0.0
    return [tuple(c) for c in found["verdict_ratio_low_high"]], found["wall_s"]  # type: ignore[misc]


def write(out: Path, what: str, part: dict[str, Any]) -> None:
    """Put one part in place of its older self."""
    whole = json.loads(out.read_text()) if out.exists() else {}
    kept = {key: whole[key] for key in ("equal", "apart", "simulated") if "settings" in whole.get(key, {})}
    kept[what] = part
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_suffix(".part")
    aside.write_text(json.dumps(kept) + "\n")
    aside.replace(out)


def measure(what: str, given: argparse.Namespace) -> None:
    """Add comparisons until there are enough or the time is over."""
    settings = {
        "layers": list(LAYERS[what]),
        "width": given.width,
        "processes": given.processes,
        "seconds_per_contender": given.seconds,
        "background_processes": given.load,
        "confidence": VERDICT_CONFIDENCE,
        "least_effect": LEAST_EFFECT,
    }
    found, spent_s = earlier(json.loads(given.out.read_text()) if given.out.exists() else {}, what, settings)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, background_load(given.load):
        first, second = (
            chain(Path(folder) / f"{k}.onnx", layers=n, width=given.width) for k, n in enumerate(LAYERS[what])
        )
        while len(found) < given.comparisons and time.monotonic() - begin < 60 * given.minutes:
            schedule = Schedule(given.seconds, 10.0, min_samples=100, warmup_window_s=0.02, seed=len(found))
            one = trial((first, second), schedule, given.width, given.processes)
            found.append(one)
            print(f"{len(found)} {what}: {one[0]} {one[1]:.4f} [{one[2]:.4f}, {one[3]:.4f}]", flush=True)
            part = {
                "measured": datetime.now(UTC).isoformat(timespec="seconds"),
                "settings": settings,
                **summary(what, found),
                "load_average_at_the_end": os.getloadavg()[0],
                "wall_s": round(spent_s + time.monotonic() - begin, 1),
                "verdict_ratio_low_high": found,
                "host": environment(),
            }
            write(given.out, what, part)


def simulate(given: argparse.Namespace) -> None:
    """The statistics alone, on latencies whose truth is known."""
    settings = {"trials": given.trials, "processes": given.processes, "rounds": {"quiet": 60, "shared": 240}}
    rows = []
    for name, noise in NOISES.items():
        for effect in (0.0, 0.05):
            rng = np.random.default_rng([len(rows), 6])
            rounds = 240 if effect and name == "shared" else 60
            made = (
                measured(rng, effect=effect, noise=noise, rounds=rounds, processes=given.processes)
                for _ in range(given.trials)
            )
            verdicts = [verdict(groups)[0] for groups in made]
            shares = {
                v: verdicts.count(v) / given.trials for v in ("faster", "slower", "no_difference_shown")
            }
            rows.append({"noise": name, "true_effect": effect, "rounds": rounds, **shares})
            print(rows[-1], flush=True)
    parts = [interval_coverage(p, given.trials) for p in (0.5, 0.9, 0.99)]
    write(given.out, "simulated", {"settings": settings, "verdicts": rows, "percentile_coverage": parts})


def interval_coverage(p: float, trials: int) -> dict[str, Any]:
    """How often a percentile's 95 % interval holds the truth, on exponential latencies."""
    rng = np.random.default_rng([int(1000 * p), 7])
    truth = -np.log1p(-p)
    covered = {}
    for n in (400, 2000):
        intervals = [quantile(rng.exponential(size=n), p).interval for _ in range(trials)]
        covered[str(n)] = float(np.mean([i is not None and i[0] <= truth <= i[1] for i in intervals]))
    return {"p": p, "covered_by_samples": covered}


def main() -> None:
    """Measure, print, write; an unfinished measurement goes on where it was."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("what", choices=("equal", "apart", "simulated"))
    arguments.add_argument("--comparisons", type=int, default=200)
    arguments.add_argument("--minutes", type=float, default=5.0)
    arguments.add_argument("--load", type=int, help="bursty background processes; 1 for equal, 0 for apart")
    arguments.add_argument("--processes", type=int, default=PROCESSES, help="of each contender")
    arguments.add_argument("--width", type=int, default=64)
    arguments.add_argument("--seconds", type=float, default=0.4, help="measured per contender")
    arguments.add_argument("--trials", type=int, default=2000)
    arguments.add_argument("--out", type=Path, default=RESULTS)
    given = arguments.parse_args()
    if given.load is None:
        given.load = 1 if given.what == "equal" else 0
    if given.what == "simulated":
        simulate(given)
    else:
        measure(given.what, given)


if __name__ == "__main__":
    main()
