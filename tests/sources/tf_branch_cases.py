"""Branches: ``tf.cond``, ``tf.case``, ``tf.switch_case``. See ``tf_flow.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tests.sources.tf_flow import Built, both_forms, flag, placeholder, random, variable, whole

# Both signs of the sum, and other batches than convert compares on.
INPUTS = [random(2, 4), -random(2, 4), np.abs(random(5, 4)), -np.abs(random(3, 4))]
FEEDS = [{"x": x} for x in INPUTS]


def _x() -> Any:
    return placeholder("x", None, 4)


def _positive(x: Any) -> Any:
    return tf.reduce_sum(x) > 0


def _with_weights() -> Built:
    x, left, right = _x(), variable("left", 4, 3), variable("right", 4, 3)
    y = tf.cond(_positive(x), lambda: tf.matmul(x, left), lambda: tf.tanh(tf.matmul(x, right)) + 1.0)
    return {"y": y}, FEEDS


def _by_flag() -> Built:
    """A flag that chooses between two ways of pooling is no training switch."""
    x, means = _x(), flag("means")
    y = tf.cond(means, lambda: tf.reduce_mean(x, 1), lambda: tf.reduce_max(x, 1))
    return {"y": y}, [{"x": x, "means": np.array(b)} for x in INPUTS for b in (True, False)]


def _two_outputs() -> Built:
    x = _x()
    a, b = tf.cond(x[0, 0] > 0, lambda: (x, tf.reduce_sum(x)), lambda: (-x, tf.constant(3.0)))
    return {"a": a, "b": b}, FEEDS


def _nested() -> Built:
    x, w = _x(), variable("w", 4, 4)
    y = tf.cond(
        _positive(x),
        lambda: tf.cond(x[0, 1] > 0, lambda: tf.matmul(x, w), lambda: x * 3.0),
        lambda: tf.cond(x[0, 0] > 0, lambda: x + 10.0, lambda: x - 10.0),
    )
    return {"y": y}, FEEDS


def _other_shapes() -> Built:
    x = _x()
    return {"y": tf.cond(_positive(x), lambda: x[:, :2], lambda: x) * 2}, FEEDS


def _constants() -> Built:
    x = _x()
    y = tf.cond(_positive(x), lambda: tf.constant([1.0, 2, 3, 4]), lambda: tf.constant([0.0, 0, 5, 0]))
    return {"y": x * y}, FEEDS


def _case() -> Built:
    x = _x()
    total = tf.reduce_sum(x)
    y = tf.case([(total > 1, lambda: x * 2), (total < -1, lambda: x * 3)], default=lambda: x * 0.5)
    return {"y": y}, [*FEEDS, {"x": np.zeros((2, 4), np.float32)}]


def _switch_case() -> Built:
    """An index out of range takes the last branch."""
    x, index = _x(), whole("index")
    y = tf.switch_case(index, [lambda: x * 2, lambda: x + 1, lambda: -x])
    return {"y": y}, [{"x": INPUTS[0], "index": np.int32(k)} for k in (0, 1, 2, -1, 7)]


def _one_after_another() -> Built:
    x = _x()
    p = _positive(x)
    a = tf.cond(p, lambda: x * 2, lambda: x - 1)
    b = tf.cond(p, lambda: tf.tanh(a), lambda: a * a)
    c = tf.cond(p, lambda: x + 1, lambda: x * 3)
    return {"b": b, "c": c + a}, FEEDS


def _same_inside() -> Built:
    x = _x()
    p = _positive(x)
    y = tf.cond(
        p,
        lambda: tf.cond(p, lambda: x * 2, lambda: x * 100),
        lambda: tf.cond(tf.logical_not(p), lambda: x - 5, lambda: x * 7),
    )
    return {"y": y}, FEEDS


def _decided_by_a_branch() -> Built:
    x = _x()
    p = tf.cond(_positive(x), lambda: x[0, 0] > 0, lambda: x[0, 1] > 0)
    y = tf.cond(p, lambda: tf.constant([1.0]), lambda: tf.constant([2.0]))
    return {"y": y * x[:, :1]}, FEEDS


def _predicate_returned() -> Built:
    x = _x()
    p = _positive(x)
    y, q = tf.cond(p, lambda: (x, tf.identity(p)), lambda: (x * 2, tf.logical_or(p, x[0, 0] > 0)))
    return {"y": y, "q": tf.cast(q, tf.float32)}, FEEDS


def _loop_inside() -> Built:
    x, n = _x(), whole("n")

    def loop() -> Any:
        return tf.while_loop(lambda i, _: i < n, lambda i, a: (i + 1, a * 1.1 + x), [0, x])[1]

    y = tf.cond(_positive(x), loop, lambda: x - 1.0)
    return {"y": y}, [{"x": x, "n": np.int32(k)} for x in INPUTS[:2] for k in (0, 1, 3)]


CASES = both_forms(
    with_weights=_with_weights,
    by_flag=_by_flag,
    two_outputs=_two_outputs,
    nested=_nested,
    other_shapes=_other_shapes,
    constants=_constants,
    case=_case,
    switch_case=_switch_case,
    one_after_another=_one_after_another,
    same_inside=_same_inside,
    decided_by_a_branch=_decided_by_a_branch,
    predicate_returned=_predicate_returned,
    loop_inside=_loop_inside,
)
