"""The CUDA matrix of model files as a benchmark asks for it: each as it is, and in float16."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from optim.contract import Feeds
from optim.errors import FairleadError
from pipeline.bench.cuda.contract import LEAST_ENERGY_WINDOW_S, References, matrix
from pipeline.bench.cuda.course import Energy, Subject
from pipeline.bench.cuda.heat import Rounds
from pipeline.bench.cuda.measure import hello, measure
from pipeline.bench.cuda.precision import FP16, Precision, half, precision_of
from pipeline.bench.cuda.process import Stations
from pipeline.bench.cuda.results import joined
from pipeline.bench.cuda.roofline import measure_peaks
from pipeline.bench.records import CudaPeaks, CudaRecord, CudaSettings
from pipeline.sources.contract import Progress, no_progress

ROUNDS: Final = Rounds(rounds=40)  # there is no hurry here


def measure_models(
    models: Sequence[str],
    feeds_by_batch: Mapping[int, Feeds],
    *,
    cpu_fallback: bool,
    stations: Stations | None = None,
    progress: Progress = no_progress,
) -> CudaRecord:
    """All cells of every model; what the CPU answers at the least batch size is held against each.

    Args:
        models: ONNX files.
        feeds_by_batch: inputs by name, in the files' own types.
        cpu_fallback: let nodes run on the CPU that the GPU cannot run.
        stations: the processes, or what stands for them in a test.
        progress: progress callback.
    """
    parts: list[CudaRecord] = []
    with stations or Stations() as live:
        said = hello(live)
        if said["why_not"]:
            return CudaRecord(status="not measured", reason=said["why_not"])
        progress("the GPU's peaks", 0.0)
        peaks = measure_peaks(live, said["l2_bytes"])
        for k, model in enumerate(models):
            progress(f"CUDA matrix of {Path(model).name}", k / len(models))
            parts.append(
                _measure_model(
                    model,
                    feeds_by_batch,
                    live,
                    said,
                    peaks,
                    cpu_fallback=cpu_fallback,
                    progress=progress,
                )
            )
    return joined(parts)


def _measure_model(
    model: str,
    feeds_by_batch: Mapping[int, Feeds],
    stations: Stations,
    said: Mapping[str, Any],
    peaks: CudaPeaks,
    *,
    cpu_fallback: bool,
    progress: Progress,
) -> CudaRecord:
    given = precision_of(Path(model))
    references, why_none = _references(model, feeds_by_batch)
    notes = [why_none] if why_none else []
    files: dict[Precision, str] = {given: model}
    with tempfile.TemporaryDirectory() as folder:
        if given != FP16:
            variant = Path(folder) / "float16.onnx"
            if reason := half(Path(model), variant):
                notes.append(reason)
            else:
                files[FP16] = str(variant)
        cells = [
            cell
            for precision in files
            for cell in matrix(precision=precision, tensorrt=said["has_tensorrt"], cpu_fallback=cpu_fallback)
        ]
        deployed = tuple(
            CudaSettings(precision=p, graph=True, layout="NHWC", tf32=True, cpu_fallback=cpu_fallback)
            for p in files
        )
        record = measure(
            Subject(model, files, feeds_by_batch, given, references),
            cells,
            stations,
            said,
            peaks=peaks,
            rounds=ROUNDS,
            energy=Energy(deployed, min(feeds_by_batch), LEAST_ENERGY_WINDOW_S),
            progress=progress,
        )
    return record.model_copy(update={"failed": (*record.failed, *notes)})


def _references(model: str, feeds_by_batch: Mapping[int, Feeds]) -> tuple[References, str]:
    """The CPU's answers at the least batch size, or why there are none."""
    from targets.reference import OrtSession

    batch = min(feeds_by_batch)
    try:
        with OrtSession(model) as session:
            return {batch: session.run(feeds_by_batch[batch])}, ""
    except FairleadError as error:
        return {}, f"outputs were not compared with the CPU's: {error}"
