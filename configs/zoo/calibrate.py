"""Make an untrained Keras network numerically alive: drawn scales, measured statistics, spread logits.

Keras starts batch norm with mean 0 and variance 1, scale 1 and shift 0; folding such a layer changes nothing,
so a wrong fold would pass every comparison. Here scale and shift are drawn, and the moving statistics are
those of one forward pass in training mode over calibration images. Scales that end a residual branch are
drawn smaller: untrained residual networks amplify rounding errors from block to block otherwise, as trained
ones do not (cf. Goyal et al. 2017, arXiv:1706.02677, section 5.1, which starts them at 0).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from standardise import Floats, standardise

HEAD_SPREAD = 0.2
"""Deviation of the logits: the predicted class varies, softmax does not magnify what float32 rounds off."""
BRANCH_SHARE = 0.4
"""Size of a scale at the end of a residual branch, against the others."""


def calibrate(
    model: Any, images: Floats, *, seed: int, head: str | None = None, spread: float = HEAD_SPREAD
) -> None:
    """Set scales, shifts, biases and statistics of ``model`` in place.

    Args:
        model: a functional Keras model with seeded weights.
        images: what the model takes, [N, H, W, C] float32; all go through in one pass.
        seed: of the drawn scales and shifts.
        head: name of the last dense layer; its logits get the deviation ``spread`` over ``images``, so that
            the predicted class differs between images and softmax does not saturate.
    """
    import keras

    rng = np.random.default_rng(seed)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    adds = [layer for layer in model.layers if isinstance(layer, keras.layers.Add)]
    branch_ends = {id(tensor) for layer in adds for tensor in layer.input}
    for layer in norms:
        if layer.scale:
            share = BRANCH_SHARE if id(layer.output) in branch_ends else 1.0
            layer.gamma.assign(share * rng.uniform(0.6, 1.4, layer.gamma.shape))
        if layer.center:
            layer.beta.assign(rng.normal(0.2, 0.3, layer.beta.shape))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Conv2DTranspose) and layer.use_bias:
            layer.bias.assign(rng.normal(0.0, 0.1, layer.bias.shape))
    with measuring(model, norms):
        model(images, training=True)
    if head is not None:
        spread_logits(model, images, rng, head=head, spread=spread)


@contextmanager
def measuring(model: Any, norms: list[Any]) -> Iterator[None]:
    """A training pass takes over the batch's statistics whole, and drops nothing out."""
    import keras

    drops = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    momenta, rates = [layer.momentum for layer in norms], [layer.rate for layer in drops]
    for layer in norms:
        layer.momentum = 0.0
    for layer in drops:
        layer.rate = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
        for layer, rate in zip(drops, rates, strict=True):
            layer.rate = rate


def spread_logits(model: Any, images: Floats, rng: np.random.Generator, *, head: str, spread: float) -> None:
    """Standardise the last layer, a dense one or a 1×1 convolution, on what reaches it."""
    import keras

    layer = model.get_layer(head)
    before = keras.Model(model.inputs, layer.input)
    kernel = np.asarray(layer.kernel)
    entering, units = kernel.shape[-2:]
    features = np.asarray(before.predict(images, batch_size=16, verbose=0)).reshape(-1, entering)
    weights, biases, _ = standardise(
        lambda w, b: features @ w.reshape(-1, units) + b, kernel, rng, spread=spread
    )
    layer.kernel.assign(weights)
    layer.bias.assign(biases)


def standardise_chain(model: Any, images: Floats, *, seed: int) -> None:
    """Standardise a plain stack without batch norm (VGG) layer by layer, in place."""
    import keras

    rng = np.random.default_rng(seed)
    x = images
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            weights, biases, _ = standardise(
                lambda w, b, layer=layer, x=x: _linear(layer, x, w, b),  # type: ignore[misc]
                np.asarray(layer.kernel),
                rng,
            )
            layer.kernel.assign(weights)
            layer.bias.assign(biases)
        if not isinstance(layer, keras.layers.InputLayer):
            x = np.asarray(layer(x, training=False))


def _linear(layer: Any, x: Floats, weights: Floats, biases: Floats) -> Floats:
    """A layer without its activation."""
    from keras import ops

    if weights.ndim == 2:
        return x @ weights + biases
    return np.asarray(ops.conv(x, weights, layer.strides, layer.padding)) + biases
