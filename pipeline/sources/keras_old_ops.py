"""TensorFlow functions that a functional model of Keras 2 holds as layers: TFOpLambda, SlicingOpLambda.

The file names the function. Only functions that compute and nothing else are called: a file must not reach
the file system or Python through a name.
"""

from __future__ import annotations

from typing import Any

from pipeline.sources.keras_refusal import lost_layer

_MODULES = ("math", "nn", "linalg", "image", "signal", "__operators__")
_PLAIN = frozenset(
    {
        "abs", "add", "add_n", "argmax", "argmin", "argsort", "boolean_mask", "broadcast_to", "cast", "ceil",
        "clip_by_value", "concat", "convert_to_tensor", "cos", "cumsum", "divide", "einsum", "equal", "exp",
        "expand_dims", "eye", "fill", "floor", "gather", "gather_nd", "greater", "greater_equal", "identity",
        "less", "less_equal", "linspace", "logical_and", "logical_not", "logical_or", "matmul", "maximum",
        "meshgrid", "minimum", "multiply", "negative", "norm", "not_equal", "one_hot", "ones", "ones_like",
        "pad", "pow", "range", "rank", "reduce_all", "reduce_any", "reduce_logsumexp", "reduce_max",
        "reduce_mean", "reduce_min", "reduce_prod", "reduce_sum", "repeat", "reshape", "reverse", "roll",
        "round", "scalar_mul", "sequence_mask", "shape", "sigmoid", "sign", "sin", "size", "slice", "sort",
        "space_to_batch", "split", "sqrt", "square", "squeeze", "stack", "stop_gradient", "strided_slice",
        "subtract", "tanh", "tensordot", "tile", "transpose", "truediv", "unstack", "where", "zeros",
        "zeros_like",
    }
)  # fmt: skip
_NOT_PURE = frozenset({"dropout", "experimental", "decode_image", "encode_jpeg", "encode_png"})


def tensor_op() -> Any:
    """TFOpLambda: one call of a function of TensorFlow."""
    import keras

    class TFOpLambda(keras.layers.Layer):  # type: ignore[misc]
        """``function`` is its name below ``tf``."""

        def __init__(self, function: str, **more: Any) -> None:
            super().__init__(autocast=False, **more)
            self.function = _function(function, self.name)
            self._allow_non_tensor_positional_args = True
            self.built = True

        def call(self, *values: Any, **options: Any) -> Any:
            return self.function(*values, **options)

    return TFOpLambda


def slicing_op() -> Any:
    """SlicingOpLambda: x[…], its slices stored as dicts."""
    import keras

    class SlicingOpLambda(keras.layers.Layer):  # type: ignore[misc]
        """The only function is ``__operators__.getitem``."""

        def __init__(self, function: str = "__operators__.getitem", **more: Any) -> None:
            super().__init__(autocast=False, **more)
            if function != "__operators__.getitem":
                raise lost_layer("SlicingOpLambda", self.name, f"its function is tf.{function}")
            self.built = True

        def call(self, tensor: Any, slice_spec: Any = None) -> Any:
            stored = slice_spec if isinstance(slice_spec, list | tuple) else [slice_spec]
            return tensor[tuple(_slice(one) for one in stored)]

    return SlicingOpLambda


def _slice(stored: Any) -> Any:
    if not isinstance(stored, dict):
        return stored
    if "start" in stored or "stop" in stored or "step" in stored:
        return slice(stored.get("start"), stored.get("stop"), stored.get("step"))
    return Ellipsis if stored.get("class_name") == "__ellipsis__" else stored.get("value")


def _function(name: str, layer: str) -> Any:
    """The function of TensorFlow with that name.

    Raises:
        UnsupportedModelError: none of that name is known to compute and nothing else.
    """
    import tensorflow as tf

    parts = name.removeprefix("compat.v1.").split(".")
    root = tf.compat.v1 if name.startswith("compat.v1.") else tf
    known = (len(parts) == 1 and parts[0] in _PLAIN) or (
        len(parts) == 2
        and parts[0] in _MODULES
        and not parts[1].startswith("_")
        and parts[1] not in _NOT_PURE
    )
    found = root if known else None
    for part in parts:
        found = getattr(found, part, None)
    if not callable(found):
        raise lost_layer("TFOpLambda", layer, f"the function tf.{name} is not among those that are called")
    return found
