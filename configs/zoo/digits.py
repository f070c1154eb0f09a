"""Train the quickstart's model: a small Keras 3 CNN on scikit-learn's real digit images at 28×28.

    python configs/zoo/digits.py [--out DIR]

writes, beside this file unless told otherwise,

- ``digits.keras``: the trained model, no optimiser state; input ``image``, float32 [N, 28, 28, 1] in [0, 1];
- ``digits_labels.txt``: the ten class names, one a line;
- ``digits_test.npz``: the held-out quarter, ``x`` uint8 [450, 28, 28, 1] (scale by 1/255), ``y`` int64 [450].

The network is small but holds what conversions get wrong: batch norm without a convolution bias, a stride-2
SAME convolution on an even size (28 → 14, one row of padding at the end only), an overlapping SAME max pool
with the same property (14 → 7), and dropout. Its shape and the number of epochs were chosen by
cross-validation inside the training part (``--cross-validate``); the held-out part is only measured.
Everything is seeded and TensorFlow's ops are made deterministic; the file holds no time stamp, so that on
one machine and one TensorFlow version a second run writes the same bytes.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
from digit_images import CLASS_NAMES, Images, Labels, as_floats, jitter, load_digit_images
from saving import save_arrays, save_keras, save_lines

SEED = 7
EPOCHS = 40
BATCH = 64
SIZE = 28


def build() -> Any:
    """The untrained network (225,050 parameters)."""
    from keras import Input, Model, layers

    image = Input((SIZE, SIZE, 1), name="image")
    x = image
    for stage, (channels, stride) in enumerate(((16, 1), (32, 2)), start=1):
        x = layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False, name=f"conv{stage}")(x)
        x = layers.BatchNormalization(name=f"bn{stage}")(x)
        x = layers.ReLU(name=f"relu{stage}")(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="pool")(x)  # 14 -> 7
    x = layers.Conv2D(64, 3, padding="same", use_bias=False, name="conv3")(x)
    x = layers.BatchNormalization(name="bn3")(x)
    x = layers.ReLU(name="relu3")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(0.4, name="dropout1")(x)
    x = layers.Dense(64, activation="relu", name="dense")(x)
    x = layers.Dropout(0.4, name="dropout2")(x)
    x = layers.Dense(len(CLASS_NAMES), name="logits")(x)
    return Model(image, layers.Softmax(name="probabilities")(x), name="digits")


def train(x: Images, y: Labels, *, epochs: int = EPOCHS, seed: int = SEED) -> Any:
    """A model trained on jittered copies of ``x``; learning rate falls along a cosine."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(seed)
    model = build()
    steps = epochs * -(-len(x) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    for _ in range(epochs):
        order = rng.permutation(len(x))
        fresh = as_floats(jitter(x[order], rng))
        for start in range(0, len(x), BATCH):
            model.train_on_batch(fresh[start : start + BATCH], y[order[start : start + BATCH]])
    return model


def accuracy(model: Any, x: Images, y: Labels) -> float:
    """Share of images whose most probable class is the label."""
    return float(np.mean(model.predict_on_batch(as_floats(x)).argmax(axis=1) == y))


def cross_validate(x: Images, y: Labels, *, folds: int = 4) -> list[float]:
    """Accuracy on each fold of the training part."""
    from sklearn.model_selection import StratifiedKFold

    splits = StratifiedKFold(folds, shuffle=True, random_state=SEED).split(x, y)
    return [accuracy(train(x[fit], y[fit]), x[held], y[held]) for fit, held in splits]


def main() -> None:
    """Train, write the three files, print the held-out accuracy."""
    parser = argparse.ArgumentParser(description="Train the quickstart's digit classifier.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the files")
    parser.add_argument("--cross-validate", action="store_true", help="score the recipe, write nothing")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    data = load_digit_images(SIZE)
    if options.cross_validate:
        scores = cross_validate(data.train_x, data.train_y)
        print("accuracy of each fold:", " ".join(f"{score:.4f}" for score in scores))
        print(f"mean: {np.mean(scores):.4f}")
        return
    model = train(data.train_x, data.train_y)
    options.out.mkdir(parents=True, exist_ok=True)
    path = save_keras(model, options.out / "digits.keras")
    save_lines(options.out / "digits_labels.txt", CLASS_NAMES)
    save_arrays(options.out / "digits_test.npz", x=data.test_x, y=data.test_y)
    print(f"{path}: {path.stat().st_size} bytes, {model.count_params()} parameters")
    print(f"accuracy: training {accuracy(model, data.train_x, data.train_y):.4f}, ", end="")
    print(f"held out {accuracy(model, data.test_x, data.test_y):.4f} of {len(data.test_y)} images")


if __name__ == "__main__":
    main()
