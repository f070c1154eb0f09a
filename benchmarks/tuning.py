"""Does the tuner find what an exhaustive search finds, in a fifth of its time, and is the result worth it?

    python -m benchmarks.tuning make NETWORK...             the variants of the graph, to be measured later
    python -m benchmarks.tuning search NETWORK... [--seconds S]
    python -m benchmarks.tuning bundle NETWORK... [--seconds S] [--budget-s S]
    python -m benchmarks.tuning table

*search*: every combination of the tuner's settings, I/O binding too, is measured in processes of its own, a
few at a time beside the default, which is what they are compared by. Then the tuner gets 20 % of that time,
and its choice meets the exhaustive one in fresh processes. Making variants of the graph is not counted for
either. *bundle*: the tuner's choice, and its best for ONNX Runtime, against a session with default settings
on the converted model (all threads, spinning) and against OpenVINO on it at float32, all as a user gets them.
Networks are the zoo's (`make zoo`); the references are the converted model's own answers without
optimisations. Adds to `benchmarks/results/tuning.json`, with the host's facts.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.zoo import REPOSITORY, built, network
from optim.contract import Feeds
from pipeline.affinity import usable_cpu_count
from pipeline.bench.candidates import cpu_candidates, refinements
from pipeline.bench.contender import Contender
from pipeline.bench.host import environment
from pipeline.bench.measure import Field, Schedule
from pipeline.bench.records import TuneRecord
from pipeline.bench.stats import Groups, compare_groups, judge
from pipeline.bench.study import LEAST_EFFECT, calibration
from pipeline.bench.tune import Race, tune
from pipeline.bench.tune_model import parity_on
from pipeline.config import TuneConfig
from pipeline.stages.optimize import optimize_file
from targets.closeness import Gate
from targets.reference import OrtSession
from targets.references import Reference

RESULT: Final = Path(__file__).parent / "results" / "tuning.json"
VARIANTS: Final = REPOSITORY / ".fairlead" / "benchmarks" / "variants"
RECIPES: Final = ("canonical", "fast")
SHARE: Final = 0.2  # of the exhaustive search's time, for the tuner
HEAT: Final = 5  # candidates beside the default
SEARCH_PROCESSES: Final = 2
FINAL_PROCESSES: Final = 4
LEAST_FINAL_S: Final = 4.0  # of each contender: an interval of a few per cent takes as long


@dataclass(frozen=True)
class Subject:
    """A network of the zoo in all its graphs, with one input and the answers that are right."""

    name: str
    models: Mapping[str, Path]
    feeds: Feeds
    default: Contender  # what a session with no settings gives

    @property
    def candidates(self) -> tuple[Contender, ...]:
        """What the tuner may choose from, the default first."""
        return cpu_candidates(self.default, self.models, TuneConfig())

    def tuned(self, budget_s: float) -> TuneRecord:
        """The tuner's answer."""
        zeros = {name: np.zeros_like(array) for name, array in self.feeds.items()}
        with OrtSession(self.models["raw"], optimization="off") as right:
            references = [
                Reference(name, feeds, right.run(feeds))
                for name, feeds in (("data", self.feeds), ("zeros", zeros))
            ]
        with tempfile.TemporaryDirectory(prefix="fairlead-tuning-") as folder:
            recipes = {str(path): label for label, path in self.models.items()}
            race = Race(budget_s=budget_s, state=Path(folder) / "race.json", recipes=recipes)
            return tune(
                self.candidates,
                self.feeds,
                race,
                parity=parity_on(references, Gate(), self.models["raw"]),
                refine=lambda winner: refinements(winner, TuneConfig()),
            )


def subject(name: str) -> Subject:
    """Convert the network and make its variants, unless that has been done."""
    found = network(name)
    models = {"raw": found.raw}
    for recipe in RECIPES:
        out = VARIANTS / f"{name}.{recipe}.onnx"
        if not out.is_file() or out.stat().st_mtime < found.raw.stat().st_mtime:
            VARIANTS.mkdir(parents=True, exist_ok=True)
            optimize_file(found.raw, out, recipe=recipe, progress=lambda _what, _share: None)
        models[recipe] = out
    threads = usable_cpu_count()
    default = Contender(
        name="default session",
        kind="onnx",
        model=str(found.raw),
        threads=threads,
        allow_spinning=threads > 1,
    )
    return Subject(name, models, found.feed, default)


# --- the exhaustive search -------------------------------------------------------------------------


def exhaustive(chosen: Subject, seconds: float) -> dict[str, Any]:
    """Every candidate's latency over the default's, measured beside it; the best, and the time of it all."""
    begin = time.perf_counter()
    everything = [
        one for c in chosen.candidates for one in (c, *refinements(c, TuneConfig())) if one != chosen.default
    ]
    ratios: dict[str, float] = {}
    for start in range(0, len(everything), HEAT):
        heat = everything[start : start + HEAT]
        groups = _timed([chosen.default, *heat], chosen.feeds, seconds, seed=start)
        ratios |= {
            one.name: compare_groups(groups, chosen.default.name, one.name).value
            for one in heat
            if one.name in groups
        }
    best = min(ratios, key=lambda name: ratios[name])
    return {
        "candidates": len(everything) + 1,
        "seconds": time.perf_counter() - begin,
        "best": next(one for one in everything if one.name == best) if ratios[best] < 1 else chosen.default,
        "ratios": ratios,
    }


def _timed(
    contenders: Sequence[Contender],
    feeds: Feeds,
    seconds: float,
    *,
    seed: int,
    processes: int = SEARCH_PROCESSES,
) -> Groups:
    schedule = Schedule(seconds, 3 * seconds + 1, min_samples=20, seed=seed)
    with Field(contenders, {c.name: processes for c in contenders}) as field:
        timed, _refused = field.measure(feeds, schedule)
    return {name: [t.blocks for t in group] for name, group in timed.items()}


def search(name: str, seconds: float) -> dict[str, Any]:
    """Exhaustive search, the tuner in a fifth of its time, and their choices against each other."""
    chosen = subject(name)
    whole = exhaustive(chosen, seconds)
    record = chosen.tuned(SHARE * whole["seconds"])
    by_hand, tuned = whole.pop("best"), record.winner.contender
    same = tuned.model_copy(update={"name": ""}) == by_hand.model_copy(update={"name": ""})
    final = _final(
        chosen,
        {"default session": chosen.default, "exhaustive": by_hand, "tuner": by_hand if same else tuned},
        seconds,
    )
    return {
        "exhaustive": {**whole, "choice": by_hand.name},
        "tuner": _described(record),
        "share_of_time": record.seconds / whole["seconds"],
        "same_choice": same,
        "tuner_over_exhaustive": {"ratio": 1.0, "interval": [1.0, 1.0]}
        if same
        else _ratio(final, "tuner", "exhaustive"),
        "tuner_over_default": _ratio(final, "tuner", "default session"),
        "final": _levels(final),
    }


# --- the tuned bundle ------------------------------------------------------------------------------


def bundle(name: str, seconds: float, budget_s: float) -> dict[str, Any]:
    """The tuner's choices against what one gets without tuning from either runtime."""
    chosen = subject(name)
    record = chosen.tuned(budget_s)
    threads = usable_cpu_count()
    openvino = Contender(
        name="openvino", kind="openvino", model=str(chosen.models["raw"]), threads=threads
    )  # fmt: skip
    field = {"default session": chosen.default, "openvino": openvino, "tuned": record.winner.contender}
    own = record.choice_for("onnxruntime")
    if own is not None and own.contender != record.winner.contender:
        field["tuned onnxruntime"] = own.contender
    final = _final(chosen, field, seconds)
    return {
        "tuner": _described(record),
        "against": {
            other: _ratio(final, "tuned", other) for other in ("default session", "openvino")
        },
        "final": _levels(final),
    }  # fmt: skip


def _described(record: TuneRecord) -> dict[str, Any]:
    return {
        "choice": record.winner.contender.name,
        "recipe": record.winner.recipe,
        "candidates": len(record.raced),
        "stages": record.stages,
        "seconds": record.seconds,
        "budget_s": record.budget_s,
        "out_of_time": record.out_of_time,
    }


def _final(chosen: Subject, field: Mapping[str, Contender], seconds: float) -> Groups:
    """All in fresh processes, interleaved; one contender under two names is measured twice."""
    named = [one.model_copy(update={"name": name}) for name, one in field.items()]
    final_s = max(seconds, LEAST_FINAL_S)
    return _timed(named, chosen.feeds, final_s, seed=1000, processes=FINAL_PROCESSES)


def _ratio(groups: Groups, one: str, other: str) -> dict[str, Any]:
    """Latency of ``one`` over that of ``other``, with the interval and the verdict on ``one``."""
    ratio = compare_groups(groups, other, one)
    verdict = judge(ratio, calibration(groups), least_effect=LEAST_EFFECT)
    return {"ratio": ratio.value, "interval": [ratio.low, ratio.high], "verdict": verdict}


def _levels(groups: Groups) -> dict[str, float]:
    """Median over the processes of each contender, in milliseconds."""
    return {
        name: float(np.median([np.median(np.concatenate(list(blocks))) for blocks in processes]))
        for name, processes in groups.items()
    }


# --- results ---------------------------------------------------------------------------------------


def table(results: Mapping[str, Any]) -> list[str]:
    """One line a network and question."""
    lines = []
    for name, found in sorted(results.get("search", {}).items()):
        ratio = found["tuner_over_exhaustive"]
        lines.append(
            f"{name}: tuner over exhaustive {_shown(ratio)} (asked 1.03) "
            f"in {found['share_of_time']:.2f} of the time (asked 0.20); {found['tuner']['choice']}"
            + ("" if found["same_choice"] else f" / {found['exhaustive']['choice']}")
        )
    for name, found in sorted(results.get("bundle", {}).items()):
        against = ", ".join(f"{_shown(ratio)} of {other}" for other, ratio in found["against"].items())
        lines.append(f"{name}: tuned {against}; {found['tuner']['choice']}")
    return lines


def _shown(ratio: Mapping[str, Any]) -> str:
    low, high = ratio["interval"]
    return f"{ratio['ratio']:.3f} [{low:.3f}, {high:.3f}]"


def _add(out: Path, part: str, name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    stamped = {**found, "at": now, "load_after": os.getloadavg(), "host": environment()}
    results.setdefault(part, {})[name] = stamped
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_suffix(".partial")
    aside.write_text(json.dumps(results, indent=1, default=str) + "\n")
    aside.replace(out)
    return results


def main() -> None:
    """Measure one part, network by network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("make", "search", "bundle", "table"))
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(built())}")
    parser.add_argument("--seconds", type=float, default=1.0, help="measured, of each candidate's processes")
    parser.add_argument("--budget-s", type=float, default=60.0, help="the tuner's, for a bundle")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    results: dict[str, Any] = json.loads(given.out.read_text()) if given.out.is_file() else {}
    for name in given.networks:
        if given.part == "make":
            subject(name)
        elif given.part == "search":
            results = _add(given.out, "search", name, search(name, given.seconds))
        elif given.part == "bundle":
            results = _add(given.out, "bundle", name, bundle(name, given.seconds, given.budget_s))
    for line in table(results):
        print(line, flush=True)


if __name__ == "__main__":
    main()
