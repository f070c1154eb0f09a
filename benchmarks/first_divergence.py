"""First divergence: faults planted in real networks and looked for; healthy pairs that must stay silent.

    python -m benchmarks.first_divergence [NAME...] [--plants N] [--seed N] [--optimised] [--no-healthy]

For each network of the zoo that is built (see `configs/zoo/build.py`), and each trained network of the corpus
where `FAIRLEAD_CORPUS` or `../shared/corpus` has them, every kind of fault is planted N times at nodes chosen
at random. A fault that moves no output beyond the default gate is counted apart, and not looked for. Healthy
pairs: the converted graph against the optimised one, unoptimised and at each of ONNX Runtime's levels, on a
picture and on zeros.
Adds to `benchmarks/results/first_divergence.json`: every plant by itself, and totals for each kind.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks.plant_faults import FAULTS, Fault, Planted, plant, sketches_for
from benchmarks.zoo import REPOSITORY, built, network
from optim.contract import Feeds
from optim.facts import sources_of
from optim.model import load
from optim.recipes import recipe_named
from optim.schedule import optimize
from pipeline.bench.host import environment
from pipeline.parity.first_divergence import first_divergence
from pipeline.parity.localise import OUTPUT_NOISE, Divergence, difference, outputs_agree
from targets.float64.evaluate import GraphEvaluator, widen
from targets.reference import Float64Session, OrtSession, written

RESULT = Path(__file__).parent / "results" / "first_divergence.json"
CORPUS = Path(os.environ.get("FAIRLEAD_CORPUS", REPOSITORY.parent / "shared" / "corpus"))
TRAINED = ("onnx_trained",)


def trained() -> dict[str, Path]:
    """Trained networks of the corpus, where there is one."""
    return {p.parent.name: p for kind in TRAINED for p in sorted((CORPUS / kind).glob("*/model.onnx"))}


def opened(name: str) -> tuple[Path, Feeds]:
    """A network's file and its input."""
    if name not in trained():
        made = network(name)
        return made.raw, made.feed
    path = trained()[name]
    with np.load(path.with_name("io.npz"), allow_pickle=False) as stored:
        return path, {k[3:]: stored[k] for k in stored.files if k.startswith("in|")}


def has_effect(model: ir.Model, faulty: ir.Model, fault: Fault, feed: Feeds) -> bool:
    """Whether the fault moves an output beyond the default gate at all."""
    if not fault.arithmetic:
        with np.errstate(all="ignore"):
            return not outputs_agree(GraphEvaluator(model), GraphEvaluator(faulty), feed)
    with written(faulty) as path, OrtSession(path, optimization="off") as session:
        got = session.run(feed)
    with np.errstate(all="ignore"):
        truth = Float64Session(faulty).run(feed)
    return any(difference(truth[key], widen(got[key])) > OUTPUT_NOISE for key in truth)


def plants(
    model: ir.Model, feed: Feeds, count: int, seed: int, *, optimised: bool = False
) -> Iterator[dict[str, Any]]:
    """One line for each planted fault; with ``optimised`` the faulty copy goes through the optimiser first.

    The optimiser may merge the faulty node: then the node that computes its tensor on the way is right.
    Faults of the arithmetic are left out there, since passes may undo them.
    """
    sketches = sketches_for(model, feed)
    for kind, fault in enumerate(f for f in FAULTS if not (optimised and f.arithmetic)):
        seen: set[str] = set()
        for number in range(count):
            begin = time.perf_counter()
            planted = plant(model, fault, np.random.default_rng((seed, kind, number)), sketches)
            if planted is None:
                break
            line: dict[str, Any] = {"fault": fault.cause.value, "node": planted.node}
            if planted.node in seen:
                continue  # chance has chosen the same node again
            seen.add(planted.node)
            if not has_effect(model, planted.model, fault, feed):
                yield line | {"effect": False}
                continue
            faulty = planted.model
            if optimised:
                optimize(faulty, recipe_named("canonical"), oracle=None)
            found = first_divergence(model, faulty, {"image": feed})
            yield line | {
                "effect": True,
                "right_node": found is not None and at_fault(faulty, found, planted),
                "right_cause": found is not None and found.cause == planted.cause,
                "found": None if found is None else found.record().model_dump() | {"detail": found.detail},
                "seconds": round(time.perf_counter() - begin, 3),
            }


def at_fault(model: ir.Model, found: Divergence, planted: Planted) -> bool:
    """Whether the node that is named is the faulty one, or the one that carries it after optimisation."""
    return found.node == planted.node or bool(computed_at(model, found.tensor) & planted.tensors)


def computed_at(model: ir.Model, tensor: str) -> set[str]:
    """Tensors of the converted model that the node of ``tensor`` computes on the way."""
    node = next((n for n in model.graph if any(v.name == tensor for v in n.outputs)), None)
    return {tensor} | (set() if node is None else set(sources_of(node)))


def healthy(path: Path, feed: Feeds) -> Iterator[dict[str, Any]]:
    """Pairs that are the same model; ``alarm`` says what was found, and has to be None."""
    model = load(path)
    optimised = load(path)
    optimize(optimised, recipe_named("canonical"), oracle=None)
    zeros = {name: np.zeros_like(value) for name, value in feed.items()}
    for label, given in (("image", feed), ("zeros", zeros)):
        found = first_divergence(model, optimised, {label: given})
        yield _silent(f"optimised graph, {label}", found)
        for level in ("basic", "extended", "all"):
            yield _silent(
                f"ONNX Runtime at {level}, {label}",
                first_divergence(model, optimised, {label: given}, optimization=level),
            )


def _silent(pair: str, found: Any) -> dict[str, Any]:
    alarm = None if found is None else found.record().model_dump() | {"detail": found.detail}
    return {"pair": pair, "alarm": alarm}


OPTIMISED = ", optimised"


def both_totals(networks: Mapping[str, Any]) -> dict[str, Any]:
    """Totals of the faults as they were planted, and of those that went through the optimiser."""
    plain = {k: v for k, v in networks.items() if not k.endswith(OPTIMISED)}
    through = {k: v for k, v in networks.items() if k.endswith(OPTIMISED)}
    return {"totals": totals(plain), "totals_through_the_optimiser": totals(through)}


def totals(networks: Mapping[str, Any]) -> dict[str, Any]:
    """Counts for each kind of fault and for all."""
    lines = [line for one in networks.values() for line in one.get("plants", ())]
    by_kind = {f.cause.value: _counts(x for x in lines if x["fault"] == f.cause.value) for f in FAULTS}
    pairs = [pair for one in networks.values() for pair in one.get("healthy", ())]
    return {
        "faults": by_kind,
        "all": _counts(lines),
        "healthy_pairs": len(pairs),
        "false_alarms": sum(pair["alarm"] is not None for pair in pairs),
    }


def _counts(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    every = list(lines)
    looked = [line for line in every if line["effect"]]
    nodes, causes = (sum(line[key] for line in looked) for key in ("right_node", "right_cause"))
    return {
        "planted": len(every),
        "without_effect": len(every) - len(looked),
        "looked_for": len(looked),
        "at_the_node": nodes,
        "cause_named": causes,
        "share_at_the_node": nodes / len(looked) if looked else None,
        "share_cause_named": causes / len(looked) if looked else None,
    }


def main() -> None:
    """Plant, look, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--plants", type=int, default=5, help="of each kind of fault in each network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-healthy", action="store_true")
    parser.add_argument("--optimised", action="store_true", help="optimise the faulty copies first")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    for name in options.names or (*built(), *trained()):
        path, feed = opened(name)
        begin, lines = time.perf_counter(), []
        faults = plants(load(path), feed, options.plants, options.seed, optimised=options.optimised)
        for line in faults:
            lines.append(line)
            if line["effect"] and not (line["right_node"] and line["right_cause"]):
                print(f"  {json.dumps(line)}", flush=True)
        found: dict[str, Any] = {"plants": lines}
        if not options.no_healthy:
            found["healthy"] = list(healthy(path, feed))
            for pair in found["healthy"]:
                if pair["alarm"] is not None:
                    print(f"  false alarm: {json.dumps(pair)}", flush=True)
        found["seconds"] = round(time.perf_counter() - begin, 1)
        print(f"{name}: {json.dumps(_counts(lines))}, {found['seconds']} s", flush=True)
        results = json.loads(options.out.read_text()) if options.out.is_file() else {"networks": {}}
        key = f"{name}{OPTIMISED}" if options.optimised else name
        networks = {**results["networks"], key: found}
        write(options.out, {**both_totals(networks), "host": environment(), "networks": networks})
    print(json.dumps(json.loads(options.out.read_text())["totals"], indent=1))


def write(path: Path, content: Mapping[str, Any]) -> None:
    """The file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    main()
