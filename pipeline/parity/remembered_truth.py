"""A float64 session that evaluates each input once: several parts of a run ask for the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from optim.contract import Feeds, Outputs
from targets.reference import Float64Session


class RememberedTruth(Float64Session):
    """``Float64Session`` that keeps what it answered; outputs alone are held, not the inputs."""

    def __init__(self, model: Path, *, expose: Sequence[str] = ()) -> None:
        super().__init__(model, expose=expose)
        self._answers: dict[bytes, Outputs] = {}

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs keyed by name; floating-point ones are float64."""
        key = _digest(feeds)
        if key not in self._answers:
            self._answers[key] = super().run(feeds)
        return dict(self._answers[key])


def _digest(feeds: Feeds) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(feeds):
        array = np.ascontiguousarray(feeds[name])
        digest.update(f"\0{name}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
    return digest.digest()
