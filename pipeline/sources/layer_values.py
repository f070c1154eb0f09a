"""What a source framework computes inside: the value of each layer, where the framework shows it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol, runtime_checkable

import numpy as np

from optim.contract import Array, Feeds
from pipeline.sources.contract import AnyLayer


@runtime_checkable
class ShowsLayers(Protocol):
    """A session that can tell what its layers compute."""

    def layer_values(self, feeds: Feeds, layers: Collection[AnyLayer]) -> dict[str, Array]:
        """Values by layer name, in the source's own axis order; layers that cannot be shown are left out."""
        ...


def keras_layer_values(call: Any, model: Any, tensors: Any, names: Collection[str]) -> dict[str, Array]:
    """Run a Keras model layer by layer and keep what the named layers return.

    Args:
        call: runs ``model`` on ``tensors``.
        names: of layers that hold no layers themselves.
    """
    from pipeline.sources.keras_layers import LayerTrace

    class Noted(LayerTrace):
        """Keeps values instead of symbols."""

        def __init__(self) -> None:
            super().__init__(model)
            self.values: dict[str, Array] = {}

        def _note(self, layer: Any, result: Any) -> None:
            import tensorflow as tf

            if str(layer.name) in names:
                flat = [t for t in tf.nest.flatten(result) if hasattr(t, "numpy")]
                if len(flat) == 1:
                    self.values[str(layer.name)] = np.asarray(flat[0])

    with Noted() as noted:
        call(*tensors)
    return noted.values


def graph_layer_tensors(present: Collection[str], layers: Collection[AnyLayer]) -> dict[str, str]:
    """The TensorFlow tensor that carries each layer's result, for those that ``present`` operations make."""
    found: dict[str, str] = {}
    for layer in layers:
        candidates = (*layer.outputs[:1], f"{layer.name}:0")
        tensor = next((c for c in candidates if c.rpartition(":")[0] in present), None)
        if tensor is not None:
            found[layer.name] = tensor
    return found
