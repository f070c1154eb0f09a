"""The promise of the verdict, by simulation: few false claims, and real differences are found."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.bench.stats import compare_groups, judge, ratio_of_medians
from pipeline.bench.study import LEAST_EFFECT, calibration
from tests.bench.noise import Noise, measured

COMPARISONS = 200
LOADS = {
    "quiet": Noise(load=0.01, own=0.01, stolen=0.005, drift=0.02, process=0.005),
    "shared": Noise(),
    "slow waves": Noise(load=0.3, load_memory=0.999),
    "sensitive to memory": Noise(process=0.02),
}


def verdicts(noise: Noise, effect: float, seed: int, rounds: int = 60) -> list[str]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(COMPARISONS):
        groups = measured(rng, effect=effect, noise=noise, rounds=rounds)
        ratio = compare_groups(groups, "a", "b")
        found.append(judge(ratio, calibration(groups), least_effect=LEAST_EFFECT))
    return found


@pytest.mark.parametrize("load", LOADS)
def test_at_most_one_in_twenty_equal_pairs_is_called_different(load: str) -> None:
    found = verdicts(LOADS[load], 0.0, seed=1)
    assert sum(v != "no_difference_shown" for v in found) <= 0.05 * COMPARISONS, found


@pytest.mark.parametrize(("load", "rounds"), [("quiet", 60), ("shared", 240)])
def test_four_in_five_true_differences_of_five_percent_are_found(load: str, rounds: int) -> None:
    """Under load it takes longer."""
    found = verdicts(LOADS[load], 0.05, seed=2, rounds=rounds)
    assert found.count("slower") >= 0.8 * COMPARISONS
    assert "faster" not in found


def test_rounds_alone_would_claim_what_is_only_the_process() -> None:
    """Why each contender runs in several processes: the plain paired comparison is wrong most of the time."""
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(50):
        groups = measured(rng, effect=0.0, noise=LOADS["sensitive to memory"], processes=1, rounds=120)
        wrong += judge(ratio_of_medians(groups["a"][0], groups["b"][0])) != "no_difference_shown"
    assert wrong > 15
