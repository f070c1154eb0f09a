"""A worker that one item takes down, as a framework's segmentation fault would."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from benchmarks import corpus_worker
from pipeline.sources.contract import Progress


def score_item(item: Mapping[str, Any], corpus: str, progress: Progress) -> dict[str, Any]:
    """As the real one, but for the item called fatal."""
    if item["name"] == "fatal":
        os.kill(os.getpid(), signal.SIGSEGV)
    return corpus_worker.score_item(item, corpus, progress)
