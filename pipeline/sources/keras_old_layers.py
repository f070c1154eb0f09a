"""Layers and functions of Keras 1 and 2 that Keras 3 lacks or computes differently, as they were.

TensorFlow and Keras are imported inside: these classes exist only in the child that loads the model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.sources.keras_old_dense import highway, maxout_dense, random_fourier_features
from pipeline.sources.keras_old_local import locally_connected
from pipeline.sources.keras_old_ops import slicing_op, tensor_op

PACKAGE = "fairlead"


@functools.cache
def old_objects() -> dict[str, Any]:
    """Class name in a repaired config → what makes the layer."""
    import keras

    made: dict[str, Any] = {
        "AxesOf": _axes_of(),
        "Highway": highway(),
        "LocallyConnected1D": locally_connected(1),
        "LocallyConnected2D": locally_connected(2),
        "MaxoutDense": maxout_dense(),
        "RandomFourierFeatures": random_fourier_features(),
        "SlicingOpLambda": slicing_op(),
        "TFOpLambda": tensor_op(),
    }
    for name, one in made.items():
        keras.saving.register_keras_serializable(PACKAGE, name)(one)
    return made


def _axes_of() -> Any:
    """A layer over several axes: the loader of ``.h5`` files drops a list of axes without a word."""
    import keras

    class AxesOf(keras.layers.Layer):  # type: ignore[misc]
        """Never made itself: its config makes the layer that it names."""

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            kind, axes = config.pop("kind"), config.pop("axes")
            return getattr(keras.layers, kind)(**config, axis=axes)

    return AxesOf


@contextmanager
def as_keras_2_computes() -> Iterator[None]:
    """While active, models are made of Keras 2's activations and layers, and read in its order of weights."""
    import keras
    from keras.src import activations
    from keras.src.legacy.saving import legacy_h5_format

    table, name = activations.ALL_OBJECTS_DICT, "hard_sigmoid"
    newer, order = table[name], legacy_h5_format._legacy_weights
    table[name] = hard_sigmoid
    legacy_h5_format._legacy_weights = _in_stored_order
    try:
        with keras.saving.custom_object_scope(old_objects()):
            yield
    finally:
        table[name] = newer
        legacy_h5_format._legacy_weights = order


def hard_sigmoid(x: Any) -> Any:
    """min(max(0.2 x + 0.5, 0), 1); Keras 3 has a slope of 1 / 6 instead.

    Its name is the one that Keras looks up when it copies a layer.
    """
    import tensorflow as tf

    return tf.clip_by_value(0.2 * x + 0.5, 0.0, 1.0)


def _in_stored_order(layer: Any) -> list[Any]:
    """Weights as Keras 2 stored a layer: the trainable ones of all layers inside, then the others.

    Keras 3 goes by the variables' own flags, which do not know of a frozen layer inside.
    """
    if not layer.trainable:
        return list(layer.weights)
    trainable, rest = _parted(layer)
    return trainable + rest


def _parted(layer: Any) -> tuple[list[Any], list[Any]]:
    inner = getattr(layer, "layers", None)
    if not inner:
        return list(layer.trainable_weights), list(layer.non_trainable_weights)
    if not layer.trainable:
        return [], list(layer.weights)
    trainable: list[Any] = []
    rest: list[Any] = []
    seen: set[int] = set()
    for one in inner:
        for found, into in zip(_parted(one), (trainable, rest), strict=True):
            into += [weight for weight in found if id(weight) not in seen]
            seen |= {id(weight) for weight in found}
    return trainable, rest
