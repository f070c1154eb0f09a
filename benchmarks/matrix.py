"""Every model of the list on every target of the catalog: verified, produced, or unsupported with its reason.

    python benchmarks/matrix.py [--models NAME ...] [--targets NAME ...] [--again] [--work DIR] [--limit-s N]

Each model is converted and optimised once, and answered by its own framework on zeros, random input and its
test data; each cell then builds and proves a bundle from that, in a process of its own with a limit on time
and memory. Cells that are done are kept under `.fairlead/matrix` and not made again while the optimised model
stays the same; `--again` makes the chosen ones anew. The source models come from `make zoo`
(and `python configs/zoo/build.py resnet50 ...`).

Writes `benchmarks/results/matrix.json` and `benchmarks/MATRIX.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import psutil

REPOSITORY: Final = Path(__file__).resolve().parent.parent
RESULT: Final = REPOSITORY / "benchmarks" / "results" / "matrix.json"
TABLE: Final = REPOSITORY / "benchmarks" / "MATRIX.md"
SYSTEMS: Final = (
    "symbols_wolfram",
    "mobilenet_v2_wolfram",
    "mnist_caffe",
    "mnist_softmax",
    "vgg16",
    "alexnet_keras",
)
NETWORKS: Final = ("resnet50", "mobilenet_v2", "unet", "densenet121", "efficientnet_b0", "mobilenet_v3_small")
INTRODUCTION: Final = """
Made by `make matrix`. Each model is converted and optimised once (recipe `canonical`), answered by its own
framework on zeros, random input and test data, and bundled for each target with default options.
**verified**: the artefact was loaded again and gave these answers within the gate (2e-05 and 90 dB); the
figures are the largest difference over the output's range, and the least signal-to-noise ratio. Probabilities
are compared as logarithms. A difference holds the source framework's own rounding too, which is much of it
where weights are untrained and the outputs lie close together. *produced*: built, with no runtime on the
machine that made this table. –: the target cannot express the model; see the reason.
""".strip()
EXAMPLES: Final = 2  # of the test data, as one reference
MEMORY_LIMIT: Final = 9 << 30  # bytes of a cell's whole process tree
PREPARE_LIMIT_S: Final = 1200.0


# --- in the child ----------------------------------------------------------------------------------


def prepare(name: str, folder: Path) -> None:
    """Convert and optimise one model, and record what its own framework answers."""
    from optim.model import sha256
    from pipeline.config import Config
    from pipeline.feeds import batch_size, load_data, random, ranges_of, zeros
    from pipeline.load_config import load_config
    from pipeline.stages.convert import conversion_record, request_of, source_request
    from pipeline.stages.optimize import optimize_file
    from pipeline.stages.parity import open_any
    from targets.references import Reference, save_reference

    if name in SYSTEMS:
        config = load_config(REPOSITORY / "configs" / f"{name}.yaml")
    else:
        zoo = REPOSITORY / ".fairlead" / "zoo" / name
        summary = json.loads((zoo / "summary.json").read_text())
        data = {"path": str(zoo / "test.npz"), "input": "x", "preprocess": summary["encoder"]}
        model = {"path": str(zoo / "model.keras"), "inputs": _sizes(zoo)}
        config = Config.model_validate({"version": 1, "name": name, "model": model, "data": data})
    begin = time.perf_counter()
    converted = conversion_record(request_of(config), folder / "converted.onnx", _silent)
    optimize_file(
        folder / "converted.onnx", folder / "model.onnx", recipe=config.optimize.recipe, progress=_silent
    )
    with open_any(source_request(config, converted)) as source:
        batch = batch_size(source.inputs, 1)
        dataset = load_data(config, source.inputs)
        ranges = None if dataset is None else ranges_of(dataset)
        feeds = {"zeros": zeros(source.inputs, batch), "random_0": random(source.inputs, 0, batch, ranges)}
        if dataset is not None:
            feeds["data"] = {key: array[:EXAMPLES] for key, array in dataset.feeds.items()}
        (folder / "references").mkdir()
        for key, feed in feeds.items():
            reference = Reference(key, feed, source.run(feed))
            save_reference(reference, folder / "references" / f"{key}.npz")
    labels = config.data.label_names and config.resolve(config.data.label_names)
    facts = {
        "sha256": sha256(folder / "model.onnx"),
        "framework": converted.framework,
        "source_format": converted.source_format,
        "nodes": converted.nodes,
        "weight_bytes": converted.weight_bytes,
        "preprocess": config.data.preprocess.model_dump(),
        "labels": Path(labels).read_text().splitlines() if labels else None,
        "layers": [layer.model_dump(mode="json") for layer in converted.layers],
        "seconds": time.perf_counter() - begin,
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def _sizes(zoo: Path) -> dict[str, list[int]]:
    """The test data's sizes for a network that takes any; nothing for one that has its own."""
    import numpy as np

    from pipeline.inspect_model import inspect_model
    from pipeline.sources.contract import ConvertRequest

    (given,) = inspect_model(ConvertRequest(str(zoo / "model.keras"))).inputs
    if all(isinstance(size, int) for size in given.shape[1:]):
        return {}
    with np.load(zoo / "test.npz", allow_pickle=False) as stored:
        return {given.name: [-1, *stored["x"].shape[1:]]}


def _silent(_what: str, _share: float) -> None:
    """Progress goes nowhere."""


def cell(prepared: Path, target: str, out: Path) -> dict[str, Any]:
    """Build and prove one bundle; what came of it."""
    from optim.errors import FairleadError, MissingRuntimeError, UnsupportedModelError
    from targets.bundle import BundleSpec, write_bundle
    from targets.catalog import target_named
    from targets.preprocessing import Preprocessing
    from targets.references import load_reference

    facts = json.loads((prepared / "facts.json").read_text())
    given = facts["preprocess"]
    spec = BundleSpec(
        name=prepared.name,
        model=prepared / "model.onnx",
        target=target_named(target),
        references=tuple(load_reference(f) for f in sorted((prepared / "references").glob("*.npz"))),
        preprocessing=Preprocessing(given["scale"], tuple(given["mean"]), tuple(given["std"])),
        labels=tuple(facts["labels"]) if facts["labels"] else None,
        layers=tuple(facts["layers"]),
    )
    try:
        verdict = write_bundle(spec, out).verdict
    except UnsupportedModelError as error:
        return {
            "state": "unsupported",
            "reason": f"{error.where}: {error.what}" if error.where else error.what,
        }
    except MissingRuntimeError as error:
        return {"state": "not built", "reason": error.what}
    except FairleadError as error:
        return {"state": "failed", "reason": str(error)}
    return {
        "state": verdict.state.value,
        "reason": "; ".join(verdict.problems),
        "detail": verdict.detail,
        "max_abs_over_range": verdict.max_abs_over_range,
        "snr_db": None if verdict.snr_db is None else min(verdict.snr_db, 999.0),
        "bytes": sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) if out.exists() else 0,
    }


# --- the parent ------------------------------------------------------------------------------------


def limited(arguments: list[str], limit_s: float) -> tuple[str, str, float, float]:
    """Run this file with ``arguments``; (output, why it was ended or died, seconds, peak MiB of its tree)."""
    begin, peak = time.perf_counter(), 0
    with subprocess.Popen(
        [sys.executable, str(Path(__file__)), *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as child:
        ended = ""
        while not ended:
            try:
                text, _ = child.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, _tree_bytes(child.pid))
            if peak > MEMORY_LIMIT:
                ended = f"it took more than {MEMORY_LIMIT >> 30} GiB"
            elif time.perf_counter() - begin > limit_s:
                ended = f"it took more than {limit_s:.0f} s"
        if ended:
            os.killpg(child.pid, signal.SIGKILL)
            text, _ = child.communicate()
    if not ended and child.returncode:
        ended = f"its process ended with {child.returncode}: {' '.join(text.split())[-600:]}"
    return text, ended, time.perf_counter() - begin, peak / 2**20


def _tree_bytes(pid: int) -> int:
    total = 0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.Error:
        pass
    return total


def prepared_model(name: str, work: Path, *, again: bool) -> tuple[Path | None, str]:
    """Folder of the prepared model, made when it is not there; or why there is none."""
    folder = work / "models" / name
    if (folder / "facts.json").is_file() and not again:
        return folder, ""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _, ended, _, _ = limited(["--prepare", name, "--work", str(folder)], PREPARE_LIMIT_S)
    return (None, ended) if ended else (folder, "")


def made_cell(name: str, target: str, work: Path, limit_s: float, *, again: bool) -> dict[str, Any]:
    """The record of one cell, made where it is not there or belongs to another model."""
    prepared = work / "models" / name
    digest = json.loads((prepared / "facts.json").read_text())["sha256"]
    file = work / "cells" / f"{name}--{target}.json"
    if file.is_file() and not again:
        stored: dict[str, Any] = json.loads(file.read_text())
        if stored["model_sha256"] == digest:
            return stored
    out = work / "bundle"
    shutil.rmtree(out, ignore_errors=True)
    arguments = ["--cell", name, target, "--work", str(work), "--bundle", str(out)]
    text, ended, seconds, peak = limited(arguments, limit_s)
    shutil.rmtree(out, ignore_errors=True)
    for stray in work.glob(".bundle.*"):
        shutil.rmtree(stray, ignore_errors=True)
    found = {"state": "failed", "reason": ended} if ended else json.loads(text.splitlines()[-1])
    record = {"model": name, "target": target, "model_sha256": digest, **found}
    record |= {"seconds": round(seconds, 1), "peak_mib": round(peak)}
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".partial")
    aside.write_text(json.dumps(record, indent=1) + "\n")
    aside.replace(file)
    return record


def table(
    records: Iterable[Mapping[str, Any]], models: Mapping[str, Mapping[str, Any]], targets: list[str]
) -> str:
    """The matrix as Markdown, with the reasons below it."""
    cells = {(r["model"], r["target"]): r for r in records}
    reasons: dict[str, int] = {}
    lines = [
        "# Models × targets",
        "",
        INTRODUCTION,
        "",
        "| model | " + " | ".join(targets) + " |",
        "|---|" + "---|" * len(targets),
    ]
    for group, names in (("the five systems", SYSTEMS), ("networks of the zoo", NETWORKS)):
        if any(name in models for name in names):
            lines.append(f"| *{group}* |" + " |" * len(targets))
        for name in names:
            if name in models:
                row = (_cell_text(cells.get((name, target)), reasons) for target in targets)
                lines.append(f"| {name} | " + " | ".join(row) + " |")
    count: dict[str, int] = {}
    for record in cells.values():
        count[record["state"]] = count.get(record["state"], 0) + 1
    lines += ["", "; ".join(f"{n} {state}" for state, n in sorted(count.items())) + "."]
    if needs := _needs(cells.values(), targets):
        lines += ["", "## What *produced* waits for", "", *(f"- {target}: {need}" for target, need in needs)]
    if reasons:
        lines += ["", "## Reasons", ""]
        lines += [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join(lines) + "\n"


def _needs(cells: Iterable[Mapping[str, Any]], targets: list[str]) -> list[tuple[str, str]]:
    """Why each target's cells were not executed, without the file that each names first."""
    found: dict[tuple[str, str], None] = {}
    for cell in sorted(cells, key=lambda cell: targets.index(cell["target"])):
        if cell["state"] == "produced, not executed":
            said = str(cell.get("detail", "")).removeprefix("no runtime on this machine: ").partition(": ")[2]
            found[cell["target"], said] = None
    return list(found)


def _cell_text(record: Mapping[str, Any] | None, reasons: dict[str, int]) -> str:
    if record is None:
        return ""
    if record["state"] == "verified":
        exact = record["max_abs_over_range"] == 0
        return (
            "**verified** exact"
            if exact
            else f"**verified** {record['max_abs_over_range']:.1e}, {record['snr_db']:.0f} dB"
        )
    if record["state"] == "produced, not executed":
        return "*produced*"
    text = " ".join(str(record["reason"]).replace("|", "\\|").split())
    number = reasons.setdefault(f"{record['target']}: {text}", len(reasons) + 1)
    word = "–" if record["state"] == "unsupported" else record["state"]
    return f"{word} ({number})"


def main() -> int:
    from targets.catalog import TARGETS

    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--models", nargs="+", default=[*SYSTEMS, *NETWORKS], choices=[*SYSTEMS, *NETWORKS])
    given.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    given.add_argument("--again", action="store_true", help="make the chosen cells anew")
    given.add_argument("--work", type=Path, default=REPOSITORY / ".fairlead" / "matrix")
    given.add_argument("--limit-s", type=float, default=900.0, help="of one cell")
    given.add_argument("--prepare", help=argparse.SUPPRESS)
    given.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    given.add_argument("--bundle", type=Path, help=argparse.SUPPRESS)
    chosen = given.parse_args()
    if chosen.prepare:
        prepare(chosen.prepare, chosen.work)
        return 0
    if chosen.cell:
        name, target = chosen.cell
        print(json.dumps(cell(chosen.work / "models" / name, target, chosen.bundle)))
        return 0
    return fill(chosen)


def fill(chosen: argparse.Namespace) -> int:
    """Make the chosen cells and write the table of all there are; 1 where a cell failed."""
    from pipeline.bench.host import environment
    from targets.catalog import TARGETS

    work = chosen.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    absent = {}
    for name in chosen.models:
        folder, why = prepared_model(name, work, again=False)
        if folder is None:
            absent[name] = why
            print(f"{name}: not prepared: {why}", file=sys.stderr)
            continue
        for target in chosen.targets:
            record = made_cell(name, target, work, chosen.limit_s, again=chosen.again)
            figures = (
                f" {record['max_abs_over_range']:.1e}" if record.get("max_abs_over_range") is not None else ""
            )
            print(
                f"{name:22} {target:12} {record['state']}{figures} {record['reason'][:120]}",
                file=sys.stderr,
                flush=True,
            )
    stored = [json.loads(f.read_text()) for f in sorted((work / "cells").glob("*.json"))]
    records = [r for r in stored if r["target"] in TARGETS]
    models = {}
    for name in (*SYSTEMS, *NETWORKS):
        facts = work / "models" / name / "facts.json"
        if facts.is_file():
            kept = ("sha256", "framework", "source_format", "nodes", "weight_bytes")
            models[name] = {k: v for k, v in json.loads(facts.read_text()).items() if k in kept}
    records = [
        r for r in records if r["model"] in models and r["model_sha256"] == models[r["model"]]["sha256"]
    ]
    body = {"host": environment(), "models": models, "absent": absent, "cells": records}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(body, indent=1) + "\n")
    TABLE.write_text(table(records, models, list(TARGETS)))
    return 1 if absent or any(r["state"] in ("failed", "not built") for r in records) else 0


if __name__ == "__main__":
    sys.exit(main())
