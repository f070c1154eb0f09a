"""Take a model apart: per-op profile, proof of placement, and roofline, from one trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optim.contract import Feeds
from optim.errors import FairleadError, GateNotMetError
from pipeline.bench.contender import Contender
from pipeline.bench.ort_session import PROVIDERS
from pipeline.bench.placement import placement, require_placement
from pipeline.bench.profile import profile
from pipeline.bench.records import DissectionRecord, Peaks, ReadRate
from pipeline.bench.roofline import measure_peaks, rescaled, roofline
from pipeline.bench.trace import trace
from pipeline.sources.contract import Progress, no_progress

LEAST_TRACE_RUNS = 10
MOST_TRACE_RUNS = 50
TRACE_S = 1.0


def dissect_all(
    contenders: Sequence[Contender],
    feeds: Feeds,
    *,
    batch: int,
    latencies_ms: Mapping[str, float],
    with_roofline: bool = True,
    allow_fallback: bool = False,
    progress: Progress = no_progress,
) -> tuple[DissectionRecord, ...]:
    """Each ONNX Runtime contender that was measured, at one batch size.

    Peaks are measured once for each number of threads, on the CPU; a GPU's roofline is not drawn from them.

    Raises:
        GateNotMetError: a node ran elsewhere than asked, and ``allow_fallback`` is off.
    """
    chosen = [c for c in contenders if c.kind == "onnx" and c.name in latencies_ms]
    counts = {c.threads for c in chosen if c.device == "cpu"} if with_roofline else set()
    peaks = {count: measure_peaks(count) for count in counts}
    found = []
    for k, one in enumerate(chosen):
        progress(f"profile of {one.name}", k / len(chosen))
        runs = round(TRACE_S * 1e3 / max(latencies_ms[one.name], 1e-3))
        runs = min(MOST_TRACE_RUNS, max(LEAST_TRACE_RUNS, runs))
        if one.threads in peaks and k:  # a peak is the best that was seen, and the load changes
            peaks[one.threads] = best_peaks(peaks[one.threads], measure_peaks(one.threads))
        found.append(
            dissect(one, feeds, batch, peaks.get(one.threads), runs=runs, allow_fallback=allow_fallback)
        )
    return tuple(_against(one, peaks.get(one.threads)) for one in found)


def best_peaks(a: Peaks, b: Peaks) -> Peaks:
    """The better of two measurements, rate by rate."""
    sizes = {one.bytes for one in (*a.cached, *b.cached)}
    return Peaks(
        threads=a.threads,
        gflop_per_s=max(a.gflop_per_s, b.gflop_per_s),
        gbyte_per_s=max(a.gbyte_per_s, b.gbyte_per_s),
        cached=tuple(
            ReadRate(bytes=size, gbyte_per_s=max(a.gbyte_per_s_of(size), b.gbyte_per_s_of(size)))
            for size in sorted(sizes)
        ),
    )


def _against(one: DissectionRecord, peaks: Peaks | None) -> DissectionRecord:
    """The record with its roofline against the best peaks of the whole measurement."""
    if one.roofline is None or peaks is None or one.roofline.peaks == peaks:
        return one
    return one.model_copy(update={"roofline": rescaled(one.roofline, peaks)})


def dissect(
    contender: Contender,
    feeds: Feeds,
    batch: int,
    peaks: Peaks | None = None,
    *,
    runs: int = LEAST_TRACE_RUNS,
    allow_fallback: bool = False,
) -> DissectionRecord:
    """One contender; a model that cannot be traced gives a record that says why.

    Raises:
        GateNotMetError: as above.
    """
    facts = {"contender": contender.name, "device": contender.device, "batch": batch}
    facts |= {"threads": contender.threads}
    wanted = PROVIDERS[contender.device]
    # With the CPU listed too, the runtime is free to fall back: that is what the proof is about.
    providers = tuple(dict.fromkeys((wanted, PROVIDERS["cpu"])))
    try:
        traced = trace(contender, feeds, runs=runs, providers=providers)
        placed = placement(traced, wanted)
        require_placement(placed, allow_fallback=allow_fallback)
        found = {"profile": profile(traced), "placement": placed}
        if peaks is not None:
            return DissectionRecord.model_validate({**facts, **found, "roofline": roofline(traced, peaks)})
        return DissectionRecord.model_validate({**facts, **found})
    except GateNotMetError:
        raise
    except FairleadError as error:
        return DissectionRecord.model_validate({**facts, "failed": str(error)})
