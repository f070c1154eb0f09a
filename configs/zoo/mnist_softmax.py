"""Softmax regression on flat images, saved with a Saver: source of ``configs/mnist_softmax.yaml``.

``y = softmax(x · W + b)`` with ``x`` [N, 784] in [0, 1], ``W`` [784, 10] and ``b`` [10], as the introductions
write it; trained on the digit images at 28×28.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from built import Built, Encoder
from digit_images import CLASS_NAMES, SCALE, load_digit_images
from saving import save_arrays, save_lines
from tf1_graph import count, inference_variables, tf1_session, train_classifier, variable, write_checkpoint

SIZE = 28
PIXELS = SIZE * SIZE
ENCODER = Encoder(scale=SCALE)
SEED = 13


def write(out: Path) -> Built:
    """Train; write ``model.ckpt.*``, ``labels.txt`` and ``test.npz`` (x uint8 [N, 784], y) into ``out``."""
    data = load_digit_images(SIZE)
    train_x, test_x = (part.reshape(-1, PIXELS) for part in (data.train_x, data.test_x))
    with tf1_session(SEED) as (tf1, session):
        x = tf1.placeholder(tf1.float32, [None, PIXELS], name="x")
        y_true = tf1.placeholder(tf1.int64, [None], name="y_")
        weights = variable(tf1, "W", (PIXELS, len(CLASS_NAMES)), start="zeros")
        logits = tf1.matmul(x, weights) + variable(tf1, "b", (len(CLASS_NAMES),), start="zeros")
        y = tf1.nn.softmax(logits, name="y")
        loss = tf1.reduce_mean(tf1.nn.sparse_softmax_cross_entropy_with_logits(labels=y_true, logits=logits))
        step = tf1.train.GradientDescentOptimizer(0.1).minimize(loss)
        session.run(tf1.global_variables_initializer())
        train_classifier(
            session,
            step,
            lambda images, labels: {x: ENCODER(images), y_true: labels},
            (train_x, data.train_y),
            epochs=40,
            batch=32,
            seed=SEED,
        )
        predicted = session.run(y, {x: ENCODER(test_x)}).argmax(axis=1)
        model = write_checkpoint(tf1, session, out)
        variables = inference_variables(tf1)
    save_lines(out / "labels.txt", CLASS_NAMES)
    save_arrays(out / "test.npz", x=test_x, y=data.test_y)
    return Built(
        model=model,
        inputs={"x:0": (None, PIXELS)},
        outputs=("y:0",),
        parameters=count(variables),
        variables=variables,
        encoder=ENCODER,
        accuracy=float(np.mean(predicted == data.test_y)),
    )
