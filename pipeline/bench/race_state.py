"""What a race keeps on disk between heats, so that an interrupted one goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from optim.contract import Feeds
from pipeline.bench.contender import Contender
from pipeline.bench.host import host
from pipeline.bench.records import Dropped


class RaceState(BaseModel):
    """Names of candidates, by where they stand."""

    model_config = ConfigDict(extra="forbid")

    key: str
    started: bool = False  # parity is checked
    scouted: bool = False  # what is far behind has been dropped
    stage: int = 0
    alive: list[str]
    queue: list[list[str]] = []  # heats of this stage still to run
    settled: list[str] = []  # runtimes
    dropped: list[Dropped] = []
    levels: dict[str, float] = {}  # milliseconds, as last measured
    raced: dict[str, int] = {}  # stages
    errors: dict[str, float | None] = {}
    graph_ms: dict[str, float | None] = {}  # of the candidate's graph and kernels, with the most threads
    spent_s: float = 0.0
    processes: int = 0  # started in heats
    overhead_s: float = 0.0  # that they took beside the time measured


def race_key(seed: int, precision: float, candidates: Sequence[Contender], feeds: Feeds) -> str:
    """A digest of this very race on this very machine."""
    identity = [host().fingerprint, seed, precision]
    identity += [c.model_dump_json() for c in candidates]
    identity += [f"{n} {a.dtype} {a.shape}" for n, a in feeds.items()]
    identity += [str(_stamp(Path(c.model))) for c in candidates]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def resume(file: Path | None, key: str, names: Sequence[str]) -> RaceState:
    """The state on disk if it is of this very race, else a fresh one."""
    fresh = RaceState(key=key, alive=list(names))
    if file is None or not file.is_file():
        return fresh
    try:
        found = RaceState.model_validate_json(file.read_text())
    except ValueError:
        return fresh
    return found if found.key == key and found.alive else fresh


def keep(file: Path, state: RaceState) -> None:
    """Write the state aside, then in place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.{os.getpid()}.part")
    aside.write_text(state.model_dump_json(indent=1))
    aside.replace(file)


def _stamp(model: Path) -> tuple[int, int]:
    if not model.exists():
        return (0, 0)
    facts = model.stat()
    return (facts.st_size, facts.st_mtime_ns)
