"""Text that TensorFlow gives as bytes, as the text that other runtimes give."""

from __future__ import annotations

import numpy as np

from optim.contract import Array


def as_text(array: Array) -> Array:
    """Bytes decoded as UTF-8; anything else as it is."""
    if array.dtype.kind not in "OS":
        return array
    decoded: Array = np.empty(array.shape, object)
    decoded.reshape(-1)[:] = [
        one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in array.reshape(-1)
    ]
    return decoded
