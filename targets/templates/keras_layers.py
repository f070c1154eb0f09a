"""Layers that Keras lacks, registered so that model.keras loads: import this module first."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="fairlead")
class LocalResponseNormalization(keras.layers.Layer):  # type: ignore[misc]
    """x / (bias + alpha / size * sum of x² over size neighbouring channels) ** beta, channels last.

    The window of channel c is c - floor((size - 1) / 2) ... c + ceil((size - 1) / 2), cut at the ends.
    """

    def __init__(
        self, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.size, self.alpha, self.beta, self.bias = size, alpha, beta, bias

    def call(self, x: Any) -> Any:
        before, after = (self.size - 1) // 2, self.size // 2
        channels = x.shape[-1]
        squares = ops.pad(ops.square(x), [(0, 0)] * (len(x.shape) - 1) + [(before, after)])
        total = squares[..., :channels]
        for shift in range(1, self.size):
            total = ops.add(total, squares[..., shift : shift + channels])
        return x / ops.power(self.bias + (self.alpha / self.size) * total, self.beta)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {"size": self.size, "alpha": self.alpha, "beta": self.beta, "bias": self.bias}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="fairlead")
class ConstantOperand(keras.layers.Layer):  # type: ignore[misc]
    """An elementwise function of the input and a constant array, e.g. the input plus a bias of any shape."""

    FUNCTIONS = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "power")

    def __init__(
        self, function: str, constant_first: bool = False, shape: tuple[int, ...] = (), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if function not in self.FUNCTIONS:
            raise ValueError(f"function is one of {self.FUNCTIONS}, not {function!r}")
        self.function, self.constant_first, self.shape = function, constant_first, tuple(shape)

    def build(self, _input_shape: tuple[int | None, ...]) -> None:
        self.constant = self.add_weight(shape=self.shape, name="constant", trainable=False)

    def call(self, x: Any) -> Any:
        pair = (self.constant, x) if self.constant_first else (x, self.constant)
        return getattr(ops, self.function)(*pair)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        constant = (1,) * (len(input_shape) - len(self.shape)) + self.shape
        return tuple(b if a == 1 else a for a, b in zip(input_shape, constant, strict=True))

    def get_config(self) -> dict[str, Any]:
        own = {"function": self.function, "constant_first": self.constant_first, "shape": self.shape}
        return {**super().get_config(), **own}
