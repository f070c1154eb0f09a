"""Simulated latencies of a shared machine: drift, autocorrelated load, stolen slices, and process bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter


@dataclass(frozen=True)
class Noise:
    """Relative sizes, in the log domain."""

    load: float = 0.15  # standard deviation of the load that both contenders share
    load_memory: float = 0.95  # autocorrelation of it from run to run
    own: float = 0.03  # of each run by itself
    drift: float = 0.1  # over the whole measurement
    stolen: float = 0.05  # share of runs that a stolen slice lengthens
    process: float = 0.01  # standard deviation between processes with the same model


Blocks = dict[str, list[list[NDArray[np.float64]]]]


def autoregressive(rng: np.random.Generator, n: int, memory: float) -> NDArray[np.float64]:
    """AR(1) with unit variance, [n]."""
    kicks = rng.standard_normal(n) * np.sqrt(1 - memory**2)
    kicks[0] = rng.standard_normal()
    filtered: NDArray[np.float64] = lfilter([1.0], [1.0, -memory], kicks)
    return filtered


def measured(
    rng: np.random.Generator,
    *,
    effect: float,
    noise: Noise,
    processes: int = 4,
    rounds: int = 60,
    runs: int = 8,
) -> Blocks:
    """Blocks of contenders a and b, b slower by ``effect``, interleaved in random order."""
    children = [(name, k) for name in "ab" for k in range(processes)]
    bias = {child: noise.process * rng.standard_normal() for child in children}
    n = rounds * runs * len(children)
    log = noise.load * autoregressive(rng, n, noise.load_memory) + noise.drift * np.linspace(0, 1, n)
    log += noise.own * rng.standard_normal(n)
    log += np.where(rng.random(n) < noise.stolen, np.log1p(rng.exponential(0.5, n)), 0.0)
    blocks: Blocks = {name: [[] for _ in range(processes)] for name in "ab"}
    at = 0
    for _ in range(rounds):
        for i in rng.permutation(len(children)):
            name, k = children[i]
            shift = bias[name, k] + (np.log1p(effect) if name == "b" else 0.0)
            blocks[name][k].append(np.exp(log[at : at + runs] + shift))
            at += runs
    return blocks
