"""The user's test set as it is stored, for bundles whose users want to measure the accuracy themselves."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import Config
from pipeline.feeds import read_npz
from targets.test_set import TestSet

_MOST_BYTES = 256 << 20


def raw_test_set(config: Config) -> TestSet | None:
    """Raw examples and labels; None where there are no arrays, or more than a bundle should carry."""
    if config.data.path is None:
        return None
    path: Path = config.resolve(config.data.path)
    if path.suffix != ".npz":
        return None
    stored = read_npz(path)
    images = stored[config.data.input]
    labels = None if config.data.labels is None else stored[config.data.labels]
    if config.data.limit is not None:
        images = images[: config.data.limit]
        labels = None if labels is None else labels[: config.data.limit]
    return TestSet(images, labels) if images.nbytes <= _MOST_BYTES else None
