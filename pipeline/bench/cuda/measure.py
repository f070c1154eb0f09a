"""Measure a network's cells on the GPU of this machine, in child processes, with their limits beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optim.errors import FairleadError
from pipeline.bench.cuda.course import Course, Energy, Keep, Subject
from pipeline.bench.cuda.heat import Rounds, words_of
from pipeline.bench.cuda.precision import FP16, as_half
from pipeline.bench.cuda.process import Stations
from pipeline.bench.cuda.roofline import Work, count_work, with_limits
from pipeline.bench.records import CudaPeaks, CudaRecord, CudaSettings
from pipeline.sources.contract import Progress, no_progress


def hello(stations: Stations) -> dict[str, Any]:
    """What the GPU says of itself; ``why_not`` where there is none, or nobody to ask."""
    try:
        return stations.get("TF32 on").ask({"do": "hello"})
    except (FairleadError, OSError) as error:
        return {"why_not": words_of(error)}


def measure(
    subject: Subject,
    cells: Sequence[CudaSettings],
    stations: Stations,
    said: Mapping[str, Any],
    *,
    peaks: CudaPeaks | None = None,
    rounds: Rounds | None = None,
    energy: Energy | None = None,
    limit_s: float = math.inf,
    keep: Keep = lambda _record: None,
    progress: Progress = no_progress,
) -> CudaRecord:
    """Every cell at every batch size of the subject, as far as the time allows.

    Args:
        subject: the network, its files and inputs.
        cells: the most important first.
        stations: the processes; they stay open for the next network.
        said: the answer to ``hello``.
        peaks: the GPU's; None: no limits are drawn.
        rounds: how long to measure.
        energy: of which cells.
        limit_s: for all; what is not reached in it is listed.
        keep: told of the record so far after each heat.
        progress: progress callback.
    """
    if said["why_not"]:
        return CudaRecord(status="not measured", reason=said["why_not"])
    work, uncounted = _work(subject, cells) if peaks is not None else ({}, ())

    def whole(record: CudaRecord) -> CudaRecord:
        failed = (*record.failed, *uncounted)
        return with_limits(record.model_copy(update={"peaks": peaks, "failed": failed}), work)

    course = Course(
        subject,
        cells,
        stations,
        said,
        rounds=rounds,
        energy=energy,
        keep=lambda record: keep(whole(record)),
        progress=progress,
    )
    return whole(course.run(limit_s))


def _work(
    subject: Subject, cells: Sequence[CudaSettings]
) -> tuple[dict[tuple[str, int], Work], tuple[str, ...]]:
    """What each file does at each batch size, and why that is not known of some."""
    found: dict[tuple[str, int], Work] = {}
    failed: list[str] = []
    for precision in dict.fromkeys([subject.given, *(cell.precision for cell in cells)]):
        half = precision == FP16 and subject.given != FP16
        for batch, feeds in subject.feeds.items():
            try:
                given = as_half(feeds) if half else feeds
                found[precision, batch] = count_work(Path(subject.files[precision]), given)
            except FairleadError as error:
                failed.append(f"no limit for {precision}: {words_of(error)}")
                break
            except Exception as error:  # shape inference's words are the finding
                failed.append(f"no limit for {precision}: {type(error).__name__}: {words_of(error)}")
                break
    return found, tuple(failed)
