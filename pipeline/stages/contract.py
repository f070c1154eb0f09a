"""What a stage of a run is given and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pipeline.config import Config
from pipeline.records import Record
from pipeline.sources.contract import Progress
from pipeline.sources.warm_child import WarmChild

RECORD_FILE = "record.json"
CONVERTED = "converted.onnx"
OPTIMIZED = "optimized.onnx"
DIVERGENCE = "divergence"  # the smallest models that part, where a comparison failed
BUNDLE = "bundle"

AnyRecord = TypeVar("AnyRecord", bound=Record)


@dataclass(frozen=True)
class StageContext:
    """Where a stage reads and writes. ``done`` maps the names of finished steps to their folders.

    ``warm`` hands the conversion's child on to the next stage that opens the source.
    """

    step: str
    config: Config
    done: Mapping[str, Path]
    out: Path
    progress: Progress
    warm: WarmChild | None = None

    def record_of(self, step: str, kind: type[AnyRecord]) -> AnyRecord:
        """The record of a finished step."""
        return read_record(self.done[step], kind)


class Stage(Protocol):
    """Writes its files into ``context.out`` and returns its record."""

    def __call__(self, context: StageContext) -> Record: ...


def read_record(folder: Path, kind: type[AnyRecord]) -> AnyRecord:
    """The record that a step left in its folder."""
    return kind.model_validate_json((folder / RECORD_FILE).read_text())
