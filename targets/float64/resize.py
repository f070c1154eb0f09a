"""Resize and Upsample as separable interpolation: a few weighted taps along one axis after another.

Coordinates and weights: https://onnx.ai/onnx/operators/onnx__Resize.html; cubic kernel: Keys (1981).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from targets.float64.call import Call, NotCoveredError
from targets.float64.windows import Array, Module


def coordinates(mode: str, length: int, size: int, scale: float) -> np.ndarray:
    """Where each of ``length`` output cells lies in an input axis of ``size`` cells."""
    x = np.arange(length, dtype=np.float64)
    if mode == "half_pixel":
        return (x + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return (x + 0.5) / scale - 0.5 if length > 1 else np.zeros(length)
    if mode == "half_pixel_symmetric":
        adjustment = length / (scale * size)
        return size / 2 * (1 - adjustment) + (x + 0.5) / scale - 0.5
    if mode == "align_corners":
        return x * (size - 1) / (length - 1) if length > 1 else np.zeros(length)
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_half_pixel_for_nn":
        return (x + 0.5) / scale
    raise NotCoveredError(f"coordinate_transformation_mode {mode!r}")


def nearest_index(position: np.ndarray, rounding: str) -> np.ndarray:
    """Index of the nearest cell; ties go as ``rounding`` says."""
    whole = {
        "round_prefer_floor": np.ceil(position - 0.5),
        "round_prefer_ceil": np.floor(position + 0.5),
        "floor": np.floor(position),
        "ceil": np.ceil(position),
    }[rounding]
    return np.asarray(whole, dtype=np.int64)


def taps(
    mode: str,
    position: np.ndarray,
    size: int,
    *,
    rounding: str,
    cubic_a: float,
    exclude_outside: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Indices and weights, both [length, taps]; indices clamped to the axis."""
    if mode == "nearest":
        index = nearest_index(position, rounding)[:, None]
        weight = np.ones_like(index, dtype=np.float64)
    elif mode == "linear":
        low = np.floor(position)
        fraction = position - low
        index = low.astype(np.int64)[:, None] + np.arange(2)
        weight = np.stack([1 - fraction, fraction], axis=1)
    elif mode == "cubic":
        low = np.floor(position)
        index = low.astype(np.int64)[:, None] + np.arange(-1, 3)
        distance = np.abs(position[:, None] - index)
        a = cubic_a
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    else:
        raise NotCoveredError(f"Resize mode {mode!r}")
    if exclude_outside:
        weight = np.where((index >= 0) & (index < size), weight, 0.0)
        weight = weight / weight.sum(axis=1, keepdims=True)
    return np.clip(index, 0, size - 1), weight


def interpolate(xp: Module, x: Array, axis: int, index: np.ndarray, weight: np.ndarray) -> Array:
    """Sum over taps of ``weight * x`` along one axis."""
    shape = [1] * x.ndim
    shape[axis] = index.shape[0]
    result = None
    for tap in range(index.shape[1]):
        part = xp.take(x, xp.asarray(index[:, tap]), axis=axis)
        if index.shape[1] > 1:
            part = part * xp.asarray(weight[:, tap]).reshape(shape)
        result = part if result is None else result + part
    return result


def _separable(
    call: Call,
    x: Array,
    axes: Sequence[int],
    scales: Sequence[float],
    lengths: Sequence[int],
    *,
    mode: str,
    coordinate: str,
    rounding: str,
) -> tuple[Array, ...]:
    for axis, scale, length in zip(axes, scales, lengths, strict=True):
        size = x.shape[axis]
        if length == size and scale == 1.0:
            continue
        position = coordinates(coordinate, length, size, scale)
        index, weight = taps(
            mode,
            position,
            size,
            rounding=rounding,
            cubic_a=call.number("cubic_coeff_a", -0.75),
            exclude_outside=bool(call.integer("exclude_outside", 0)),
        )
        x = interpolate(call.xp, x, axis, index, weight)
    return (x,)


def resize(call: Call) -> tuple[Array, ...]:
    """ONNX Resize, opset 10 and later."""
    x = call.tensor(0)
    if call.opset < 11:
        return upsample(call)
    keep = call.text("keep_aspect_ratio_policy", "stretch")
    if call.integer("antialias", 0) or keep != "stretch":
        raise NotCoveredError("Resize with antialias or a kept aspect ratio")
    axes = call.integers("axes") or tuple(range(x.ndim))
    given, sizes = call.host(2), call.host_ints(3)
    if sizes:
        lengths = tuple(sizes)
        scales = tuple(n / x.shape[a] for n, a in zip(lengths, axes, strict=True))
    elif given is not None and given.size:
        scales = tuple(float(s) for s in given)
        lengths = tuple(_scaled(x.shape[a], s) for s, a in zip(scales, axes, strict=True))
    else:
        raise NotCoveredError("Resize without scales and sizes")
    return _separable(
        call,
        x,
        axes,
        scales,
        lengths,
        mode=call.text("mode", "nearest"),
        coordinate=call.text("coordinate_transformation_mode", "half_pixel"),
        rounding=call.text("nearest_mode", "round_prefer_floor"),
    )


def _scaled(length: int, scale: float) -> int:
    """floor(length · scale) in float32, as runtimes compute a size: 7 · float32(11 / 7) is 11 there alone."""
    return int(np.floor(np.float32(length) * np.float32(scale)))


def upsample(call: Call) -> tuple[Array, ...]:
    """ONNX Upsample-7/9 and Resize-10: asymmetric coordinates, nearest rounds down."""
    x = call.tensor(0)
    if "scales" in call.attributes:
        scales = tuple(float(s) for s in call.attributes["scales"])
    else:
        given = call.host(1)
        if given is None:
            raise NotCoveredError("Upsample without scales")
        scales = tuple(float(s) for s in given)
    lengths = tuple(_scaled(n, s) for n, s in zip(x.shape, scales, strict=True))
    mode = call.text("mode", "nearest")
    return _separable(
        call,
        x,
        range(x.ndim),
        scales,
        lengths,
        mode="linear" if mode == "bilinear" else mode,
        coordinate="asymmetric",
        rounding="floor",
    )
