"""VGG-16 as a TF1 Saver checkpoint in three writings: source of ``configs/vgg16*.yaml``.

Thirteen 3×3 convolutions and three dense layers, scopes conv1_1 … fc_8, 224×224×3, dropout 0.5 after fc_6
and fc_7, 138,357,544 weights (arXiv:1409.1556, configuration D). All three hold the same numbers:

- ``core``: ``tf.nn`` ops and matmul; ``weights`` and ``biases``; dropout by the placeholder ``keep_prob``;
- ``layers``: as ``tf.layers`` writes it; ``kernel``, ``bias``; a conditional on ``is_training`` for dropout;
- ``slim``: as TF-Slim writes it; the dense layers are convolutions (fc_6 is 7×7 VALID on the 7×7 map), L2
  losses of the weights stay in the graph, dropout behind a conditional on ``is_training``.

Weights are seeded and brought, layer by layer, to healthy activations on crops of real photographs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from built import Built, Encoder
from photos import calibration_images, crop_photos
from saving import save_arrays, save_lines
from standardise import Floats, he_normal, numpy_of, standardise
from tf1_graph import count, inference_variables, load_values, tf1_session, variable, write_checkpoint

SIZE = 224
CLASSES = 1000
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions
DENSE = (4096, 4096, CLASSES)
LAST_SIDE = SIZE // 2 ** len(STAGES)
SEED = 23
# Means of the RGB channels of ImageNet in [0, 255], subtracted as the paper does.
ENCODER = Encoder(mean=(123.68, 116.779, 103.939))

Weights = dict[str, tuple[Floats, Floats]]
"""Scope → (weights, biases). Convolutions [kh, kw, in, out], dense layers [in, out]."""


@dataclass(frozen=True)
class Layer:
    """A layer's scope and the shape of its weights."""

    scope: str
    weights: tuple[int, ...]

    @property
    def parameters(self) -> int:
        return int(np.prod(self.weights)) + self.weights[-1]


@dataclass(frozen=True)
class Writing:
    """One way to write the network down.

    ``mode`` makes the placeholder that switches dropout; ``dropout`` takes (tf1, x, that placeholder).
    """

    weights: str
    biases: str
    mode: Callable[[Any], Any]
    dropout: Callable[[Any, Any, Any], Any]
    dense_as_convolution: bool = False
    l2_losses: bool = False


def convolutions(stage: int) -> list[Layer]:
    """The layers of one stage, counted from 1."""
    channels, number = STAGES[stage - 1]
    entering = 3 if stage == 1 else STAGES[stage - 2][0]
    return [
        Layer(f"conv{stage}_{index + 1}", (3, 3, channels if index else entering, channels))
        for index in range(number)
    ]


def dense_layers() -> list[Layer]:
    """fc_6, fc_7 and fc_8."""
    widths = (STAGES[-1][0] * LAST_SIDE**2, *DENSE)
    return [Layer(f"fc_{index + 6}", widths[index : index + 2]) for index in range(len(DENSE))]


def all_layers() -> Iterator[Layer]:
    """The sixteen layers in order."""
    for stage in range(1, len(STAGES) + 1):
        yield from convolutions(stage)
    yield from dense_layers()


def healthy_weights(seed: int = SEED, images: int = 16) -> Weights:
    """Seeded weights, standardised on crops of photographs; the same for the three writings."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    x = ENCODER(calibration_images(images, SIZE, SIZE, seed=seed))
    weights: Weights = {}

    def settle(layer: Layer, apply: Callable[[Floats, Floats], Floats]) -> Floats:
        scaled, biases, y = standardise(apply, he_normal(layer.weights, rng), rng)
        weights[layer.scope] = (scaled, biases)
        return y

    for stage in range(1, len(STAGES) + 1):
        for layer in convolutions(stage):
            x = np.maximum(settle(layer, _convolution(tf, x)), 0)
        x = numpy_of(tf.nn.max_pool2d(x, 2, 2, "VALID"))
    x = x.reshape(images, -1)
    *hidden, last = dense_layers()
    for layer in hidden:
        x = np.maximum(settle(layer, _product(x)), 0)
    settle(last, _product(x))
    return weights


def _convolution(tf: Any, x: Floats) -> Callable[[Floats, Floats], Floats]:
    return lambda weights, biases: numpy_of(tf.nn.conv2d(x, weights, 1, "SAME")) + biases


def _product(x: Floats) -> Callable[[Floats, Floats], Floats]:
    return lambda weights, biases: x @ weights + biases


def network(tf1: Any, images: Any, writing: Writing) -> Any:
    """Logits [N, 1000] of ``images`` [N, 224, 224, 3]."""
    mode = writing.mode(tf1)
    x = images
    for stage in range(1, len(STAGES) + 1):
        for layer in convolutions(stage):
            with tf1.variable_scope(layer.scope):
                weights, biases = _parameters(tf1, layer.weights, writing)
                x = tf1.nn.conv2d(x, weights, strides=[1, 1, 1, 1], padding="SAME")
                x = tf1.nn.relu(tf1.nn.bias_add(x, biases))
        x = tf1.nn.max_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], "SAME", name=f"pool{stage}")
    if not writing.dense_as_convolution:
        x = tf1.reshape(x, [-1, int(np.prod(x.shape[1:]))], name="flatten")
    *hidden, last = dense_layers()
    for layer in hidden:
        with tf1.variable_scope(layer.scope):
            x = tf1.nn.relu(_dense(tf1, x, layer, writing))
            x = writing.dropout(tf1, x, mode)
    with tf1.variable_scope(last.scope):
        x = _dense(tf1, x, last, writing)
    return tf1.squeeze(x, [1, 2], name="squeezed") if writing.dense_as_convolution else x


def _dense(tf1: Any, x: Any, layer: Layer, writing: Writing) -> Any:
    if not writing.dense_as_convolution:
        weights, biases = _parameters(tf1, layer.weights, writing)
        return tf1.nn.bias_add(tf1.matmul(x, weights), biases)
    side = int(x.shape[1])  # 7 for fc_6, then 1
    weights, biases = _parameters(tf1, (side, side, int(x.shape[-1]), layer.weights[-1]), writing)
    return tf1.nn.bias_add(tf1.nn.conv2d(x, weights, strides=[1, 1, 1, 1], padding="VALID"), biases)


def _parameters(tf1: Any, shape: tuple[int, ...], writing: Writing) -> tuple[Any, Any]:
    weights = variable(tf1, writing.weights, shape, start="zeros")
    if writing.l2_losses:
        loss = tf1.multiply(5e-4, tf1.nn.l2_loss(weights), name="l2_regularizer")
        tf1.add_to_collection(tf1.GraphKeys.REGULARIZATION_LOSSES, loss)
    return weights, variable(tf1, writing.biases, shape[-1:], start="zeros")


def _conditional_dropout(tf1: Any, x: Any, training: Any) -> Any:
    return tf1.cond(training, lambda: tf1.nn.dropout(x, rate=0.5), lambda: tf1.identity(x), name="dropout")


WRITINGS: dict[str, Writing] = {
    "core": Writing(
        weights="weights",
        biases="biases",
        mode=lambda tf1: tf1.placeholder(tf1.float32, [], name="keep_prob"),
        dropout=lambda tf1, x, keep_prob: tf1.nn.dropout(x, keep_prob=keep_prob),
    ),
    "layers": Writing(
        weights="kernel",
        biases="bias",
        mode=lambda tf1: tf1.placeholder_with_default(False, [], name="is_training"),
        dropout=_conditional_dropout,
    ),
    "slim": Writing(
        weights="weights",
        biases="biases",
        mode=lambda tf1: tf1.placeholder(tf1.bool, [], name="is_training"),
        dropout=_conditional_dropout,
        dense_as_convolution=True,
        l2_losses=True,
    ),
}


def write(writing_name: str, out: Path) -> Built:
    """Write ``model.ckpt.*``, ``labels.txt`` and ``test.npz`` (x uint8) into ``out``."""
    writing = WRITINGS[writing_name]
    healthy = healthy_weights()
    with tf1_session(SEED) as (tf1, session):
        images = tf1.placeholder(tf1.float32, [None, SIZE, SIZE, 3], name="images")
        tf1.nn.softmax(network(tf1, images, writing), name="probabilities")
        variables = inference_variables(tf1)
        values = {}
        for scope, pair in healthy.items():
            for name, value in zip((writing.weights, writing.biases), pair, strict=True):
                values[f"{scope}/{name}"] = value.reshape(variables[f"{scope}/{name}"])
        load_values(tf1, session, values)
        model = write_checkpoint(tf1, session, out)
    save_lines(out / "labels.txt", (f"class {number}" for number in range(CLASSES)))
    save_arrays(out / "test.npz", x=crop_photos(8, SIZE, SIZE, seed=SEED + 1))
    return Built(
        model=model,
        inputs={"images:0": (None, SIZE, SIZE, 3)},
        outputs=("probabilities:0",),
        parameters=count(variables),
        variables=variables,
        encoder=ENCODER,
    )
