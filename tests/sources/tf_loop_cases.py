"""Loops over plain tensors: ``tf.while_loop``, and Python's in a ``tf.function``. See ``tf_flow.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tests.sources.tf_flow import Built, Case, Feeds, both_forms, placeholder, random, variable, whole

X = random(2, 4)


def _x() -> Any:
    return placeholder("x", None, 4)


def _rounds(*counts: int) -> list[Feeds]:
    return [{"x": X, "n": np.int32(k)} for k in counts]


def _fixed() -> Built:
    x, w = _x(), variable("w", 4, 4)
    _, y = tf.while_loop(lambda i, _: i < 5, lambda i, a: (i + 1, tf.tanh(tf.matmul(a, w)) + x), [0, x])
    return {"y": y}, [{"x": X}, {"x": random(5, 4)}]


def _until_large() -> Built:
    x = _x()

    def small(_i: Any, a: Any) -> Any:
        size = tf.reduce_sum(a * a)
        return (size < 50.0) & (size > 0.0)

    n, y = tf.while_loop(small, lambda i, a: (i + 1, a * 1.5), [0, x])
    return {"y": y, "n": n}, [{"x": X}, {"x": X * 0.01}, {"x": X * 100}]


def _counted() -> Built:
    x, n = _x(), whole("n")
    i, y = tf.while_loop(lambda i, _: i < n, lambda i, a: (i + 1, a * 0.5 + x), [0, tf.zeros_like(x)])
    return {"y": y, "i": i}, _rounds(0, 1, 2, 7, -1)


def _nested() -> Built:
    x, n = _x(), whole("n")

    def body(i: Any, a: Any) -> Any:
        inner = tf.while_loop(
            lambda j, _: j <= i, lambda j, b: (j + 1, b + tf.cast(j, tf.float32) * x), [0, a * 0.9]
        )
        return i + 1, inner[1]

    return {"y": tf.while_loop(lambda i, _: i < n, body, [0, x])[1]}, _rounds(0, 1, 2, 5)


def _branch_inside() -> Built:
    x, n = _x(), whole("n")

    def body(i: Any, a: Any) -> Any:
        return i + 1, tf.cond(tf.equal(i % 2, 0), lambda: a + x, lambda: a * 0.5)

    return {"y": tf.while_loop(lambda i, _: i < n, body, [0, x])[1]}, _rounds(0, 1, 2, 5)


def _growing() -> Built:
    x, n = _x(), whole("n")
    _, y = tf.while_loop(
        lambda i, _: i < n,
        lambda i, a: (i + 1, tf.concat([a, x * tf.cast(i, tf.float32)], 0)),
        [0, x],
        shape_invariants=[tf.TensorShape([]), tf.TensorShape([None, 4])],
    )
    return {"y": y}, _rounds(0, 1, 3)


def _exchanged() -> Built:
    x, n = _x(), whole("n")
    _, a, b, c = tf.while_loop(
        lambda i, *_: i < n, lambda i, a, b, _c: (i + 1, b, a + x, x), [0, x, x * 2, x * 0]
    )
    return {"a": a, "b": b, "c": c}, _rounds(0, 1, 3, 4)


def _at_most() -> Built:
    x = _x()
    y = tf.while_loop(lambda a: tf.reduce_sum(a * a) < 50.0, lambda a: (a * 1.5,), [x], maximum_iterations=3)
    return {"y": y[0] if isinstance(y, list | tuple) else y}, [{"x": X}, {"x": X * 100}, {"x": X * 10}]


def _rows_finish_early() -> Built:
    x, n = _x(), whole("n")

    def body(i: Any, done: Any, a: Any) -> Any:
        done = done | (tf.reduce_sum(a, 1) > 3.0)
        return i + 1, done, tf.where(done[:, None], a, a + tf.abs(x) + 0.1)

    def going(i: Any, done: Any, _a: Any) -> Any:
        return (i < n) & tf.logical_not(tf.reduce_all(done))

    start = [0, tf.zeros([tf.shape(x)[0]], tf.bool), x]
    i, done, y = tf.while_loop(going, body, start)
    return {"i": i, "done": tf.cast(done, tf.int32), "y": y}, _rounds(0, 1, 50)


def _read_in_part() -> Built:
    x, n = _x(), whole("n")
    i, a, _, c = tf.while_loop(
        lambda i, *_: i < n,
        lambda i, a, b, _c: (i + 2, a, b + a, tf.reduce_sum(b)),
        [1, x, x * 0.5, tf.constant(7.0)],
    )
    return {"i": i, "a": a, "c": c}, _rounds(0, 1, 2, 5)


def _imported() -> Built:
    """Names under a prefix, as in a graph put together from parts."""
    part = tf.Graph()
    with part.as_default():
        a, m = placeholder("a", None, 4), whole("m")

        def body(i: Any, s: Any) -> Any:
            return i + 1, tf.cond(tf.reduce_sum(s) > 0, lambda: s - a, lambda: s + 2 * a)

        tf.identity(tf.while_loop(lambda i, _: i < m, body, [0, a])[1], "result")
    x, n = _x(), whole("n")
    (y,) = tf.import_graph_def(part.as_graph_def(), {"a:0": x, "m:0": n}, ["result:0"], name="part")
    return {"y": y}, _rounds(0, 1, 4)


def _python_loop() -> Built:
    """A ``tf.function`` called in a graph of TensorFlow 1, its Python loop a While."""
    x = _x()

    @tf.function
    def call(a: Any) -> Any:
        s = a
        while tf.reduce_sum(s * s) < 20.0 and tf.reduce_sum(s * s) > 0.0:
            s = s * 1.3 if tf.reduce_sum(s) > 0 else s * 1.6 - 0.1
        return s

    return {"y": call(x)}, [{"x": X}, {"x": -X}, {"x": X * 100}]


def _call() -> Built:
    x = _x()
    twice = tf.function(lambda a: a * 2.0)
    return {"y": twice(twice(x)) + 1.0}, [{"x": X}]


CASES = {
    **both_forms(
        fixed=_fixed,
        until_large=_until_large,
        counted=_counted,
        nested=_nested,
        branch_inside=_branch_inside,
        growing=_growing,
        exchanged=_exchanged,
        rows_finish_early=_rows_finish_early,
        read_in_part=_read_in_part,
        imported=_imported,
    ),
    "at_most_v2": Case(_at_most, 2),
    "python_loop": Case(_python_loop),
    "call": Case(_call),
}
