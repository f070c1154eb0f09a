"""A TF1 MNIST classifier with batch norm, as a Saver checkpoint: source of ``configs/mnist_caffe.yaml``.

Input in [0, 255], shifted by −128; twice 3×3 convolution without bias (1 → 16 → 32), batch norm, ReLU and
2×2 max pool; flatten to 7·7·32 = 1568; dense 512 with ReLU; dropout; dense 10; softmax ``probabilities``.
Written as ``tf.layers`` writes it with a placeholder for the mode: batch norm and dropout are conditionals
on ``is_training``, and the update ops, the loss and Adam stay in the graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from built import Built, Encoder
from digit_images import CLASS_NAMES, jitter, load_digit_images
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

SIZE = 28
CHANNELS = (16, 32)
HIDDEN = 512
SHIFT = 128.0
BN_EPSILON = 1e-3  # the default of tf.layers.batch_normalization
BN_MOMENTUM = 0.9
ENCODER = Encoder()  # the shift is in the graph
SEED = 17
EPOCHS = 30


def batch_norm(tf1: Any, x: Any, training: Any, scope: str) -> Any:
    """Fused batch norm over the last axis of [N, H, W, C], both modes behind one ``tf.cond``."""
    size = int(x.shape[-1])
    with tf1.variable_scope(scope):
        gamma = variable(tf1, "gamma", (size,), start="ones")
        beta = variable(tf1, "beta", (size,), start="zeros")
        mean = variable(tf1, "moving_mean", (size,), start="zeros", trainable=False)
        variance = variable(tf1, "moving_variance", (size,), start="ones", trainable=False)
        fused = tf1.nn.fused_batch_norm
        y, batch_mean, batch_variance = tf1.cond(
            training,
            lambda: fused(x, gamma, beta, epsilon=BN_EPSILON, is_training=True),
            lambda: fused(x, gamma, beta, mean, variance, epsilon=BN_EPSILON, is_training=False),
        )
        # Without training the moving statistics stay as they are: momentum 1.
        share = tf1.cond(training, lambda: tf1.constant(1.0 - BN_MOMENTUM), lambda: tf1.constant(0.0))
        for moving, fresh in ((mean, batch_mean), (variance, batch_variance)):
            update = tf1.assign_sub(moving, (moving - fresh) * share)
            tf1.add_to_collection(tf1.GraphKeys.UPDATE_OPS, update)
    return y


def network(tf1: Any, images: Any, training: Any) -> Any:
    """Logits [N, 10] of ``images`` [N, 28, 28, 1] in [0, 255]."""
    x = tf1.subtract(images, SHIFT, name="shift")
    for number, channels in enumerate(CHANNELS, start=1):
        with tf1.variable_scope(f"conv{number}"):
            kernel = variable(tf1, "kernel", (3, 3, int(x.shape[-1]), channels))
            x = tf1.nn.conv2d(x, kernel, strides=[1, 1, 1, 1], padding="SAME")
        x = batch_norm(tf1, x, training, f"bn{number}")
        x = tf1.nn.relu(x, name=f"relu{number}")
        x = tf1.nn.max_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], "SAME", name=f"pool{number}")
    flat = int(np.prod(x.shape[1:]))
    x = tf1.reshape(x, [-1, flat], name="flatten")
    x = tf1.nn.relu(_dense(tf1, x, flat, HIDDEN, "dense1"), name="relu3")
    x = tf1.cond(training, lambda: tf1.nn.dropout(x, rate=0.5), lambda: tf1.identity(x), name="dropout")
    return _dense(tf1, x, HIDDEN, len(CLASS_NAMES), "dense2")


def _dense(tf1: Any, x: Any, entering: int, leaving: int, scope: str) -> Any:
    with tf1.variable_scope(scope):
        kernel = variable(tf1, "kernel", (entering, leaving))
        return tf1.nn.bias_add(tf1.matmul(x, kernel), variable(tf1, "bias", (leaving,), start="zeros"))


def write(out: Path) -> Built:
    """Train and write ``model.ckpt.*``, ``labels.txt`` and ``test.npz`` (x uint8, y int64) into ``out``."""
    data = load_digit_images(SIZE)
    with tf1_session(SEED) as (tf1, session):
        images = tf1.placeholder(tf1.float32, [None, SIZE, SIZE, 1], name="images")
        labels = tf1.placeholder(tf1.int64, [None], name="labels")
        training = tf1.placeholder(tf1.bool, [], name="is_training")
        logits = network(tf1, images, training)
        probabilities = tf1.nn.softmax(logits, name="probabilities")
        loss = tf1.losses.sparse_softmax_cross_entropy(labels, logits)
        with tf1.control_dependencies(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)):
            step = adam_step(tf1, loss, rate=1e-3, images=len(data.train_x), epochs=EPOCHS)
        session.run(tf1.global_variables_initializer())
        train_classifier(
            session,
            step,
            lambda x, y: {images: ENCODER(x), labels: y, training: True},
            (data.train_x, data.train_y),
            epochs=EPOCHS,
            seed=SEED,
            prepare=jitter,
        )
        predicted = session.run(probabilities, {images: ENCODER(data.test_x), training: False}).argmax(axis=1)
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
