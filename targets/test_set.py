"""Raw test examples in a bundle, as the user stored them: before any pre-processing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from optim.contract import Array

TEST_SET_FILE: Final = "test_set.npz"


@dataclass(frozen=True)
class TestSet:
    """Raw inputs, the examples first, and their class numbers (from 0) where there are some."""

    __test__ = False  # no test of pytest's

    images: Array
    labels: Array | None = None


def save_test_set(given: TestSet, folder: Path) -> None:
    """Write ``test_set.npz`` with keys ``images`` and ``labels``."""
    arrays = {"images": given.images} | ({} if given.labels is None else {"labels": given.labels})
    np.savez_compressed(folder / TEST_SET_FILE, allow_pickle=False, **arrays)  # type: ignore[arg-type, unused-ignore]


def load_test_set(folder: Path) -> TestSet | None:
    """What ``save_test_set`` wrote; None where there is nothing."""
    file = folder / TEST_SET_FILE
    if not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as stored:
        return TestSet(stored["images"], stored["labels"] if "labels" in stored.files else None)
