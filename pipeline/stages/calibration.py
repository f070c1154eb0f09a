"""Which of the user's examples an int8 target is calibrated on: not those that it is judged by."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from optim.contract import Array
from optim.model import load, signature
from pipeline.config import Config
from pipeline.feeds import load_data
from targets.calibration import Calibration

MOST: Final = 200  # more examples hardly widen the ranges that are seen
LEAST: Final = 16  # with fewer than these beside the references, the references serve too


def calibration_of(config: Config, model: Path, judged: int) -> Calibration | None:
    """Up to ``MOST`` examples of the run's data for ``model``; the first ``judged`` are its references.

    None where the run has no data, or an input that all examples share.
    """
    dataset = load_data(config, signature(load(model))[0])
    if dataset is None or dataset.shared:
        return None
    chosen, apart = chosen_examples(dataset.examples, judged)
    told = (
        "of the run's data, none of them among the references"
        if apart
        else (f"of the run's data, the references among them: there are only {dataset.examples}")
    )
    return Calibration({name: array[chosen] for name, array in dataset.feeds.items()}, told)


def chosen_examples(total: int, judged: int) -> tuple[Array, bool]:
    """Indices of the examples, ascending and evenly spread, and whether all lie behind the judged ones.

    Spread over all there is, since data are often sorted by class; the same each time.
    """
    apart = total - judged >= LEAST
    first = judged if apart else 0
    count = min(MOST, total - first)
    return first + np.linspace(0, total - first - 1, count).round().astype(np.int64), apart
