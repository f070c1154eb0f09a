"""Rules of ``lower.py``: op → a function of its node and inputs, to its outputs, or None to leave it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from pipeline.sources.tf.graph import NodeDef

Lowering: TypeAlias = Callable[..., Sequence[Any] | None]


def _shape_n(node: NodeDef, *tensors: Any) -> Sequence[Any]:
    import tensorflow as tf

    kind = tf.as_dtype(node.attr["out_type"].type or tf.int32.as_datatype_enum)
    return [tf.raw_ops.Shape(input=tensor, out_type=kind) for tensor in tensors]


def _euclidean_norm(node: NodeDef, x: Any, axes: Any) -> Sequence[Any]:
    import tensorflow as tf

    return [tf.sqrt(tf.reduce_sum(x * x, axes, keepdims=node.attr["keep_dims"].b))]


def _mul_no_nan(_: NodeDef, x: Any, y: Any) -> Sequence[Any]:
    """x·y, but 0 wherever y is 0, whatever x is."""
    import tensorflow as tf

    return [tf.where(tf.equal(y, 0), tf.zeros_like(x * y), x * y)]


def _parallel_concat(_: NodeDef, *tensors: Any) -> Sequence[Any]:
    import tensorflow as tf

    return [tf.concat(list(tensors), 0)]


def _in_top_k(_: NodeDef, predictions: Any, targets: Any, k: Any) -> Sequence[Any]:
    """Fewer than k classes score higher than the target's, which is finite.

    tensorflow/core/kernels/in_topk_op.h; a target out of range, which would be false there, is an error.
    """
    import tensorflow as tf

    score = tf.gather(predictions, targets, axis=1, batch_dims=1)[:, None]
    higher = tf.reduce_sum(tf.cast(predictions > score, tf.int32), 1)
    finite = tf.reduce_all(tf.math.is_finite(predictions) | (predictions <= score), 1)
    return [(higher < tf.cast(k, tf.int32)) & finite & tf.math.is_finite(score[:, 0])]


def _in_top_k_v1(node: NodeDef, predictions: Any, targets: Any) -> Sequence[Any]:
    return _in_top_k(node, predictions, targets, node.attr["k"].i)


def _lower_bound(node: NodeDef, ordered: Any, values: Any) -> Sequence[Any]:
    """How many of ``ordered`` are smaller than each value; both [batch, n]."""
    import tensorflow as tf

    smaller = values[:, :, None] > ordered[:, None, :]
    return [_counted(node, tf.cast(smaller, tf.int32))]


def _upper_bound(node: NodeDef, ordered: Any, values: Any) -> Sequence[Any]:
    """How many of ``ordered`` are not larger than each value; both [batch, n]."""
    import tensorflow as tf

    smaller = values[:, :, None] >= ordered[:, None, :]
    return [_counted(node, tf.cast(smaller, tf.int32))]


def _counted(node: NodeDef, hits: Any) -> Any:
    import tensorflow as tf

    kind = node.attr["out_type"].type or tf.int32.as_datatype_enum
    return tf.cast(tf.reduce_sum(hits, -1), tf.as_dtype(kind))


def _fake_quant(node: NodeDef, x: Any, low: Any, high: Any) -> Sequence[Any] | None:
    """Rounding to a grid of 2^bits numbers; tensorflow/core/kernels/fake_quant_ops_functor.h.

    Left to the converter where it has a form of its own: eight bits over the whole range, for all channels.
    """
    import tensorflow as tf

    bits, narrow = node.attr["num_bits"].i or 8, node.attr["narrow_range"].b
    if bits == 8 and not narrow and not node.op.endswith("PerChannel"):
        return None
    first, last = (1.0 if narrow else 0.0), float(2**bits - 1)
    scale = (high - low) / (last - first)
    place = first - low / scale
    zero = tf.clip_by_value(tf.floor(place + 0.5), first, last)
    bottom, top = (first - zero) * scale, (last - zero) * scale
    clamped = tf.maximum(tf.minimum(x, top), bottom) - bottom
    return [tf.floor(clamped / scale + 0.5) * scale + bottom]


def _fake_quant_fixed(node: NodeDef, x: Any) -> Sequence[Any] | None:
    import tensorflow as tf

    low = node.attr["min"].f if "min" in node.attr else -6.0
    high = node.attr["max"].f if "max" in node.attr else 6.0
    return _fake_quant(node, x, tf.constant(low), tf.constant(high))


def _scatter_nd(_: NodeDef, indices: Any, updates: Any, shape: Any) -> Sequence[Any] | None:
    """Updates of one place add up. Left to the converter, which overwrites, where all places differ."""
    import numpy as np
    import tensorflow as tf

    known = tf.get_static_value(indices)
    if known is not None and len(known):
        rows = known.reshape(-1, known.shape[-1])
        if len(np.unique(rows, axis=0)) == len(rows):
            return None
    if updates.dtype not in (tf.float32, tf.float64, tf.int32, tf.int64):
        return None
    return [tf.tensor_scatter_nd_add(tf.zeros(shape, updates.dtype), indices, updates)]


def _set_diagonal(_: NodeDef, matrix: Any, diagonal: Any, k: Any) -> Sequence[Any] | None:
    """The main diagonal of [..., rows, columns] replaced; other diagonals are left to the converter."""
    import numpy as np
    import tensorflow as tf

    sizes = _main_diagonal(matrix, k)
    if sizes is None:
        return None
    rows, columns = sizes
    if rows > columns:
        diagonal = tf.concat([diagonal, tf.zeros_like(matrix[..., columns:, 0])], -1)
    return [tf.where(tf.constant(np.eye(rows, columns, dtype=bool)), diagonal[..., None], matrix)]


def _diagonal(_: NodeDef, matrix: Any, k: Any, _padding: Any) -> Sequence[Any] | None:
    """The main diagonal of [..., rows, columns]; other diagonals are left to the converter."""
    import numpy as np
    import tensorflow as tf

    sizes = _main_diagonal(matrix, k)
    if sizes is None:
        return None
    rows, columns = sizes
    flat = tf.reshape(matrix, tf.concat([tf.shape(matrix)[:-2], [rows * columns]], 0))
    places = np.arange(min(rows, columns), dtype=np.int32) * (columns + 1)
    return [tf.gather(flat, places, axis=-1)]


def _main_diagonal(matrix: Any, k: Any) -> tuple[int, int] | None:
    """Rows and columns, where both are known and ``k`` names the main diagonal alone."""
    import numpy as np
    import tensorflow as tf

    known = tf.get_static_value(k)
    if known is None or np.any(known != 0) or matrix.shape.rank is None:
        return None
    rows, columns = matrix.shape[-2:]
    return None if rows is None or columns is None else (int(rows), int(columns))


def _rgb_to_hsv(_: NodeDef, images: Any) -> Sequence[Any]:
    """Hue, saturation and value of [..., 3]; tensorflow/core/kernels/image/colorspace_op.h."""
    import tensorflow as tf

    r, g, b = tf.unstack(images, axis=-1)
    value = tf.reduce_max(images, -1)
    span = value - tf.reduce_min(images, -1)
    saturation = tf.where(value > 0, span / tf.where(value > 0, value, tf.ones_like(value)), tf.zeros_like(r))
    sixth = (1.0 / 6.0) / tf.where(span > 0, span, tf.ones_like(span))
    hue = tf.where(
        tf.equal(r, value),
        sixth * (g - b),
        tf.where(tf.equal(g, value), sixth * (b - r) + 2.0 / 6.0, sixth * (r - g) + 4.0 / 6.0),
    )
    hue = tf.where(span > 0, hue, tf.zeros_like(hue))
    return [tf.stack([tf.where(hue < 0, hue + 1.0, hue), saturation, value], -1)]


def _hsv_to_rgb(_: NodeDef, images: Any) -> Sequence[Any]:
    """Red, green and blue of [..., 3]; tensorflow/core/kernels/image/colorspace_op.h."""
    import tensorflow as tf

    hue, saturation, value = tf.unstack(images, axis=-1)
    sector = hue * 6.0
    parts = [
        tf.clip_by_value(tf.abs(sector - 3.0) - 1.0, 0.0, 1.0),
        tf.clip_by_value(2.0 - tf.abs(sector - 2.0), 0.0, 1.0),
        tf.clip_by_value(2.0 - tf.abs(sector - 4.0), 0.0, 1.0),
    ]
    return [tf.stack([(1.0 - saturation + saturation * part) * value for part in parts], -1)]


def _adjust_saturation(node: NodeDef, images: Any, scale: Any) -> Sequence[Any]:
    """tensorflow/core/kernels/image/adjust_saturation_op.cc"""
    import tensorflow as tf

    hue, saturation, value = tf.unstack(_rgb_to_hsv(node, images)[0], axis=-1)
    return _hsv_to_rgb(node, tf.stack([hue, tf.clip_by_value(saturation * scale, 0.0, 1.0), value], -1))


def _adjust_hue(node: NodeDef, images: Any, delta: Any) -> Sequence[Any]:
    """tensorflow/core/kernels/image/adjust_hue_op.cc"""
    import tensorflow as tf

    hue, saturation, value = tf.unstack(_rgb_to_hsv(node, images)[0], axis=-1)
    return _hsv_to_rgb(node, tf.stack([tf.math.floormod(hue + delta, 1.0), saturation, value], -1))


def _audio_spectrogram(node: NodeDef, samples: Any) -> Sequence[Any] | None:
    """Power or magnitude of the bins of overlapping frames, [samples, channels] → [channels, frames, bins];
    tensorflow/core/kernels/spectrogram.cc: a periodic Hann window, filled up to a power of two."""
    import numpy as np
    import tensorflow as tf

    size, stride = node.attr["window_size"].i, node.attr["stride"].i
    count = samples.shape[0] if samples.shape.rank else None
    if count is None:
        return None
    length = 1 << max(size - 1, 1).bit_length() if size > 2 else 2
    frames = max(1 + (int(count) - size) // stride, 0)
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(size) / size)
    angles = 2.0 * np.pi * (np.outer(np.arange(size), np.arange(length // 2 + 1)) % length) / length
    places = np.arange(frames)[:, None] * stride + np.arange(size)
    framed = tf.reshape(tf.gather(tf.transpose(samples), places, axis=1), [-1, size])
    parts = [
        tf.matmul(framed, (window[:, None] * wave(angles)).astype(np.float32)) for wave in (np.cos, np.sin)
    ]
    power = tf.reshape(parts[0] * parts[0] + parts[1] * parts[1], [-1, frames, length // 2 + 1])
    return [power if node.attr["magnitude_squared"].b else tf.sqrt(power)]


def _mfcc(node: NodeDef, spectrogram: Any, rate: Any) -> Sequence[Any] | None:
    """Mel-frequency cepstral coefficients of a power spectrogram [channels, frames, bins];
    tensorflow/core/kernels/mfcc.cc: logarithms of mel bands, at least 1e-12, and their cosine transform."""
    import numpy as np
    import tensorflow as tf

    known, bins = tf.get_static_value(rate), spectrogram.shape[-1] if spectrogram.shape.rank else None
    if known is None or bins is None:
        return None
    attributes = {
        key: (node.attr[key].f if key.endswith("limit") else node.attr[key].i) if key in node.attr else usual
        for key, usual in (
            ("upper_frequency_limit", 4000.0), ("lower_frequency_limit", 20.0),
            ("filterbank_channel_count", 40), ("dct_coefficient_count", 13),
        )
    }  # fmt: skip
    upper, lower, channels, coefficients = attributes.values()
    bands = _mel_bands(int(bins), float(known), int(channels), lower, upper)
    at = np.arange(channels) + 0.5
    cosines = np.sqrt(2.0 / channels) * np.cos(np.pi / channels * np.outer(at, np.arange(coefficients)))
    energies = tf.matmul(tf.sqrt(spectrogram), bands.astype(np.float32))
    return [tf.matmul(tf.math.log(tf.maximum(energies, 1e-12)), cosines.astype(np.float32))]


def _mel_bands(bins: int, rate: float, channels: int, lower: float, upper: float) -> Any:
    """How much of each bin goes into each mel band, [bins, channels];
    tensorflow/core/kernels/mfcc_mel_filterbank.cc"""
    import numpy as np

    def mel(frequency: Any) -> Any:
        return 1127.0 * np.log1p(frequency / 700.0)

    low = mel(lower)
    centres = low + (mel(upper) - low) / (channels + 1) * np.arange(1, channels + 2)
    width = 0.5 * rate / (bins - 1)
    first, last = int(1.5 + lower / width), int(upper / width)
    bands = np.zeros((bins, channels))
    for place in range(max(first, 0), min(last, bins - 1) + 1):
        here = mel(place * width)
        channel = int(np.searchsorted(centres[:channels], here)) - 1
        start = centres[channel] if channel >= 0 else low
        share = (centres[channel + 1] - here) / (centres[channel + 1] - start)
        if channel >= 0:
            bands[place, channel] += share
        if channel + 1 < channels:
            bands[place, channel + 1] += 1.0 - share
    return bands


FIRST_OPSET: Mapping[str, int] = {"ScatterNd": 16}
"""ONNX opset from which a rule's own ops can be converted, where that is not the first."""

LOWERINGS: Mapping[str, Lowering] = {
    "ShapeN": _shape_n,
    "EuclideanNorm": _euclidean_norm,
    "MulNoNan": _mul_no_nan,
    "ParallelConcat": _parallel_concat,
    "InTopK": _in_top_k_v1,
    "InTopKV2": _in_top_k,
    "LowerBound": _lower_bound,
    "UpperBound": _upper_bound,
    "FakeQuantWithMinMaxArgs": _fake_quant_fixed,
    "FakeQuantWithMinMaxVars": _fake_quant,
    "FakeQuantWithMinMaxVarsPerChannel": _fake_quant,
    "ScatterNd": _scatter_nd,
    "MatrixSetDiagV3": _set_diagonal,
    "MatrixDiagPartV2": _diagonal,
    "MatrixDiagPartV3": _diagonal,
    "RGBToHSV": _rgb_to_hsv,
    "HSVToRGB": _hsv_to_rgb,
    "AdjustSaturation": _adjust_saturation,
    "AdjustHue": _adjust_hue,
    "AudioSpectrogram": _audio_spectrogram,
    "Mfcc": _mfcc,
}
