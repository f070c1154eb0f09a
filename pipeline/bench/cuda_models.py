"""The CUDA matrix of model files as a benchmark asks for it: each as it is, and in float16."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from optim.contract import Feeds
from optim.errors import FairleadError
from pipeline.bench.cuda import LEAST_ENERGY_WINDOW_S, References, matrix
from pipeline.bench.cuda_child import joined, measure_in_children
from pipeline.bench.cuda_precision import Precision, as_half, half, precision_of
from pipeline.bench.records import CudaRecord, CudaSettings
from pipeline.sources.contract import Progress, no_progress

Measure = Callable[..., CudaRecord]
FP16: Final[Precision] = "fp16"


def measure_models(
    models: Sequence[str],
    feeds_by_batch: Mapping[int, Feeds],
    *,
    tensorrt: bool,
    cpu_fallback: bool,
    measure: Measure = measure_in_children,
    progress: Progress = no_progress,
) -> CudaRecord:
    """All cells of every model; what the CPU answers at the least batch size is held against each.

    Args:
        models: ONNX files.
        feeds_by_batch: inputs by name, in the files' own types.
        tensorrt: whether the TensorRT provider's libraries are there.
        cpu_fallback: let nodes run on the CPU that the GPU cannot run.
        measure: ``measure_in_children``, or what stands for it in a test.
        progress: progress callback.
    """
    parts: list[CudaRecord] = []
    for k, model in enumerate(models):
        given = precision_of(Path(model))
        progress(f"CUDA matrix of {Path(model).name}, {given}", k / len(models))
        references, why_none = _references(model, feeds_by_batch)
        options = {"energy_window_s": LEAST_ENERGY_WINDOW_S, "references": references, "name": model}
        cells = matrix(precision=given, tensorrt=tensorrt, cpu_fallback=cpu_fallback)
        if given == FP16:  # the baseline of a model that comes in float16
            cells = (*cells, CudaSettings(stock=True, bound=False, tf32=True, precision=FP16))
        parts.append(measure(model, feeds_by_batch, cells, **options))
        if why_none:
            parts[-1] = parts[-1].model_copy(update={"failed": (*parts[-1].failed, why_none)})
        if given == FP16:
            continue
        with tempfile.TemporaryDirectory() as folder:
            variant = Path(folder) / "float16.onnx"
            if reason := half(Path(model), variant):
                parts[-1] = parts[-1].model_copy(update={"failed": (*parts[-1].failed, reason)})
                continue
            progress(f"CUDA matrix of {Path(model).name}, {FP16}", (k + 0.7) / len(models))
            halved = {batch: as_half(feeds) for batch, feeds in feeds_by_batch.items()}
            cells = matrix(precision=FP16, tensorrt=tensorrt, cpu_fallback=cpu_fallback)
            parts.append(measure(str(variant), halved, cells, **options))
    return joined(parts)


def _references(model: str, feeds_by_batch: Mapping[int, Feeds]) -> tuple[References, str]:
    """The CPU's answers at the least batch size, or why there are none."""
    from targets.reference import OrtSession

    batch = min(feeds_by_batch)
    try:
        with OrtSession(model) as session:
            return {batch: session.run(feeds_by_batch[batch])}, ""
    except FairleadError as error:
        return {}, f"outputs were not compared with the CPU's: {error}"
