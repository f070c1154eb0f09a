"""All that a comparison needs of a model, asked at once, so that it can be closed before the next opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optim.contract import Array, Feeds, Outputs, TensorSpec
from pipeline.feeds import Dataset, batches
from targets.contract import Session

DATA_BATCH = 32


@dataclass(frozen=True)
class Answers:
    """What a session said of itself and answered; arrays are host arrays by output name."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    settings: Mapping[str, str]
    runs: Mapping[str, Outputs]  # by feed
    data: Outputs  # for all examples of the user's data; empty where there are none


def answers_of(
    session: Session,
    feeds: Mapping[str, Feeds],
    dataset: Dataset | None,
    specs: Sequence[TensorSpec],
    asked: Callable[[str], None],
) -> Answers:
    """Run ``session`` on every feed and on the data; ``asked`` is told each feed's name before it runs.

    Raises:
        UserError: the feeds or data do not fit.
    """
    runs: dict[str, Outputs] = {}
    for label, feed in feeds.items():
        asked(label)
        runs[label] = session.run(feed)
    data: Outputs = {}
    if dataset is not None:
        asked("the data")
        data = run_dataset(session, dataset, specs)
    settings = dict(getattr(session, "settings", {}))
    return Answers(tuple(session.inputs), tuple(session.outputs), settings, runs, data)


def run_dataset(session: Session, dataset: Dataset, specs: Sequence[TensorSpec]) -> Outputs:
    """Outputs for all examples, joined along the first axis."""
    parts: dict[str, list[Array]] = {}
    for batch in batches(dataset, specs, DATA_BATCH):
        for name, value in session.run(batch.feeds).items():
            array = np.asarray(value)
            parts.setdefault(name, []).append(array[: batch.count] if array.ndim else array[None])
    return {name: np.concatenate(pieces) for name, pieces in parts.items()}
