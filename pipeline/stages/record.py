"""Golden files on request: a model's answers to zeros and to a random input."""

from __future__ import annotations

from pathlib import Path

from pipeline.parity.golden import SUFFIXES, record
from pipeline.records import GoldenRecord, GoldenTensor
from pipeline.sources.contract import ConvertRequest, Progress
from pipeline.stages.parity import open_any


def record_golden(
    request: ConvertRequest, output: Path, *, seed: int, batch: int, progress: Progress
) -> GoldenRecord:
    """Run a source or artefact and write what it answers to ``output``.

    Raises:
        UserError: the model or the suffix is wrong, a dimension besides the batch is free, or an answer is
            not finite.
    """
    if output.suffix.lower() in SUFFIXES:  # an unknown one is refused by ``record`` with its own words
        progress("opening", 0.0)
    with open_any(request) as session:
        progress("recording", 0.5)
        golden = record(session, output, seed=seed, batch=batch, shapes=request.inputs)
    return GoldenRecord(
        output=str(output),
        model=request.model,
        seed=seed,
        tensors=tuple(
            GoldenTensor(key=key, name=name, dtype=str(value.dtype), shape=tuple(value.shape))
            for key, tensors in golden.arrays().items()
            for name, value in tensors.items()
        ),
    )
