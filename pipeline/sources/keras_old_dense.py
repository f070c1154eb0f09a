"""Dense layers that later versions of Keras lack: Highway, MaxoutDense, RandomFourierFeatures."""

from __future__ import annotations

from typing import Any


def highway() -> Any:
    """Highway (Keras 1): t · f(x W + b) + (1 - t) · x with t = σ(x W_carry + b_carry)."""
    import keras

    class Highway(keras.layers.Layer):  # type: ignore[misc]
        """Weights W, W_carry [D, D], b, b_carry [D]."""

        def __init__(self, activation: str = "linear", use_bias: bool = True, **more: Any) -> None:
            for key in ("transform_bias", "input_dim"):
                more.pop(key, None)
            super().__init__(**more)
            self.activation, self.use_bias = keras.activations.get(activation), use_bias

        def build(self, input_shape: Any) -> None:
            size = input_shape[-1]
            shapes: dict[str, tuple[Any, ...]] = {"W": (size, size), "W_carry": (size, size)}
            if self.use_bias:
                shapes |= {"b": (size,), "b_carry": (size,)}
            self.parts = {
                name: self.add_weight(shape=shape, initializer="zeros", name=name)
                for name, shape in shapes.items()
            }
            super().build(input_shape)

        def call(self, x: Any) -> Any:
            part = self.parts
            gate = keras.ops.matmul(x, part["W_carry"])
            value = keras.ops.matmul(x, part["W"])
            if self.use_bias:
                gate, value = gate + part["b_carry"], value + part["b"]
            gate = keras.ops.sigmoid(gate)
            return gate * self.activation(value) + (1.0 - gate) * x

        def compute_output_shape(self, input_shape: Any) -> Any:
            return input_shape

    return Highway


def maxout_dense() -> Any:
    """MaxoutDense (Keras 1): the largest of several dense layers, element by element."""
    import keras

    class MaxoutDense(keras.layers.Layer):  # type: ignore[misc]
        """Weights W [features, D, units], b [features, units]."""

        def __init__(self, units: int, nb_feature: int = 4, use_bias: bool = True, **more: Any) -> None:
            more.pop("input_dim", None)
            super().__init__(**more)
            self.units, self.features, self.use_bias = units, nb_feature, use_bias

        def build(self, input_shape: Any) -> None:
            shape = (self.features, input_shape[-1], self.units)
            self.kernel = self.add_weight(shape=shape, initializer="zeros", name="W")
            if self.use_bias:
                self.bias = self.add_weight(shape=(self.features, self.units), initializer="zeros", name="b")
            super().build(input_shape)

        def call(self, x: Any) -> Any:
            # [D, features · units]: one product for all.
            flat = keras.ops.reshape(
                keras.ops.transpose(self.kernel, (1, 0, 2)), (-1, self.features * self.units)
            )
            value = keras.ops.reshape(keras.ops.matmul(x, flat), (-1, self.features, self.units))
            return keras.ops.max(value + self.bias if self.use_bias else value, axis=1)

        def compute_output_shape(self, input_shape: Any) -> Any:
            return (input_shape[0], self.units)

    return MaxoutDense


def random_fourier_features() -> Any:
    """RandomFourierFeatures (Keras 2): cos(x W / scale + b); the random W is stored like any weight."""
    import keras

    class RandomFourierFeatures(keras.layers.Layer):  # type: ignore[misc]
        """Weights in stored order: [kernel_scale,] unscaled_kernel [D, M], bias [M]."""

        def __init__(
            self, output_dim: int, trainable: bool = False, scale: float | None = None, **more: Any
        ) -> None:
            more.pop("kernel_initializer", None)
            super().__init__(trainable=trainable, **more)
            self.output_dim, self.scale = output_dim, scale

        def build(self, input_shape: Any) -> None:
            size = input_shape[-1]
            self.kernel_scale = self.add_weight(
                shape=(1,), initializer="ones", name="kernel_scale", trainable=self.trainable
            )
            self.unscaled = self.add_weight(
                shape=(size, self.output_dim), initializer="zeros", name="unscaled_kernel", trainable=False
            )
            self.bias = self.add_weight(
                shape=(self.output_dim,), initializer="zeros", name="bias", trainable=False
            )
            super().build(input_shape)

        def call(self, x: Any) -> Any:
            return keras.ops.cos(keras.ops.matmul(x, self.unscaled / self.kernel_scale) + self.bias)

        def compute_output_shape(self, input_shape: Any) -> Any:
            return (input_shape[0], self.output_dim)

    return RandomFourierFeatures
