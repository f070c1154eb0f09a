"""Look-up tables. See ``tf_flow.py``; the contents lie in initialisers, which a frozen graph loses."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.sources.tf_flow import Built, Case, placeholder, random, variable

LABELS = ["cat", "dog", "ünïcode", ""]
SCORES = [{"x": random(2, 4)}, {"x": random(5, 4)}]


def _table(keys: Any, values: Any, default: Any) -> Any:
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), default)


def _labels(count: int) -> Built:
    """Classes as text; with fewer labels than classes, the rest are unknown."""
    x = placeholder("x", None, 4)
    table = _table(tf.range(count, dtype=tf.int64), tf.constant(LABELS[:count]), "?")
    return {"label": table.lookup(tf.argmax(x, -1)), "scores": tf.nn.softmax(x)}, SCORES


def _label_constant() -> Built:
    x = placeholder("x", None, 4)
    return {"label": tf.gather(tf.constant(LABELS), tf.argmax(x, -1))}, SCORES


def _numbers() -> Built:
    x, embedding = placeholder("x", None, dtype=tf.int64), variable("embedding", 6, 3)
    table = _table(tf.constant([10, 20, -5], tf.int64), tf.constant([1, 2, 3], tf.int64), 0)
    feeds = [{"x": np.array(v, np.int64)} for v in ([10, 20], [7, -5, 10])]
    return {"y": tf.gather(embedding, table.lookup(x)), "size": table.size() + 0 * x[:1]}, feeds


def _to_floats() -> Built:
    x = placeholder("x", None, 2, dtype=tf.int32)
    table = _table(tf.constant([10, 20, -5]), tf.constant([1.5, 2.0, 3.0]), -1.0)
    return {"y": table.lookup(x)}, [{"x": np.array(v, np.int32)} for v in ([[10, 20]], [[7, -5], [10, 0]])]


def _words() -> Built:
    x, embedding = placeholder("x", None, dtype=tf.string), variable("embedding", 6, 3)
    table = _table(tf.constant(["the", "ä", "dog"]), tf.constant([1, 2, 3], tf.int64), 0)
    feeds = [{"x": np.array(v, object)} for v in (["dog", "ä"], ["x", "the", "dog"])]
    return {"y": tf.gather(embedding, table.lookup(x))}, feeds


def _from_file() -> Built:
    """The labels are a file among the assets; the original is gone."""
    file = Path(tempfile.mkdtemp()) / "labels.txt"
    file.write_text("cat\ndog\nünïcode\n")
    x = placeholder("x", None, 4)
    line = tf.lookup.TextFileIndex
    rows = tf.lookup.TextFileInitializer(str(file), tf.int64, line.LINE_NUMBER, tf.string, line.WHOLE_LINE)
    return {"label": tf.lookup.StaticHashTable(rows, "?").lookup(tf.argmax(x, -1))}, SCORES


def _hashed() -> Built:
    x = placeholder("x", None, dtype=tf.string)
    words = tf.lookup.KeyValueTensorInitializer(tf.constant(["the", "a"]), tf.constant([0, 1], tf.int64))
    return {"y": tf.lookup.StaticVocabularyTable(words, 3).lookup(x)}, [{"x": np.array(["a", "b"], object)}]


CASES = {
    "labels": Case(lambda: _labels(4)),
    "labels_some": Case(lambda: _labels(2)),
    "label_constant": Case(_label_constant),
    "numbers": Case(_numbers),
    "to_floats": Case(_to_floats),
    "words": Case(_words),
    "from_file": Case(_from_file),
    "hashed": Case(_hashed),
}
