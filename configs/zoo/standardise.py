"""Give untrained layers weights under which activations stay in a healthy range.

Layer by layer, on calibration images: each output channel's weights are divided by the standard deviation
that the channel shows, and its bias set so that its mean is a small random number. It is the data-dependent
initialisation of Krähenbühl et al. 2016 (arXiv:1511.06856), with the mean drawn rather than zero, so that
no bias is 0 and every rectifier passes some of its input and stops some.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def he_normal(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Normal weights [..., in, out] with variance 2 / fan-in (He et al. 2015, arXiv:1502.01852)."""
    deviation = np.float32(np.sqrt(2.0 / np.prod(shape[:-1])))
    return rng.standard_normal(shape, dtype=np.float32) * deviation


def standardise(
    apply: Callable[[Floats, Floats], Floats],
    weights: Floats,
    rng: np.random.Generator,
    *,
    spread: float = 1.0,
    off_centre: float = 0.3,
) -> tuple[Floats, Floats, Floats]:
    """Weights, biases and output of one layer whose channels have the wanted statistics.

    Args:
        apply: (weights [..., C], biases [C]) to the layer's output before its activation, [..., C].
        weights: the weights to start from.
        rng: draws each channel's mean, normal with deviation ``off_centre · spread``.
        spread: wanted standard deviation of every channel over calibration images and places.
        off_centre: how far means lie from zero, as a share of ``spread``.
    """
    channels = weights.shape[-1]
    plain = apply(weights, np.zeros(channels, np.float32)).reshape(-1, channels)
    mean, deviation = plain.mean(axis=0, dtype=np.float64), plain.std(axis=0, dtype=np.float64)
    if not (deviation > 0).all():
        raise ValueError(f"{int((deviation <= 0).sum())} of {channels} channels do not vary on the images")
    gain = spread / deviation
    wanted = rng.normal(0.0, off_centre * spread, channels)
    scaled = (weights * gain).astype(np.float32)
    biases = (wanted - mean * gain).astype(np.float32)
    return scaled, biases, apply(scaled, biases)


def numpy_of(tensor: Any) -> Floats:
    """An eager tensor as float32 array."""
    return np.asarray(tensor, np.float32)
