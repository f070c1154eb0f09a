"""TFLite's integer requantisation, in terms of what changes before a single rounding.

An integer kernel scales its int32 sum by M = m · 2**-e, with m in [1/2, 1), in two steps: a rounding high
multiplication by m, then a rounding right shift by e (tensorflow/lite/kernels/internal/common.h,
MultiplyByQuantizedMultiplier). The first rounding lets every sum that comes within half a unit of a half step
pass for it, so that the result is ⌊sum · M + 1/2 + 2**-(e+1)⌋. Half a unit before the multiplication is
0.5 / m steps of the sum: added, it makes one rounding do what TFLite's two do. Measured on
a quantised ResNet-8: equal in every element of every layer.
"""

from __future__ import annotations

import numpy as np

from optim.contract import Array


def double_rounding_bias(multiplier: Array) -> Array:
    """What to add to the int32 sum, for effective scales M = input · filter / output (float64 [channels])."""
    mantissa, exponent = np.frexp(np.asarray(multiplier, np.float64))
    return np.where(exponent < 0, 0.5 / mantissa, 0.0)


def short_multiplier_gain(multiplier: Array) -> Array:
    """By what factor TFLite's 16-bit kernels are off, for effective scales M (float64 [channels]).

    With 64-bit sums they keep only 15 bits of the multiplier's mantissa (common.h,
    MultiplyByQuantizedMultiplier for int64), up to 3e-5 from the true one, the same for every element of a
    channel: the file's own numbers hold that factor.
    """
    mantissa, _exponent = np.frexp(np.asarray(multiplier, np.float64))
    fixed = np.floor(mantissa * 2.0**31 + 0.5)
    short = np.where(fixed < 0x7FFF0000, np.floor((fixed + 2.0**15) / 2.0**16), float(0x7FFF))
    gain: Array = np.where(mantissa > 0, short * 2.0**-15 / np.where(mantissa > 0, mantissa, 1.0), 1.0)
    return gain
