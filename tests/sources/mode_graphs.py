"""TF1 graphs whose mode is a variable, written in a child process; tests do not import this module."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


def build(path: Path, stored: bool, _progress: object) -> None:
    """A checkpoint: two convolutions with added biases, dropout behind the variable ``mode``, a dense layer.

    The first kernel is small and stays in the graph while it is converted; the second is large.
    """
    rng = np.random.default_rng(4)
    graph = tf.Graph()
    with graph.as_default():

        def variable(name: str, *shape: int) -> v1.Variable:
            value = rng.normal(0, 0.2, shape).astype(np.float32)
            return v1.get_variable(name, initializer=value, use_resource=False)

        mode = v1.get_variable("mode", initializer=stored, trainable=False, use_resource=False)
        x = v1.placeholder(tf.float32, [None, 8, 8, 2], name="x")
        y = tf.nn.conv2d(x, variable("first/kernel", 3, 3, 2, 16), 1, "SAME", name="first/conv")
        y = tf.nn.relu(tf.add(variable("first/bias", 16), y, name="first/sum"))
        y = tf.nn.conv2d(y, variable("second/kernel", 3, 3, 16, 32), 2, "SAME", name="second/conv")
        y = tf.nn.relu(tf.add(y, variable("second/bias", 32), name="second/sum"))
        y = v1.cond(mode, lambda: v1.nn.dropout(y, rate=0.5), lambda: tf.identity(y))
        y = tf.reshape(y, [-1, 4 * 4 * 32], name="flat")
        y = tf.matmul(y, variable("dense/kernel", 512, 5), name="dense/product")
        tf.nn.softmax(y, name="scores")
        saver = v1.train.Saver()
        with v1.Session(graph=graph) as session:
            session.run(v1.global_variables_initializer())
            saver.save(session, str(path))
