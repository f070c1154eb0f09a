"""From raw data to a model's input, as ``preprocess.json`` says it: x = (raw · scale − mean) / std."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from optim.contract import TensorSpec
from optim.errors import UserError

Layout = Literal["NHWC", "NCHW"]
_IMAGE_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Preprocessing:
    """Scale first, then subtract the per-channel mean, then divide by the per-channel standard deviation."""

    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Layout | None = None  # None: found from the input's shape

    def for_input(self, spec: TensorSpec) -> dict[str, object]:
        """The content of ``preprocess.json`` for the input ``spec``.

        Raises:
            UserError: mean or std do not have one entry a channel.
        """
        layout = self.layout or image_layout(spec.shape)
        channels: int | None = None
        size: list[int] | None = None
        if layout is not None:
            c, h, w = (3, 1, 2) if layout == "NHWC" else (1, 2, 3)
            found = spec.shape[c]
            channels = found if isinstance(found, int) else None
            height, width = spec.shape[h], spec.shape[w]
            size = [height, width] if isinstance(height, int) and isinstance(width, int) else None
        for name, values in (("mean", self.mean), ("std", self.std)):
            if channels is not None and len(values) not in (0, 1, channels):
                raise UserError(
                    f"{len(values)} values for {channels} channels",
                    where=f"preprocess.{name}",
                    expected="one a channel",
                )
        return {
            "input": spec.name,
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "layout": layout,
            "channels": channels,
            "size": size,
            "scale": self.scale,
            "mean": list(self.mean),
            "std": list(self.std),
            "formula": "x = (raw * scale - mean) / std",
        }


def image_layout(shape: tuple[int | str | None, ...]) -> Layout | None:
    """Where the channels are in a rank-4 image batch; None for anything that is not clearly one."""
    if len(shape) != 4:
        return None
    last, first = shape[3] in _IMAGE_CHANNELS, shape[1] in _IMAGE_CHANNELS
    if last == first:
        return None
    return "NHWC" if last else "NCHW"
