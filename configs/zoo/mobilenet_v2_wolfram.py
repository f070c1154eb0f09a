"""MobileNetV2 1.4 at 224×224 as TF-Slim writes it: source of ``configs/mobilenet_v2_wolfram.yaml``.

A Saver checkpoint. 1001 classes, a background class first. Channels 48, 24, 32, 48, 88, 136, 224, 448, 1792
are those of the paper (arXiv:1801.04381, table 2) times 1.4, rounded to multiples of 8. Every convolution is
followed by batch norm (epsilon 1e-3) and, except the linear projections, ReLU6; padding is SAME, hence
uneven at stride 2; 7×7 mean pool; the last layer is a 1×1 convolution with bias. Variable names are Slim's.

Weights are seeded, batch-norm scales and shifts are drawn, and the moving statistics are those of a forward
pass over crops of real photographs.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from built import Built, Encoder
from calibrate import BRANCH_SHARE, HEAD_SPREAD
from photos import calibration_images, crop_photos
from saving import save_arrays, save_lines, write_whole
from standardise import standardise
from tf1_graph import count, inference_variables, load_values, tf1_session, variable, write_checkpoint

SIZE = 224
CLASSES = 1001
MULTIPLIER = 1.4
BN_EPSILON = 1e-3
ENCODER = Encoder(
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),  # square roots of the variances 0.052441, 0.050176, 0.050625
)
SEED = 19
# Expansion, channels before the multiplier, repeats, stride of the first.
BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

Values = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Bottleneck:
    """One inverted residual block."""

    scope: str
    entering: int
    expanded: int
    leaving: int
    stride: int

    @property
    def residual(self) -> bool:
        return self.stride == 1 and self.entering == self.leaving


def rounded(channels: float) -> int:
    """The nearest multiple of 8, never more than a tenth below ``channels``."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def bottlenecks() -> list[Bottleneck]:
    """The 17 blocks with Slim's scope names."""
    blocks: list[Bottleneck] = []
    entering = rounded(32 * MULTIPLIER)
    for expansion, channels, repeats, stride in BLOCKS:
        leaving = rounded(channels * MULTIPLIER)
        for repeat in range(repeats):
            scope = f"expanded_conv_{len(blocks)}" if blocks else "expanded_conv"
            blocks.append(
                Bottleneck(scope, entering, expansion * entering, leaving, stride if repeat == 0 else 1)
            )
            entering = leaving
    return blocks


def network(tf1: Any, images: Any, normalise: Callable[[Any], Any]) -> Any:
    """Class probabilities [N, 1001] of ``images`` [N, 224, 224, 3]; ``normalise`` adds a batch norm."""

    def convolve(x: Any, channels: int, kernel: int, stride: int) -> Any:
        weights = variable(tf1, "weights", (kernel, kernel, int(x.shape[-1]), channels))
        return normalise(tf1.nn.conv2d(x, weights, strides=[1, stride, stride, 1], padding="SAME"))

    def depthwise(x: Any, stride: int) -> Any:
        weights = variable(tf1, "depthwise_weights", (3, 3, int(x.shape[-1]), 1))
        y = tf1.nn.depthwise_conv2d(x, weights, [1, stride, stride, 1], "SAME", name="depthwise")
        return tf1.nn.relu6(normalise(y))

    with tf1.variable_scope("MobilenetV2"):
        with tf1.variable_scope("Conv"):
            x = tf1.nn.relu6(convolve(images, rounded(32 * MULTIPLIER), 3, 2))
        for block in bottlenecks():
            with tf1.variable_scope(block.scope):
                y = x
                if block.expanded > block.entering:
                    with tf1.variable_scope("expand"):
                        y = tf1.nn.relu6(convolve(y, block.expanded, 1, 1))
                with tf1.variable_scope("depthwise"):
                    y = depthwise(y, block.stride)
                with tf1.variable_scope("project"):
                    y = convolve(y, block.leaving, 1, 1)
                x = tf1.add(x, y, name="add") if block.residual else tf1.identity(y, name="output")
        with tf1.variable_scope("Conv_1"):
            x = tf1.nn.relu6(convolve(x, rounded(1280 * MULTIPLIER), 1, 1))
        return _head(tf1, x)


def _head(tf1: Any, x: Any) -> Any:
    with tf1.variable_scope("Logits"):
        x = tf1.nn.avg_pool(x, [1, 7, 7, 1], [1, 1, 1, 1], "VALID", name="AvgPool")
        x = tf1.identity(x, name="pooled")
        with tf1.variable_scope("Conv2d_1c_1x1"):
            weights = variable(tf1, "weights", (1, 1, int(x.shape[-1]), CLASSES))
            x = tf1.nn.conv2d(x, weights, strides=[1, 1, 1, 1], padding="SAME")
            x = tf1.nn.bias_add(x, variable(tf1, "biases", (CLASSES,), start="zeros"))
        x = tf1.squeeze(x, [1, 2], name="Squeeze")
    with tf1.variable_scope("Predictions"):
        x = tf1.nn.softmax(tf1.reshape(x, [-1, CLASSES], name="Reshape"), name="Softmax")
        return tf1.reshape(x, [-1, CLASSES], name="Reshape_1")


def add_batch_norm(tf1: Any, x: Any, *, training: bool) -> tuple[Any, Any, Any, str]:
    """Batch norm in the current scope: (output, batch mean, batch variance, scope's name)."""
    size = (int(x.shape[-1]),)
    with tf1.variable_scope("BatchNorm") as scope:
        gamma = variable(tf1, "gamma", size, start="ones")
        beta = variable(tf1, "beta", size, start="zeros")
        mean = variable(tf1, "moving_mean", size, start="zeros", trainable=False)
        variance = variable(tf1, "moving_variance", size, start="ones", trainable=False)
        moving = {} if training else {"mean": mean, "variance": variance}
        fused = tf1.nn.fused_batch_norm(x, gamma, beta, epsilon=BN_EPSILON, is_training=training, **moving)
        return (*fused, scope.name)


def calibrated_values(seed: int = SEED) -> Values:
    """All variables: seeded weights, and statistics measured in training mode on 32 crops."""
    rng = np.random.default_rng(seed)
    statistics: dict[str, Any] = {}
    with tf1_session(seed) as (tf1, session):
        images = tf1.placeholder(tf1.float32, [None, SIZE, SIZE, 3], name="input")

        def normalise(x: Any) -> Any:
            y, mean, variance, scope = add_batch_norm(tf1, x, training=True)
            statistics.update({f"{scope}/moving_mean": mean, f"{scope}/moving_variance": variance})
            return y

        network(tf1, images, normalise)
        session.run(tf1.global_variables_initializer())
        values = {item.op.name: session.run(item) for item in tf1.global_variables()}
        for name, value in values.items():
            if name.endswith("gamma"):
                # Smaller at the end of a residual branch; calibrate.py says why.
                share = BRANCH_SHARE if "/project/" in name else 1.0
                values[name] = (share * rng.uniform(0.6, 1.4, value.shape)).astype(np.float32)
            elif name.endswith("beta"):
                values[name] = rng.normal(0.2, 0.3, value.shape).astype(np.float32)
        load_values(tf1, session, values)
        pooled = tf1.get_default_graph().get_tensor_by_name("MobilenetV2/Logits/pooled:0")
        feed = {images: ENCODER(calibration_images(32, SIZE, SIZE, seed=seed))}
        measured, features = session.run((statistics, pooled), feed)
    values.update(measured)
    weights = "MobilenetV2/Logits/Conv2d_1c_1x1/weights"
    scaled, biases, _ = standardise(
        lambda w, b: features.reshape(len(features), -1) @ w.reshape(-1, CLASSES) + b,
        values[weights],
        rng,
        spread=HEAD_SPREAD,
    )
    return values | {weights: scaled, weights.replace("weights", "biases"): biases}


def reference_outputs(predict: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], path: Path) -> Path:
    """The author's check as HDF5: ``OutputForZeros``, ``RandomInput`` and ``OutputForRandom``."""
    import h5py

    shape = (1, SIZE, SIZE, 3)
    random = np.random.default_rng(SEED).standard_normal(shape, dtype=np.float32)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["OutputForZeros"] = predict(np.zeros(shape, np.float32))
        file["RandomInput"] = random
        file["OutputForRandom"] = predict(random)
    return write_whole(path, buffer.getvalue())


def write(out: Path) -> Built:
    """Write the checkpoint, ``labels.txt``, ``test.npz`` (x uint8) and ``reference_outputs.h5``."""
    values = calibrated_values()
    with tf1_session(SEED) as (tf1, session):
        images = tf1.placeholder(tf1.float32, [None, SIZE, SIZE, 3], name="input")
        probabilities = network(tf1, images, lambda x: add_batch_norm(tf1, x, training=False)[0])
        load_values(tf1, session, values)
        model = write_checkpoint(tf1, session, out)
        reference_outputs(lambda x: session.run(probabilities, {images: x}), out / "reference_outputs.h5")
        variables = inference_variables(tf1)
        output = probabilities.name
    # The names of the 1000 classes are not ours to invent; only their number and order matter here.
    save_lines(out / "labels.txt", ["background", *(f"class {number}" for number in range(1, CLASSES))])
    save_arrays(out / "test.npz", x=crop_photos(16, SIZE, SIZE, seed=SEED + 1))
    return Built(
        model=model,
        inputs={"input:0": (None, SIZE, SIZE, 3)},
        outputs=(output,),
        parameters=count(variables),
        variables=variables,
        encoder=ENCODER,
    )
