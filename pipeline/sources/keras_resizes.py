"""Keras models that resize to a size known only when they run, such as a U-Net for pictures of any size.

``keras.ops.image.resize`` (3.15) asks in Python whether a size is positive, which a symbolic size cannot
answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def free_resizes() -> Iterator[None]:
    """While active, a resize to a symbolic size goes to the backend unasked."""
    import tensorflow as tf
    from keras.src import backend
    from keras.src.ops import image

    asking = image.resize

    def resize(images: Any, size: Any, *args: Any, **options: Any) -> Any:
        symbolic = isinstance(size, tuple | list) and any(tf.is_symbolic_tensor(one) for one in size)
        chosen = backend.image.resize if symbolic else asking
        return chosen(images, size, *args, **options)

    image.resize = resize
    try:
        yield
    finally:
        image.resize = asking
