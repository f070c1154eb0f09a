"""The CPUs that this process may run on: in a container or under ``taskset``, fewer than the machine has."""

from __future__ import annotations

import os


def usable_cpus() -> list[int]:
    """Their numbers, ascending; empty where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def usable_cpu_count() -> int:
    """How many they are, at least 1; where the system does not say, all that the machine has."""
    return len(usable_cpus()) or os.cpu_count() or 1
