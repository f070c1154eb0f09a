"""Networks that benchmarks need, as ``.keras`` files: those of ``keras.applications``, and a U-Net.

Architecture as Keras has it (``weights=None``), seeded weights, and everything a batch norm holds drawn or
measured on crops of real photographs (``calibrate.py``). Speed and size are those of the published network;
the classes mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from built import Built, Encoder
from calibrate import calibrate, standardise_chain
from photos import calibration_images, crop_photos
from saving import save_arrays, save_keras

SEED = 31
RAW = Encoder()  # the network scales by itself
SYMMETRIC = Encoder(scale=1 / 127.5, mean=(1.0, 1.0, 1.0))  # [-1, 1]


@dataclass(frozen=True)
class Application:
    """How one network is made. ``head``: its last dense layer or 1×1 convolution."""

    make: Callable[[Any], Any]  # from the keras module
    encoder: Encoder
    size: int = 224
    head: str = "predictions"
    batch_norm: bool = True
    calibration_images: int = 32


def unet(keras: Any, size: int = 256, base: int = 32, depth: int = 4, classes: int = 3) -> Any:
    """A U-Net (arXiv:1505.04597) with SAME padding and batch norm.

    Input [N, size, size, 3], output class probabilities [N, size, size, classes]. The way up alternates 2×2
    and 3×3 transposed convolutions with stride 2, whose padding differs.
    """
    layers = keras.layers

    def convolve(x: Any, channels: int, name: str) -> Any:
        for index in (1, 2):
            x = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"{name}_conv{index}")(x)
            x = layers.BatchNormalization(name=f"{name}_bn{index}")(x)
            x = layers.ReLU(name=f"{name}_relu{index}")(x)
        return x

    image = x = layers.Input((size, size, 3), name="image")
    skips = []
    for level in range(depth):
        x = convolve(x, base * 2**level, f"down{level}")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)
    x = convolve(x, base * 2**depth, "bottom")
    for level in reversed(range(depth)):
        kernel = 2 + level % 2
        x = layers.Conv2DTranspose(
            base * 2**level, kernel, strides=2, padding="same", use_bias=False, name=f"up{level}_transpose"
        )(x)
        x = layers.BatchNormalization(name=f"up{level}_bn")(x)
        x = layers.ReLU(name=f"up{level}_relu")(x)
        x = layers.Concatenate(name=f"up{level}_concat")([skips[level], x])
        x = convolve(x, base * 2**level, f"up{level}")
    x = layers.Conv2D(classes, 1, name="logits")(x)
    return keras.Model(image, layers.Softmax(name="probabilities")(x), name="unet")


TABLE: dict[str, Application] = {
    "resnet50": Application(lambda keras: keras.applications.ResNet50(weights=None), SYMMETRIC),
    "resnet50_v2": Application(lambda keras: keras.applications.ResNet50V2(weights=None), SYMMETRIC),
    "mobilenet_v2": Application(lambda keras: keras.applications.MobileNetV2(weights=None), SYMMETRIC),
    "mobilenet_v3_small": Application(
        lambda keras: keras.applications.MobileNetV3Small(weights=None), RAW, head="logits"
    ),
    "efficientnet_b0": Application(lambda keras: keras.applications.EfficientNetB0(weights=None), RAW),
    "densenet121": Application(lambda keras: keras.applications.DenseNet121(weights=None), SYMMETRIC),
    "vgg16_keras": Application(
        lambda keras: keras.applications.VGG16(weights=None),
        SYMMETRIC,
        batch_norm=False,
        calibration_images=16,
    ),
    "unet": Application(unet, SYMMETRIC, size=256, head="logits", calibration_images=8),
}


def write(name: str, out: Path) -> Built:
    """Write ``model.keras`` and ``test.npz`` (x uint8) into ``out``."""
    import keras

    application = TABLE[name]
    size = application.size
    keras.utils.set_random_seed(SEED)
    model = application.make(keras)
    raw = calibration_images(application.calibration_images, size, size, seed=SEED)
    images = application.encoder(raw)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.adapt(raw.astype(np.float32) / 255.0)  # EfficientNet: follows its own Rescaling(1/255)
    if application.batch_norm:
        calibrate(model, images, seed=SEED, head=application.head)
    else:
        standardise_chain(model, images, seed=SEED)
    path = save_keras(model, out / "model.keras")
    save_arrays(out / "test.npz", x=crop_photos(8, size, size, seed=SEED + 1))
    return Built(
        model=path,
        inputs={tensor.name: tuple(tensor.shape) for tensor in model.inputs},
        outputs=tuple(model.output_names),
        parameters=model.count_params(),
        variables={item.path: tuple(item.shape) for item in model.weights},
        encoder=application.encoder,
    )
