"""Loops over arrays: ``tf.map_fn``, ``scan``, ``foldl``, ``TensorArray``. See ``tf_flow.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tests.sources.tf_flow import Built, both_forms, placeholder, random, variable, whole

ROWS = [random(6, 4), random(1, 4), random(3, 4)]
FEEDS = [{"x": x} for x in ROWS]
NONE = {"x": np.zeros((0, 4), np.float32)}


def _x() -> Any:
    return placeholder("x", None, 4)


def _times(x: Any, w: Any) -> Any:
    return tf.linalg.matvec(w, x, transpose_a=True)


def _map() -> Built:
    x, w = _x(), variable("w", 4, 3)
    return {"y": tf.map_fn(lambda e: _times(e, w) + 1.0, x)}, [*FEEDS, NONE]


def _map_two() -> Built:
    x, z = _x(), placeholder("z", None, dtype=tf.int32)
    types = (tf.float32, tf.int32)
    a, b = tf.map_fn(lambda e: (e[0] * tf.cast(e[1], tf.float32), e[1] + 1), (x, z), dtype=types)
    return {"a": a, "b": b}, [{"x": x, "z": np.arange(len(x), dtype=np.int32)} for x in ROWS]


def _map_of_maps() -> Built:
    x = placeholder("x", None, 3, 4)

    def inner(e: Any) -> Any:
        return tf.cond(tf.reduce_sum(e) > 0, lambda: e * 2, lambda: e - 1)

    y = tf.map_fn(lambda m: tf.map_fn(inner, m), x)
    return {"y": y}, [{"x": random(n, 3, 4)} for n in (1, 2, 5)]


def _map_to_free_size() -> Built:
    """The size of the elements is known only when the graph runs."""
    x = placeholder("x", None, None)
    y = tf.map_fn(lambda e: tf.concat([e, e[:1]], 0), x)
    return {"y": y}, [{"x": random(3, 5)}, {"x": random(1, 1)}, {"x": random(2, 3)}]


def _map_ranges() -> Built:
    x = placeholder("x", None, dtype=tf.int32)
    y = tf.map_fn(lambda n: tf.reduce_sum(tf.cast(tf.range(n), tf.float32)), x, dtype=tf.float32)
    return {"y": y}, [{"x": np.array(v, np.int32)} for v in ([3, 0, 5], [1], [2, 2])]


def _scan() -> Built:
    return {"y": tf.scan(lambda a, e: a * 0.5 + e, _x())}, FEEDS


def _scan_from() -> Built:
    x, w = _x(), variable("w", 4, 3)
    y = tf.scan(lambda a, e: tf.tanh(a * 0.5 + _times(e, w)), x, initializer=tf.zeros([3]))
    return {"y": y}, [*FEEDS, NONE]


def _scan_backwards() -> Built:
    y = tf.scan(lambda a, e: a * 0.5 + e, _x(), initializer=tf.ones([4]), reverse=True)
    return {"y": y}, FEEDS


def _scan_two() -> Built:
    start = (tf.zeros([4]), tf.constant(1.0))
    a, b = tf.scan(lambda s, e: (s[0] + e, s[1] * 0.9 + tf.reduce_sum(e)), _x(), initializer=start)
    return {"a": a, "b": b}, FEEDS


def _foldl() -> Built:
    return {"y": tf.foldl(lambda a, e: a * 0.5 + e, _x(), initializer=tf.ones([4]))}, [*FEEDS, NONE]


def _foldr() -> Built:
    return {"y": tf.foldr(lambda a, e: a * 0.5 + e, _x())}, FEEDS


def _array(size: Any, **options: Any) -> Any:
    return tf.TensorArray(tf.float32, size, **options)


def _loop(count: Any, write: Any, array: Any, start: int = 0) -> Any:
    return tf.while_loop(lambda i, _: i < count, lambda i, a: (i + 1, write(i, a)), [start, array])[1]


def _written_backwards() -> Built:
    x = _x()
    n = tf.shape(x)[0]
    source = _array(n).unstack(x)
    made = _loop(n, lambda i, a: a.write(n - 1 - i, source.read(i) * tf.cast(i + 1, tf.float32)), _array(n))
    return {"y": made.stack()}, FEEDS


def _read_while_written() -> Built:
    """The first element is written before the loop, which starts at 1."""
    x = _x()
    n = tf.shape(x)[0]
    begun = _array(n, clear_after_read=False, element_shape=[4]).write(0, x[0] * 10.0)
    return {"y": _loop(n, lambda i, a: a.write(i, a.read(i - 1) * 0.5 + x[i]), begun, 1).stack()}, FEEDS


def _two_writes_a_round() -> Built:
    x = _x()
    n = tf.shape(x)[0]
    made = _loop(
        n, lambda i, a: a.write(2 * i + 1, x[i]).write(2 * i, -x[i]), _array(n * 2, element_shape=[4])
    )
    return {"y": made.stack()}, FEEDS


def _stopped_early() -> Built:
    """Fewer rounds than places: the rest is zeros."""
    x, count = _x(), whole("count")
    made = _loop(count, lambda i, a: a.write(i, x[i] + 1.0), _array(tf.shape(x)[0], element_shape=[4]))
    return {"y": made.stack()}, [{"x": ROWS[0], "count": np.int32(k)} for k in (6, 4, 0)]


def _gathered() -> Built:
    x = _x()
    n = tf.shape(x)[0]
    made = _loop(n, lambda i, a: a.write(i, x[i] + 1.0), _array(n, element_shape=[4]))
    return {"y": made.gather(tf.range(n)[::-1])}, FEEDS


def _concatenated() -> Built:
    x = _x()
    n = tf.shape(x)[0]
    made = _loop(n, lambda i, a: a.write(i, tf.stack([x[i], x[i] * 2.0])), _array(n, infer_shape=False))
    return {"y": made.concat()}, FEEDS


def _without_loop() -> Built:
    x = placeholder("x", 3, 4)
    source, made = _array(3).unstack(x), _array(3)
    for i in range(3):
        made = made.write(2 - i, source.read(i) * float(i + 1))
    return {"y": made.stack()}, [{"x": random(3, 4)}]


def _greedy() -> Built:
    """A decoder that feeds its own choice back, into an array that grows."""
    x, table, weights = _x(), variable("table", 5, 4), variable("weights", 4, 5)

    def body(i: Any, state: Any, token: Any, array: Any) -> Any:
        state = tf.tanh(state + tf.gather(table, token))
        token = tf.argmax(tf.matmul(state, weights), -1)
        return i + 1, state, token, array.write(i, token)

    start = [0, x, tf.zeros([tf.shape(x)[0]], tf.int64), tf.TensorArray(tf.int64, 0, dynamic_size=True)]
    _, state, _, array = tf.while_loop(lambda i, s, *_: (i < 7) & (tf.reduce_sum(s) < 40.0), body, start)
    inputs = [random(2, 4), -random(2, 4), random(5, 4)]
    return {"tokens": tf.transpose(array.stack()), "state": state}, [{"x": x} for x in inputs]


CASES = both_forms(
    map=_map,
    map_two=_map_two,
    map_of_maps=_map_of_maps,
    map_to_free_size=_map_to_free_size,
    map_ranges=_map_ranges,
    scan=_scan,
    scan_from=_scan_from,
    scan_backwards=_scan_backwards,
    scan_two=_scan_two,
    foldl=_foldl,
    foldr=_foldr,
    written_backwards=_written_backwards,
    read_while_written=_read_while_written,
    two_writes_a_round=_two_writes_a_round,
    stopped_early=_stopped_early,
    gathered=_gathered,
    concatenated=_concatenated,
    without_loop=_without_loop,
    greedy=_greedy,
)
