"""Room on a GPU: whether another session fits beside those that are open, and how many processes do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

UNKNOWN_MIB: Final = 2048.0  # of a session of which nothing is known yet
RESERVE: Final = 0.1  # of all memory: arenas grow by powers of two, libraries load late
CONTEXT_MIB: Final = 600.0  # a process's own: CUDA's context and the libraries' code
SHARE: Final = 0.8  # of what is free, for all processes together
WEIGHTS_FACTOR: Final = 6.0  # an arena that doubles, workspaces and activations, over the model's file


def expected_mib(seen: Mapping[int, float], batch: int) -> float:
    """What the next session will take at a batch size, from what others took, by batch size.

    The largest at this batch size, or that of the next smaller one in proportion.
    """
    if batch in seen:
        return seen[batch]
    smaller = [size for size in seen if size < batch]
    return seen[max(smaller)] * batch / max(smaller) if smaller else UNKNOWN_MIB


def has_room(free_mib: float, total_mib: float, wanted_mib: float) -> bool:
    """Whether a session of this size may be opened."""
    return free_mib - RESERVE * total_mib >= wanted_mib


def gpu_process_mib(file_bytes: int) -> float:
    """Device memory that a process with a session of such a model takes, roughly, in MiB."""
    return CONTEXT_MIB + WEIGHTS_FACTOR * file_bytes / 2**20


def processes_on_gpu(free_mib: float | None, each_mib: float) -> int | None:
    """How many processes fit the free device memory, at least 1; None where it is not known."""
    return None if free_mib is None else max(1, int(SHARE * free_mib / each_mib))
