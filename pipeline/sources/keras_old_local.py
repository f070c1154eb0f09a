"""Locally connected layers (Keras 1 and 2): convolutions with weights of their own at every place."""

from __future__ import annotations

import itertools
from typing import Any

from optim.errors import UnsupportedModelError


def locally_connected(spatial: int) -> Any:
    """LocallyConnected1D or 2D, in the form of implementation 1: kernel [places, patch, filters].

    A patch lists its elements by row, column and channel (channel first where the data are). Source:
    keras 2.15, layers/locally_connected.
    """
    import keras

    class LocallyConnected(keras.layers.Layer):  # type: ignore[misc]
        """Valid padding only, as implementation 1 has it."""

        def __init__(self, filters: int, kernel_size: Any, strides: Any = 1, **more: Any) -> None:
            self.channels_first = more.pop("data_format", None) == "channels_first"
            self.use_bias = more.pop("use_bias", True)
            self.activation = keras.activations.get(more.pop("activation", None))
            for key in ("padding", "implementation"):
                more.pop(key, None)
            for key in [key for key in more if key.endswith(("_initializer", "_regularizer", "_constraint"))]:
                more.pop(key)
            super().__init__(**more)
            self.filters, self.kernel, self.strides = (
                filters,
                _each(kernel_size, spatial),
                _each(strides, spatial),
            )

        def build(self, input_shape: Any) -> None:
            sizes = input_shape[2:] if self.channels_first else input_shape[1:-1]
            channels = input_shape[1] if self.channels_first else input_shape[-1]
            if None in sizes:
                raise UnsupportedModelError(
                    f"layer '{self.name}' needs a fixed input size", where=self.name, layer=self.name
                )
            self.places = tuple(
                (n - k) // s + 1 for n, k, s in zip(sizes, self.kernel, self.strides, strict=True)
            )
            count, patch = _product(self.places), _product(self.kernel) * channels
            self.weight = self.add_weight(
                shape=(count, patch, self.filters), initializer="zeros", name="kernel"
            )
            if self.use_bias:
                shape = (self.filters, *self.places) if self.channels_first else (*self.places, self.filters)
                self.bias = self.add_weight(shape=shape, initializer="zeros", name="bias")
            super().build(input_shape)

        def call(self, x: Any) -> Any:
            ops = keras.ops
            to_last = (0, *range(2, spatial + 2), 1)
            x = ops.transpose(x, to_last) if self.channels_first else x
            windows = [
                x[(slice(None), *(
                    slice(at, at + (n - 1) * s + 1, s)
                    for at, n, s in zip(offset, self.places, self.strides, strict=True)
                ))]
                for offset in itertools.product(*(range(k) for k in self.kernel))
            ]  # fmt: skip
            axis = -1 if self.channels_first else -2  # [..., C, k] or [..., k, C]
            patches = ops.reshape(ops.stack(windows, axis=axis), (-1, *self.weight.shape[:2]))
            value = ops.matmul(ops.transpose(patches, (1, 0, 2)), self.weight)  # [places, B, filters]
            value = ops.reshape(ops.transpose(value, (1, 0, 2)), (-1, *self.places, self.filters))
            if self.channels_first:
                value = ops.transpose(value, (0, spatial + 1, *range(1, spatial + 1)))
            return self.activation(value + self.bias if self.use_bias else value)

        def compute_output_shape(self, input_shape: Any) -> Any:
            if self.channels_first:
                return (input_shape[0], self.filters, *self.places)
            return (input_shape[0], *self.places, self.filters)

    LocallyConnected.__name__ = f"LocallyConnected{spatial}D"
    return LocallyConnected


def _each(value: Any, count: int) -> tuple[int, ...]:
    return (int(value),) * count if isinstance(value, int) else tuple(int(one) for one in value)


def _product(sizes: tuple[int, ...]) -> int:
    product = 1
    for size in sizes:
        product *= int(size)
    return product
