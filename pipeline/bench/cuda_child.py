"""The CUDA matrix in child processes: one for TF32 off and one for TF32 on, since a process is of one kind.

``python -m pipeline.bench.cuda_child`` reads one JSON request from stdin and writes the record to stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optim.contract import Array, Feeds
from pipeline.bench.cuda import References, measure_matrix
from pipeline.bench.cuda_compare import with_stock
from pipeline.bench.cuda_device import find_device
from pipeline.bench.cuda_libraries import TF32_OVERRIDE
from pipeline.bench.records import CudaRecord, CudaResult, CudaSettings
from pipeline.bench.torch_baseline import measure_compiled

CHILD_LIMIT_S = 3600.0
OWN_SHARE = 0.85  # of its limit, after which a child begins no further cell: killed, it would say nothing


def measure_in_children(
    model: str,
    feeds_by_batch: Mapping[int, Feeds],
    cells: Sequence[CudaSettings],
    *,
    runs: int = 100,
    energy_window_s: float = 0.0,
    limit_s: float = CHILD_LIMIT_S,
    references: References | None = None,
    name: str = "",
) -> CudaRecord:
    """Every cell at every batch size, the cells of each kind of process together.

    ``references`` and ``name`` as in ``measure_matrix``.
    """
    parts: list[CudaRecord] = []
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        feeds = _written(feeds_by_batch, Path(folder), "in")
        known = _written(references or {}, Path(folder), "out")
        for off in (True, False):
            own = [c for c in cells if needs_tf32_off(c) == off]
            left = limit_s - (time.monotonic() - begin)
            if own:
                request = {
                    "model": str(Path(model).resolve()),
                    "feeds": feeds,
                    "references": known,
                    "name": name or str(model),
                    "cells": [c.model_dump() for c in own],
                    "runs": runs,
                    "energy_window_s": energy_window_s,
                    "limit_s": OWN_SHARE * max(left, 1.0),
                }
                parts.append(_child(request, off=off, limit_s=max(left, 1.0)))
    return joined(parts)


def _written(arrays_by_batch: Mapping[int, Mapping[str, Array]], folder: Path, kind: str) -> dict[str, str]:
    """Files of arrays by batch size."""
    files = {}
    for batch, arrays in arrays_by_batch.items():
        files[str(batch)] = str(folder / f"{kind}_{batch}.npz")
        np.savez(files[str(batch)], **arrays)  # type: ignore[arg-type]  # numpy's own options
    return files


def _read(files: Mapping[str, str]) -> dict[int, dict[str, Array]]:
    found = {}
    for batch, file in files.items():
        with np.load(file, allow_pickle=False) as arrays:
            found[int(batch)] = {name: arrays[name] for name in arrays.files}
    return found


def needs_tf32_off(cell: CudaSettings) -> bool:
    """Whether a cell's process must have TF32 off altogether."""
    return not cell.tf32 and not cell.stock and cell.precision == "fp32"


def joined(parts: Sequence[CudaRecord]) -> CudaRecord:
    """Several records as one; not measured only where none is."""
    measured = [part for part in parts if part.status == "measured"]
    failed = tuple(
        f for part in parts for f in (*part.failed, *((part.reason,) if part.status != "measured" else ()))
    )
    if not measured:
        reason = "; ".join(dict.fromkeys(part.reason for part in parts)) or "there was nothing to measure"
        return CudaRecord(
            status="not measured", reason=reason, failed=tuple(f for part in parts for f in part.failed)
        )
    results = tuple(r for part in measured for r in part.results)
    return measured[0].model_copy(
        update={
            "results": results,
            "launch_gaps": tuple(g for part in measured for g in part.launch_gaps),
            "comparisons": with_stock(results),
            "failed": failed,
        }
    )


def _child(request: Mapping[str, Any], *, off: bool, limit_s: float) -> CudaRecord:
    environment = {k: v for k, v in os.environ.items() if k != TF32_OVERRIDE}
    if off:
        environment[TF32_OVERRIDE] = "0"
    kind = "TF32 off" if off else "TF32 on"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.bench.cuda_child"],
            input=json.dumps(request),
            text=True,
            capture_output=True,
            check=False,
            env=environment,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        return CudaRecord(status="not measured", reason=f"{kind}: not done within {limit_s:.0f} s")
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return CudaRecord(status="not measured", reason=f"{kind}: {said[-1]}")
    return CudaRecord.model_validate_json(done.stdout)


def _run(request: Mapping[str, Any]) -> CudaRecord:
    """The child's part."""
    device, why_not = find_device()
    begin = 0.0 if device is None else device.clock_s()
    feeds: dict[int, Feeds] = dict(_read(request["feeds"]))
    cells = [CudaSettings.model_validate(c) for c in request["cells"]]
    compiled = [c for c in cells if c.runtime == "torch.compile"]
    others = [c for c in cells if c.runtime != "torch.compile"]
    record = measure_matrix(
        device,
        request["model"],
        feeds,
        others,
        runs=request["runs"],
        energy_window_s=request["energy_window_s"],
        why_not=why_not,
        references=_read(request["references"]),
        name=request["name"],
        limit_s=request["limit_s"],
    )
    if device is None or not compiled:
        return record
    extra: list[CudaResult] = []
    failed: list[str] = []
    for cell in compiled:
        for batch, arrays in feeds.items():
            if device.clock_s() - begin > request["limit_s"]:
                failed.append(f"batch {batch}, {cell.title}: not reached within {request['limit_s']:.0f} s")
                continue
            found = measure_compiled(request["model"], batch, arrays, cell, device, runs=request["runs"])
            if isinstance(found, str):
                failed.append(f"batch {batch}, {cell.title}: {found}")
            else:
                extra.append(found.model_copy(update={"model": request["name"]}))
    status = "measured" if record.results or extra else record.status
    return record.model_copy(
        update={
            "status": status,
            "device": device.name,
            "results": (*record.results, *extra),
            "failed": (*record.failed, *failed),
        }
    )


if __name__ == "__main__":
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries print goes to stderr
    os.write(answer, _run(json.load(sys.stdin)).model_dump_json().encode())
