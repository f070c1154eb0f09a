"""What a builder hands back, and how raw data become a model's input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from saving import write_whole

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Encoder:
    """x = (raw · scale − mean) / std, per channel; the numbers of a config's ``data.preprocess``."""

    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __call__(self, raw: npt.NDArray[Any]) -> Floats:
        """Raw images [N, ..., C] to float32 of the same shape."""
        mean = np.asarray(self.mean or 0.0, np.float32)
        std = np.asarray(self.std or 1.0, np.float32)
        return np.asarray((raw.astype(np.float32) * np.float32(self.scale) - mean) / std, np.float32)


@dataclass(frozen=True)
class Built:
    """A model as it was written.

    ``parameters`` counts the scalars that inference reads (moving statistics included, optimiser slots not);
    ``variables`` gives their shapes; ``accuracy`` is on the held-out images, None where nothing was trained.
    """

    model: Path
    inputs: Mapping[str, tuple[int | None, ...]]
    outputs: tuple[str, ...]
    parameters: int
    variables: Mapping[str, tuple[int, ...]]
    encoder: Encoder = field(default_factory=Encoder)
    accuracy: float | None = None

    def write_summary(self, path: Path) -> Path:
        """The record as JSON, the model's path relative to it."""
        content = {**asdict(self), "model": self.model.relative_to(path.parent).as_posix()}
        return write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
