"""Each cause of distrust is found by itself, and nothing is found where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.bench.grade import Seen, grade
from pipeline.bench.host import Host, Snapshot

HOST = Host(
    cpu_model="x", cores=4, threads=4, usable_threads=4, flags=(), governor="performance", max_mhz=0.0,
    memory_mib=8192, hypervisor=False, kernel="6", machine="x86_64", python="3.11",
)  # fmt: skip
OWN, OTHER = 1, 2
BEFORE = Snapshot(
    at_s=0.0, load_average=0.0, busy_s=100.0, steal_s=1.0, clock_probe_ms=5.0, mhz=3000.0, throttle_events=0,
    quota_throttled_s=0.0, cpu_s_by_process={OWN: ("bench", 10.0), OTHER: ("compiler", 50.0)},
)  # fmt: skip
AFTER = replace(
    BEFORE, at_s=10.0, busy_s=109.0, cpu_s_by_process={OWN: ("bench", 19.0), OTHER: ("compiler", 50.0)}
)
GOOD = Seen(
    samples=1000, settled=True, relative_half_width=0.01, threads=1, cpu_share=1.0, allow_spinning=False,
    process_spread=0.01,
)  # fmt: skip


def test_a_quiet_machine_gets_an_a() -> None:
    assert grade(GOOD, HOST, BEFORE, AFTER, [OWN]).model_dump() == {"letter": "A", "reasons": ()}


@pytest.mark.parametrize(
    ("after", "letter", "word"),
    [
        ({"clock_probe_ms": 5.5}, "B", "clock"),
        ({"clock_probe_ms": 8.0}, "C", "clock"),
        ({"mhz": 2000.0}, "B", "MHz"),
        ({"throttle_events": 3}, "C", "heat"),
        ({"quota_throttled_s": 2.0}, "C", "quota"),
        ({"steal_s": 2.0}, "B", "steal"),
        ({"steal_s": 6.0}, "C", "steal"),
        ({"busy_s": 115.0}, "B", "other processes"),
        ({"busy_s": 135.0}, "C", "other processes"),
    ],
)
def test_disturbances_of_the_host(after: dict[str, Any], letter: str, word: str) -> None:
    found = grade(GOOD, HOST, BEFORE, replace(AFTER, **after), [OWN])
    assert found.letter == letter
    assert len(found.reasons) == 1
    assert word in found.reasons[0]


@pytest.mark.parametrize(
    ("seen", "letter", "word"),
    [
        ({"samples": 60}, "B", "60 samples"),
        ({"relative_half_width": None}, "C", "do not support"),
        ({"relative_half_width": 0.08}, "B", "±8%"),
        ({"settled": False}, "C", "settled"),
        ({"threads": 8}, "C", "8 threads on 4"),
        ({"cpu_share": 3.0}, "C", "3.0 CPUs"),
        ({"threads": 2, "allow_spinning": True}, "B", "spinning"),
        ({"threads": 2, "spinning_controlled": False}, "B", "no switch"),
        ({"process_spread": 0.04}, "B", "differ by 4.0%"),
    ],
)
def test_faults_of_the_measurement(seen: dict[str, Any], letter: str, word: str) -> None:
    found = grade(replace(GOOD, **seen), HOST, BEFORE, AFTER, [OWN])
    assert found.letter == letter
    assert len(found.reasons) == 1
    assert word in found.reasons[0]


def test_the_governor_counts_where_the_system_shows_one() -> None:
    assert grade(GOOD, replace(HOST, governor="powersave"), BEFORE, AFTER, [OWN]).letter == "B"
    assert grade(GOOD, replace(HOST, governor=""), BEFORE, AFTER, [OWN]).letter == "A"


def test_two_grave_faults_make_a_d_and_the_culprit_is_named() -> None:
    busy = replace(AFTER, busy_s=135.0, cpu_s_by_process={OWN: ("bench", 19.0), OTHER: ("compiler", 75.0)})
    found = grade(replace(GOOD, settled=False), HOST, BEFORE, busy, [OWN])
    assert found.letter == "D"
    assert "compiler" in " ".join(found.reasons)
