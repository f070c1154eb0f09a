"""Pictures of what layers compute, side by side: a few channels of a few layers, kept small.

Stored as ``.npz``: a picture is ``N|SIDE``, uint8 [channels, H, W], in one scale for all sides of a layer,
and beside it stands ``N|about``, a JSON string: layer, least and greatest value.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from optim.contract import Array
from pipeline.feeds import read_npz
from pipeline.parity.match_layout import align

MOST_LAYERS, MOST_CHANNELS, MOST_PIXELS = 16, 6, 56


@dataclass(frozen=True)
class FeatureMaps:
    """One layer's pictures, by side, each [channels, H, W] in uint8."""

    layer: str
    low: float
    high: float
    sides: Mapping[str, Array] = field(default_factory=dict)


def feature_maps(layer: str, values: Mapping[str, Array], reference: str) -> FeatureMaps | None:
    """The first channels of the first example on every side, in one scale; None where they are no pictures.

    Args:
        values: [N, C, H, W] on the side ``reference``; the others in any axis order.
    """
    first = values.get(reference)
    if first is None or first.ndim != 4 or min(first.shape[2:]) < 4 or first.dtype.kind != "f":
        return None
    pictures: dict[str, Array] = {}
    for side, value in values.items():
        pair = align(first, value)
        if pair is None or pair.got.shape != first.shape:
            continue
        step = max(1, -(-max(first.shape[2:]) // MOST_PIXELS))  # every pixel, or every second, third …
        pictures[side] = pair.got[0, :MOST_CHANNELS, ::step, ::step].astype(np.float64)
    shown = np.concatenate([p.ravel() for p in pictures.values()])
    if not np.isfinite(shown).all():
        return None
    low, high = float(shown.min()), float(shown.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    grey = {side: np.rint((p - low) * scale).astype(np.uint8) for side, p in pictures.items()}
    return FeatureMaps(layer, low, high, grey)


def spread(count: int) -> frozenset[int]:
    """Which of ``count`` layers are drawn: all, or evenly spread ones, the first and last among them."""
    if count == 0:
        return frozenset()
    return frozenset(np.linspace(0, count - 1, min(count, MOST_LAYERS)).round().astype(int).tolist())


def write_feature_maps(maps: Iterable[FeatureMaps], path: Path) -> None:
    """Store pictures; an empty file where there are none."""
    arrays: dict[str, Array] = {}
    for index, one in enumerate(maps):
        arrays[f"{index}|about"] = np.array(json.dumps([one.layer, one.low, one.high]))
        arrays |= {f"{index}|{side}": picture for side, picture in one.sides.items()}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def read_feature_maps(path: Path) -> tuple[FeatureMaps, ...]:
    """Pictures as they were stored; none where there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return ()
    stored = read_npz(path)
    count = sum(key.endswith("|about") for key in stored)
    found = []
    for index in range(count):
        layer, low, high = json.loads(str(stored[f"{index}|about"]))
        sides = {
            key.partition("|")[2]: value
            for key, value in stored.items()
            if key.startswith(f"{index}|") and not key.endswith("|about")
        }
        found.append(FeatureMaps(layer, low, high, sides))
    return tuple(found)
