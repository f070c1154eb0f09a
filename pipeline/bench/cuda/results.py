"""From what a heat measured to the records: figures, grades, and what compares with what."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.bench.cuda.compare import against_itself, launch_gaps, with_stock
from pipeline.bench.cuda.grade import SeenOnGpu, grade_cuda
from pipeline.bench.cuda.heat import Seat
from pipeline.bench.cuda.sampling import timing
from pipeline.bench.records import CudaHeat, CudaPeaks, CudaRecord, CudaResult

# The child's names of figures, and the records'.
FIGURES = {
    "gpu": "gpu",
    "run": "host",
    "plain": "host",
    "copy_in_pageable": "host_to_device_pageable",
    "copy_in_pinned": "host_to_device_pinned",
    "copy_out": "device_to_host",
    "end_to_end_pageable": "end_to_end_pageable",
    "end_to_end_pinned": "end_to_end_pinned",
}


def result_of(seat: Seat, model: str, batch: int, heat: str, why_unwatched: str) -> CudaResult:
    """The record of a cell that took part in all rounds."""
    figures = {FIGURES[name]: timing(blocks) for name, blocks in seat.blocks.items()}
    seen = SeenOnGpu(
        timing=figures.get("gpu", figures["host"]),
        settled=seat.settled,
        beyond_l2=seat.opened["beyond_l2"],
        before=seat.before,
        after=seat.after,
        why_unwatched=why_unwatched,
    )
    facts = {
        "model": model,
        "batch": batch,
        "settings": seat.cell,
        "session_creation_ms": seat.opened["creation_ms"],
        "first_run_ms": seat.opened["first_run_ms"],
        "input_sets": seat.opened["sets"],
        "beyond_l2": seat.opened["beyond_l2"],
        "warmup_runs": seat.warmup_runs,
        "device_memory_mib": seat.opened["memory_mib"],
        "energy_note": "not asked for",
        "error": seat.opened["error"],
        "heat": heat,
        "grade": grade_cuda(seen),
    }
    return CudaResult.model_validate({**facts, **figures})


def heat_of(
    name: str, model: str, batch: int, cells: int, rounds: int, baseline: Seat | None, twin: Seat | None
) -> CudaHeat:
    """The record of a heat; ``baseline`` and ``twin`` are None where they could not run."""
    there = [one for one in (baseline, twin) if one is not None and not one.failed]
    first, second = [*(timing(one.blocks["plain"]) for one in there), None, None][:2]
    a_a = None if first is None or second is None else against_itself(first, second)
    return CudaHeat(
        name=name,
        model=model,
        batch=batch,
        cells=cells,
        rounds=rounds,
        baseline=there[0].cell if there else None,
        baseline_ms=first,
        twin_ms=second,
        a_a_ratio=None if a_a is None else a_a.value,
        a_a_interval=None if a_a is None else (a_a.low, a_a.high),
    )


def record_of(
    device: str,
    results: Sequence[CudaResult],
    heats: Sequence[CudaHeat],
    failed: Sequence[str],
    peaks: CudaPeaks | None = None,
    *,
    compared: bool = True,
) -> CudaRecord:
    """The matrix as far as it is known; all comparisons are drawn anew, since heats calibrate each other.

    ``compared``: with them, which takes a while.
    """
    if not results:
        reason = f"no cell could run; the first: {failed[0]}" if failed else "there was no cell to run"
        return CudaRecord(status="not measured", reason=reason, device=device, failed=tuple(failed))
    return CudaRecord(
        status="measured",
        device=device,
        results=tuple(results),
        launch_gaps=launch_gaps(results),
        heats=tuple(heats),
        comparisons=with_stock(results, heats) if compared else (),
        peaks=peaks,
        failed=tuple(failed),
    )


def joined(parts: Sequence[CudaRecord]) -> CudaRecord:
    """Several records as one; not measured only where none is."""
    measured = [part for part in parts if part.status == "measured"]
    if not measured:
        reason = "; ".join(dict.fromkeys(part.reason for part in parts)) or "there was nothing to measure"
        return CudaRecord(
            status="not measured", reason=reason, failed=tuple(f for part in parts for f in part.failed)
        )
    failed = [
        f for part in parts for f in (*part.failed, *((part.reason,) if part.status != "measured" else ()))
    ]
    return record_of(
        measured[0].device,
        [r for part in measured for r in part.results],
        [h for part in measured for h in part.heats],
        failed,
        next((part.peaks for part in measured if part.peaks is not None), None),
    )
