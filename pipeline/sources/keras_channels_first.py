"""Channels-first convolutions of Keras models, on processors.

TensorFlow's own CPU kernels know channels last only, and Keras leaves the order as it is, except in pooling
and depthwise convolutions. oneDNN's kernels know both, but a conversion runs without them, to save memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any


@contextmanager
def convolutions_channels_last() -> Iterator[None]:
    """While active, channels-first convolutions turn their data, and turn the result back."""
    from keras.src import backend

    kept = backend.nn.conv, backend.nn.conv_transpose
    backend.nn.conv, backend.nn.conv_transpose = (_turned(one) for one in kept)
    try:
        yield
    finally:
        backend.nn.conv, backend.nn.conv_transpose = kept


def _turned(convolution: Callable[..., Any]) -> Callable[..., Any]:
    parameters = signature(convolution)

    def convolve(*args: Any, **options: Any) -> Any:
        import tensorflow as tf
        from keras.src import backend

        call = parameters.bind(*args, **options)
        inputs = call.arguments["inputs"]
        order = backend.standardize_data_format(call.arguments.get("data_format"))
        rank = len(inputs.shape)
        if order != "channels_first" or rank < 3:
            return convolution(*args, **options)
        call.arguments["inputs"] = tf.transpose(inputs, [0, *range(2, rank), 1])
        call.arguments["data_format"] = "channels_last"
        result = convolution(*call.args, **call.kwargs)
        return tf.transpose(result, [0, rank - 1, *range(1, rank - 1)])

    return convolve
