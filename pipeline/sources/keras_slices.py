"""Large stored weights into Keras variables, a slice at a time.

Keras converts a weight that it has read to a tensor and copies that: three times its size, for the moment
that decides how much memory a conversion needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LARGE_BYTES = 32 << 20


@contextmanager
def weights_in_slices() -> Iterator[None]:
    """While active, a large stored array goes into its variable in slices along its first axis."""
    import numpy as np
    from keras import Variable

    whole = Variable.assign

    def assign(self: Any, value: Any) -> Any:
        fits = (
            isinstance(value, np.ndarray)
            and value.nbytes > LARGE_BYTES
            and tuple(value.shape) == tuple(self.shape)
            and value.dtype == self.dtype
        )
        if not fits:
            return whole(self, value)
        rows = max(1, value.shape[0] * LARGE_BYTES // value.nbytes)
        for start in range(0, value.shape[0], rows):
            part = slice(start, start + rows)
            self.value[part].assign(value[part])
        return value

    Variable.assign = assign
    try:
        yield
    finally:
        Variable.assign = whole
