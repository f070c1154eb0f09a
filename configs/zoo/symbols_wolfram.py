"""A TF1 CNN for 64×64 grey symbols, as a Saver checkpoint: source of ``configs/symbols_wolfram.yaml``.

Three stages of convolution (5×5, 5×5, 3×3; 1 → 32 → 64 → 128; SAME, stride 1), bias, ReLU and 2×2 max pool
with stride 2; reshape to [-1, 8·8·128] in height-width-channel order; dense 1024 with ReLU; dropout with the
placeholder ``keep_prob``; dense to the classes; softmax ``probabilities``. Trained on the digit images, with
the loss, Adam and its slots left in the graph as the author's own file has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from built import Built, Encoder
from digit_images import CLASS_NAMES, SCALE, jitter, load_digit_images
from saving import save_arrays, save_lines
from tf1_graph import (
    adam_step,
    count,
    inference_variables,
    tf1_session,
    train_classifier,
    variable,
    write_checkpoint,
)

SIZE = 64
STAGES = ((5, 1, 32), (5, 32, 64), (3, 64, 128))  # kernel, channels in, channels out
HIDDEN = 1024
ENCODER = Encoder(scale=SCALE)
SEED = 11
EPOCHS = 5


def network(tf1: Any, images: Any, keep_prob: Any) -> Any:
    """Logits [N, classes] of ``images`` [N, 64, 64, 1]."""
    x = images
    for number, (kernel, entering, leaving) in enumerate(STAGES, start=1):
        with tf1.variable_scope(f"conv{number}"):
            weights = variable(tf1, "weights", (kernel, kernel, entering, leaving))
            biases = variable(tf1, "biases", (leaving,), start="zeros")
            x = tf1.nn.conv2d(x, weights, strides=[1, 1, 1, 1], padding="SAME")
            x = tf1.nn.relu(x + biases)
            x = tf1.nn.max_pool(x, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="SAME")
    side = SIZE // 2 ** len(STAGES)
    flat = side * side * STAGES[-1][2]
    x = tf1.reshape(x, [-1, flat], name="flat")
    with tf1.variable_scope("dense1"):
        weights = variable(tf1, "weights", (flat, HIDDEN))
        x = tf1.nn.relu(tf1.matmul(x, weights) + variable(tf1, "biases", (HIDDEN,), start="zeros"))
    x = tf1.nn.dropout(x, keep_prob=keep_prob)
    with tf1.variable_scope("dense2"):
        weights = variable(tf1, "weights", (HIDDEN, len(CLASS_NAMES)))
        biases = variable(tf1, "biases", (len(CLASS_NAMES),), start="zeros")
        return tf1.add(tf1.matmul(x, weights), biases, name="logits")


def write(out: Path) -> Built:
    """Train and write ``model.ckpt.*``, ``labels.txt`` and ``test.npz`` (x uint8, y int64) into ``out``."""
    data = load_digit_images(SIZE)
    with tf1_session(SEED) as (tf1, session):
        images = tf1.placeholder(tf1.float32, [None, SIZE, SIZE, 1], name="images")
        labels = tf1.placeholder(tf1.int64, [None], name="labels")
        keep_prob = tf1.placeholder(tf1.float32, [], name="keep_prob")
        logits = network(tf1, images, keep_prob)
        probabilities = tf1.nn.softmax(logits, name="probabilities")
        loss = tf1.reduce_mean(
            tf1.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits), name="loss"
        )
        step = adam_step(tf1, loss, rate=5e-4, images=len(data.train_x), epochs=EPOCHS)
        session.run(tf1.global_variables_initializer())
        train_classifier(
            session,
            step,
            lambda x, y: {images: ENCODER(x), labels: y, keep_prob: 0.5},
            (data.train_x, data.train_y),
            epochs=EPOCHS,
            seed=SEED,
            prepare=jitter,
        )
        predicted = session.run(probabilities, {images: ENCODER(data.test_x), keep_prob: 1.0}).argmax(axis=1)
        model = write_checkpoint(tf1, session, out)
        variables = inference_variables(tf1)
    save_lines(out / "labels.txt", CLASS_NAMES)
    save_arrays(out / "test.npz", x=data.test_x, y=data.test_y)
    return Built(
        model=model,
        inputs={"images:0": (None, SIZE, SIZE, 1)},
        outputs=("probabilities:0",),
        parameters=count(variables),
        variables=variables,
        encoder=ENCODER,
        accuracy=float(np.mean(predicted == data.test_y)),
    )
