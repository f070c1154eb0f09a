"""Every item of the corpus through the conversion, in one warm worker a format, next to the peers.

    python -m benchmarks.corpus_score [--corpus DIR] [--kind KIND]... [--name TEXT] [--out FILE]

Writes JSON with the facts of the host, and prints a table by family. An item that takes its worker down
costs that item only: the worker starts anew.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.corpus_worker import KINDS, Status
from optim.errors import FairleadError
from pipeline.bench.host import environment
from pipeline.sources.child import Child, ChildLimits

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results" / "corpus_score.json"
_LIMITS = ChildLimits(memory_mib=8192, time_s=300.0)
_SCORE = "benchmarks.corpus_worker:score_item"
_PING = "benchmarks.corpus_worker:ping"
# The heaviest worker first, so that both cores are busy to the end.
_ORDER = ("tf_frozen", "onnx", "keras_h5", "tf1_ckpt", "savedmodel", "tflite", "caffe")

Told = Callable[[Mapping[str, Any]], None]


def default_corpus() -> Path:
    """Where the corpus lies: FAIRLEAD_CORPUS, or beside the checkout."""
    return Path(os.environ.get("FAIRLEAD_CORPUS", REPOSITORY.parent / "shared" / "corpus"))


def score_corpus(
    corpus: Path, kinds: Sequence[str] = KINDS, name: str = "", workers: int = 2, told: Told = lambda _: None
) -> dict[str, Any]:
    """Score all items of ``kinds`` whose name contains ``name``; the record that goes to disk."""
    started = time.perf_counter()
    manifest = json.loads((corpus / "manifest.json").read_text())
    peers = json.loads((corpus / "peer_baseline.json").read_text())
    chosen = [kind for kind in _ORDER if kind in kinds]
    groups = [[item for item in manifest if item["kind"] == kind and name in item["name"]] for kind in chosen]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        scores = [one for group in pool.map(lambda items: _run(items, corpus, told), groups) for one in group]
    for one in scores:
        peer = peers.get(one["name"])
        one["peer_ok"] = None if peer is None else bool(peer.get("ok"))
    return {
        "benchmark": "corpus_score",
        "host": environment(),
        "seconds": round(time.perf_counter() - started, 1),
        "families": families(scores),
        "items": scores,
    }


def _run(items: Sequence[Mapping[str, Any]], corpus: Path, told: Told) -> list[dict[str, Any]]:
    """All items of one format in one worker, which is replaced when an item ends it."""
    scores: list[dict[str, Any]] = []
    worker: Child | None = None
    try:
        for item in items:
            worker = worker or Child(_LIMITS)
            try:
                one: dict[str, Any] = worker.call(_SCORE, item, str(corpus)).value
            except FairleadError as error:
                one = _crashed(item, error)
                worker = _alive(worker)
            scores.append(one)
            told(one)
    finally:
        if worker is not None:
            worker.close()
    return scores


def _alive(worker: Child) -> Child | None:
    try:
        worker.call(_PING)
    except FairleadError:
        worker.close()
        return None
    return worker


def _crashed(item: Mapping[str, Any], error: FairleadError) -> dict[str, Any]:
    cause = f"\n{error.__cause__}" if error.__cause__ is not None else ""
    return {
        "name": item["name"],
        "family": item["family"],
        "kind": item["kind"],
        "has_io": item["has_io"],
        "status": Status.CRASHED.value,
        "error": None,
        "error_optimised": None,
        "tolerance": item["tol"],
        "detail": f"{type(error).__name__}: {error}{cause}"[-2000:],
        "seconds": None,
        "nodes": None,
    }


def families(scores: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Counts by family; ``scored`` are the items with references, which the peers were scored on as well."""
    found: dict[str, Counter[str]] = {}
    for one in scores:
        count = found.setdefault(str(one["family"]), Counter())
        count["items"] += 1
        count[str(one["status"])] += 1
        if one["has_io"]:
            count["scored"] += 1
            count["scored_passed"] += one["status"] == Status.PASSED
            count["peers_passed"] += bool(one.get("peer_ok"))
    return {family: dict(count) for family, count in sorted(found.items())}


def table(counts: Mapping[str, Mapping[str, int]]) -> str:
    """The score as Markdown."""
    head = "| family | items | scored | passed | peers | wrong | refused | rejected by framework | crashed |"
    rows = [head, "|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    total: Counter[str] = Counter()
    keys = (
        "items",
        "scored",
        "scored_passed",
        "peers_passed",
        *(s.value for s in Status if s != Status.PASSED),
    )
    for family, count in counts.items():
        total.update(count)
        rows.append(f"| {family} | " + " | ".join(str(count.get(key, 0)) for key in keys) + " |")
    rows.append("| **all** | " + " | ".join(str(total.get(key, 0)) for key in keys) + " |")
    return "\n".join(rows)


def write(record: Mapping[str, Any], out: Path) -> None:
    """Write the record aside, then move it into place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.part")
    aside.write_text(json.dumps(record, indent=1, allow_nan=True) + "\n")
    aside.replace(out)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, default=default_corpus())
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--name", default="", help="only items whose name contains this")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if not (given.corpus / "manifest.json").is_file():
        print(f"no corpus at {given.corpus}", file=sys.stderr)
        return 2

    def told(one: Mapping[str, Any]) -> None:
        if one["status"] != Status.PASSED:
            print(f"{one['status']}: {one['name']}: {str(one['detail'])[:300]}", file=sys.stderr, flush=True)

    record = score_corpus(given.corpus, given.kind or KINDS, given.name, told=told)
    write(record, given.out)
    print(table(record["families"]))
    print(f"{record['seconds']} s; written to {given.out}")
    return 0 if all(one["status"] in (Status.PASSED, Status.REJECTED) for one in record["items"]) else 1


if __name__ == "__main__":
    sys.exit(main())
