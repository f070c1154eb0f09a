"""Examples from which a quantising target learns the range of every value; used in a build, not shipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from optim.contract import Array

CALIBRATION_FILE: Final = "calibration.npz"
_TOLD: Final = "told"


@dataclass(frozen=True)
class Calibration:
    """Arrays by input name, as the model takes them, examples first; ``told`` says where they are from."""

    feeds: Mapping[str, Array]
    told: str


def save_calibration(given: Calibration, folder: Path) -> None:
    """Write ``calibration.npz`` for the time of a build."""
    arrays = {f"in|{name}": array for name, array in given.feeds.items()}
    arrays[_TOLD] = np.array(given.told)
    np.savez(folder / CALIBRATION_FILE, allow_pickle=False, **arrays)  # type: ignore[arg-type, unused-ignore]


def load_calibration(folder: Path) -> Calibration | None:
    """What ``save_calibration`` wrote; None where there is nothing."""
    file = folder / CALIBRATION_FILE
    if not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as stored:
        feeds = {key[3:]: stored[key] for key in stored.files if key.startswith("in|")}
        return Calibration(feeds, str(stored[_TOLD]))
