"""``dynamic_rnn`` and its kin with the cells of TensorFlow 1. See ``tf_flow.py``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tests.sources.tf_flow import Built, both_forms, placeholder, random, v1

SEQUENCES = [random(2, 5, 4), random(1, 5, 4), random(3, 9, 4), random(4, 1, 4)]


def _cells() -> Any:
    warnings.filterwarnings("ignore", message=".*is deprecated.*")
    from tensorflow.python.keras.layers.legacy_rnn import rnn_cell_impl

    return rnn_cell_impl


def _lengths(x: Any, least: int = 0) -> Any:
    """Falling, down to an empty sequence."""
    return np.array([max(least, x.shape[1] - 2 * i) for i in range(len(x))], np.int32)


def _rnn(
    make: Callable[[Any], Any], *, lengths: bool = False, time_major: bool = False
) -> Callable[[], Built]:
    def build() -> Built:
        x = placeholder("x", None, None, 4)
        count = placeholder("lengths", None, dtype=tf.int32) if lengths else None
        o, state = v1.nn.dynamic_rnn(
            make(_cells()), x, sequence_length=count, dtype=tf.float32, time_major=time_major
        )
        outputs = {"o": o, **{f"state{i}": s for i, s in enumerate(tf.nest.flatten(state))}}
        feeds = []
        for one in SEQUENCES:
            turned = np.ascontiguousarray(one.transpose(1, 0, 2)) if time_major else one
            feeds.append({"x": turned, **({"lengths": _lengths(one)} if lengths else {})})
        if lengths:  # beyond the last step
            feeds.append({**feeds[0], "lengths": feeds[0]["lengths"] + 3})
        return outputs, feeds

    return build


def _from_state(make: Callable[[Any], Any], count: int) -> Callable[[], Built]:
    """The initial state is given: what an empty sequence ends in."""

    def build() -> Built:
        x, lengths = placeholder("x", None, None, 4), placeholder("lengths", None, dtype=tf.int32)
        states = [placeholder(f"start{i}", None, 3) for i in range(count)]
        start = _cells().LSTMStateTuple(*states) if count == 2 else states[0]
        o, end = v1.nn.dynamic_rnn(make(_cells()), x, sequence_length=lengths, initial_state=start)
        outputs = {"o": o, **{f"state{i}": s for i, s in enumerate(tf.nest.flatten(end))}}
        feeds: list[dict[str, Any]] = [
            {
                "x": one,
                "lengths": _lengths(one),
                **{f"start{i}": random(len(one), 3) + 1 + i for i in range(count)},
            }
            for one in SEQUENCES
        ]
        return outputs, [*feeds, {**feeds[0], "lengths": np.zeros(2, np.int32)}]

    return build


def _both_directions(make: Callable[[Any], Any]) -> Callable[[], Built]:
    def build() -> Built:
        x, lengths = placeholder("x", None, None, 4), placeholder("lengths", None, dtype=tf.int32)
        outputs, states = v1.nn.bidirectional_dynamic_rnn(
            make(_cells()), make(_cells()), x, sequence_length=lengths, dtype=tf.float32
        )
        ends = [tf.nest.flatten(state)[-1] for state in states]
        feeds = [{"x": one, "lengths": _lengths(one, 1)} for one in SEQUENCES]
        return {"y": tf.concat(outputs, 2), "end": tf.concat(ends, 1)}, feeds

    return build


def _raw() -> Built:
    x, lengths = placeholder("x", None, None, 4), placeholder("lengths", None, dtype=tf.int32)
    turned, cell = tf.transpose(x, [1, 0, 2]), _cells().LSTMCell(3)
    steps, batch = tf.shape(turned)[0], tf.shape(x)[0]
    source = tf.TensorArray(tf.float32, steps).unstack(turned)

    def step(time: Any, output: Any, state: Any, _: Any) -> Any:
        following = cell.zero_state(batch, tf.float32) if output is None else state
        done = time >= lengths
        fresh = tf.cond(
            tf.reduce_all(done),
            lambda: tf.zeros([batch, 4]),
            lambda: source.read(tf.minimum(time, steps - 1)),
        )
        fresh.set_shape([None, 4])
        return done, fresh, following, output, None

    outputs, state, _ = v1.nn.raw_rnn(cell, step)
    feeds = [{"x": one, "lengths": _lengths(one, 1)} for one in SEQUENCES]
    return {"o": outputs.stack(), "h": state.h}, feeds


CASES = both_forms(
    lstm=_rnn(lambda cells: cells.LSTMCell(3)),
    lstm_lengths=_rnn(lambda cells: cells.LSTMCell(3), lengths=True),
    lstm_peepholes=_rnn(lambda cells: cells.LSTMCell(3, use_peepholes=True), lengths=True),
    lstm_projected=_rnn(lambda cells: cells.LSTMCell(3, num_proj=2, cell_clip=0.3), lengths=True),
    lstm_time_major=_rnn(lambda cells: cells.LSTMCell(3), lengths=True, time_major=True),
    lstm_from_state=_from_state(lambda cells: cells.LSTMCell(3), 2),
    basic_lstm=_rnn(lambda cells: cells.BasicLSTMCell(3)),
    gru=_rnn(lambda cells: cells.GRUCell(3)),
    gru_lengths=_rnn(lambda cells: cells.GRUCell(3), lengths=True),
    gru_from_state=_from_state(lambda cells: cells.GRUCell(3), 1),
    basic=_rnn(lambda cells: cells.BasicRNNCell(3), lengths=True),
    stacked=_rnn(lambda cells: cells.MultiRNNCell([cells.LSTMCell(3), cells.GRUCell(2)]), lengths=True),
    lstm_both=_both_directions(lambda cells: cells.LSTMCell(3)),
    gru_both=_both_directions(lambda cells: cells.GRUCell(3)),
    raw=_raw,
)
