"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The shared corpus of real models, or a skip with the reason."""
    place = Path(os.environ.get("FAIRLEAD_CORPUS", REPOSITORY.parent / "shared" / "corpus"))
    if not (place / "manifest.json").is_file():
        pytest.skip(f"no corpus at {place}; set FAIRLEAD_CORPUS to its folder")
    return place
