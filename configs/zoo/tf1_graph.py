"""TensorFlow 1 graphs as their authors wrote them: reference variables, scopes, a Saver.

The variables are reference variables (``VariableV2``), conditionals are ``Switch`` and ``Merge``, and
``write_checkpoint`` leaves ``.meta``, ``.index`` and ``.data-00000-of-00001`` with everything that was in the
graph, training part included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CHECKPOINT = "model.ckpt"
Shape = tuple[int, ...]


@contextmanager
def tf1_session(seed: int, threads: int = 0) -> Iterator[tuple[Any, Any]]:
    """A seeded, empty TF1 graph with version 1 control flow: ``(tf.compat.v1, its session)``."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    tf1.logging.set_verbosity(tf1.logging.ERROR)  # otherwise each old name is deprecated aloud
    tf1.disable_control_flow_v2()
    with tf1.Graph().as_default():
        tf1.set_random_seed(seed)
        options = tf1.ConfigProto(intra_op_parallelism_threads=threads)
        with tf1.Session(config=options) as session:
            yield tf1, session


def variable(tf1: Any, name: str, shape: Shape, *, start: str = "he", trainable: bool = True) -> Any:
    """A float32 reference variable; ``he`` is normal with variance 2 / fan-in, else ``zeros`` or ``ones``."""
    initial = {
        "he": lambda: tf1.random_normal_initializer(stddev=float(np.sqrt(2.0 / np.prod(shape[:-1])))),
        "zeros": tf1.zeros_initializer,
        "ones": tf1.ones_initializer,
    }[start]()
    return tf1.get_variable(
        name, shape, tf1.float32, initializer=initial, trainable=trainable, use_resource=False
    )


def adam_step(tf1: Any, loss: Any, *, rate: float, images: int, epochs: int, batch: int = 64) -> Any:
    """The op of one Adam step; the rate falls from ``rate`` to 0 along a cosine over the whole training."""
    done = tf1.train.get_or_create_global_step()
    falling = tf1.train.cosine_decay(rate, done, epochs * -(-images // batch))
    return tf1.train.AdamOptimizer(falling).minimize(loss, global_step=done)


def load_values(tf1: Any, session: Any, values: Mapping[str, npt.NDArray[Any]]) -> None:
    """Give variables their values by name; they travel as feeds, never as constants of the graph.

    Raises:
        KeyError: a variable has no value, or a value has no variable.
    """
    variables = {item.op.name: item for item in tf1.global_variables()}
    if variables.keys() != values.keys():
        raise KeyError(f"variables and values differ: {sorted(variables.keys() ^ values.keys())}")
    for name, item in variables.items():
        session.run(item.initializer, {item.initializer.inputs[1]: values[name]})


def train_classifier(
    session: Any,
    step: Any,
    feed: Callable[[npt.NDArray[Any], npt.NDArray[Any]], Mapping[Any, Any]],
    data: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    *,
    epochs: int,
    batch: int = 64,
    seed: int = 0,
    prepare: Callable[[npt.NDArray[Any], np.random.Generator], npt.NDArray[Any]] | None = None,
) -> None:
    """Run ``step`` over shuffled batches of ``data`` = (x, y); ``prepare`` may change x each epoch."""
    rng = np.random.default_rng(seed)
    x, y = data
    for _ in range(epochs):
        order = rng.permutation(len(x))
        fresh = prepare(x[order], rng) if prepare else x[order]
        for start in range(0, len(x), batch):
            part = slice(start, start + batch)
            session.run(step, feed(fresh[part], y[order[part]]))


def write_checkpoint(tf1: Any, session: Any, folder: Path) -> Path:
    """Save all variables and the graph into an existing folder; returns the prefix."""
    tf1.train.Saver().save(session, str(folder / CHECKPOINT))
    return folder / CHECKPOINT


def inference_variables(tf1: Any, *, extra: tuple[str, ...] = ()) -> dict[str, Shape]:
    """Name → shape of what inference reads: trainable variables and moving statistics."""
    trainable = {item.op.name for item in tf1.trainable_variables()}
    return {
        item.op.name: tuple(int(size) for size in item.shape)
        for item in tf1.global_variables()
        if item.op.name in trainable
        or item.op.name.endswith(("moving_mean", "moving_variance"))
        or item.op.name in extra
    }


def count(variables: Mapping[str, Shape]) -> int:
    """Number of scalars in ``variables``."""
    return sum(int(np.prod(shape)) for shape in variables.values())
