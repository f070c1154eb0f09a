"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Heed interrupts. A job that a shell puts in the background ignores them, and so would every child that
    a test interrupts."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
