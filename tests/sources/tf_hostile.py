"""Models that try to reach outside themselves, written in a child process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


def build(name: str, path: Path, secret: Path, _progress: object) -> None:
    """Write model ``name`` to ``path``; ``secret`` is a file that it tries to read or write."""
    _BUILDERS[name](path, str(secret))


def _graph(body: Callable[[Any, str], Any]) -> Callable[[Path, str], None]:
    def write(path: Path, secret: str) -> None:
        graph = tf.Graph()
        with graph.as_default():
            x = v1.placeholder(tf.float32, [2, 3], name="x")
            tf.identity(body(x, secret), name="y")
        path.write_bytes(graph.as_graph_def().SerializeToString())

    return write


def _size_of(text: Any) -> Any:
    return tf.cast(tf.strings.length(text), tf.float32)


def _reads(x: Any, secret: str) -> Any:
    return x + _size_of(tf.io.read_file(secret))


def _reads_as_shape(x: Any, secret: str) -> Any:
    # Shape inference evaluates this while the graph is only being imported.
    size = tf.strings.length(tf.io.read_file(secret))
    return tf.reshape(x, tf.stack([size * 0 + 3, 2]))


def _reads_in_function(x: Any, secret: str) -> Any:
    @tf.function
    def inner(value: Any) -> Any:
        return value + _size_of(tf.io.read_file(secret))

    return inner(x)


def _writes(x: Any, secret: str) -> Any:
    @tf.function(autograph=False)
    def inner(value: Any) -> Any:
        tf.raw_ops.WriteFile(filename=secret, contents="written")
        return value * 2.0

    return inner(x)


def _prints(x: Any, secret: str) -> Any:
    @tf.function(autograph=False)
    def inner(value: Any) -> Any:
        tf.print(value, output_stream=f"file://{secret}")
        return value * 2.0

    return inner(x)


def _python(x: Any, _: str) -> Any:
    return v1.py_func(lambda value: value * 2, [x], tf.float32, stateful=False)


def _restores(x: Any, secret: str) -> Any:
    return (
        x
        + tf.raw_ops.RestoreV2(prefix=secret, tensor_names=["w"], shape_and_slices=[""], dtypes=[tf.float32])[
            0
        ]
    )


def _matches(x: Any, secret: str) -> Any:
    return x + tf.cast(tf.size(tf.io.matching_files(secret)), tf.float32)


def _harmless(x: Any, secret: str) -> Any:
    tf.io.read_file(secret, name="aside")  # no output needs it
    return v1.Print(x, [x]) + 1.0


class _Net(tf.Module):
    def __init__(self, secret: str, what: str) -> None:
        super().__init__()
        self.w = tf.Variable(np.ones((3, 2), np.float32))
        self.secret, self.what = secret, what
        if what == "table":
            # The file is the model's own asset, copied into its folder by TensorFlow.
            initializer = tf.lookup.TextFileInitializer(
                secret, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            )  # fmt: skip
            self.table = tf.lookup.StaticHashTable(initializer, -1)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def __call__(self, x: Any) -> Any:
        y = tf.matmul(x, self.w)
        if self.what == "read":
            y += _size_of(tf.io.read_file(self.secret))
        elif self.what == "python":
            y = tf.numpy_function(lambda value: value * 2, [y], tf.float32)
        elif self.what == "write":
            tf.raw_ops.WriteFile(filename=self.secret, contents="written")
        return {"y": y}

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.string)])
    def load(self, name: Any) -> Any:
        return tf.io.read_file(name)  # a convenience that no signature uses


def _saved(what: str) -> Callable[[Path, str], None]:
    def write(path: Path, secret: str) -> None:
        net = _Net(secret, what)
        tf.saved_model.save(net, str(path), signatures={"serving_default": net.__call__})

    return write


def _saved_initialiser(path: Path, secret: str) -> None:
    """A table whose initialiser, which loading runs, was changed to read another file."""
    from tensorflow.core.protobuf import saved_model_pb2

    Path(secret).write_text("a\nb\n")
    _saved("table")(path, secret)
    file = path / "saved_model.pb"
    stored = saved_model_pb2.SavedModel()
    stored.ParseFromString(file.read_bytes())
    for function in stored.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if node.op == "InitializeTableFromTextFileV2":
                constant = function.node_def.add()
                constant.name, constant.op = "elsewhere", "Const"
                constant.attr["dtype"].type = tf.string.as_datatype_enum
                constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(secret))
                node.input[1] = "elsewhere:output:0"
                break
    file.write_bytes(stored.SerializeToString())


_BUILDERS: dict[str, Callable[[Path, str], None]] = {
    "reads": _graph(_reads),
    "reads_as_shape": _graph(_reads_as_shape),
    "reads_in_function": _graph(_reads_in_function),
    "writes": _graph(_writes),
    "prints": _graph(_prints),
    "python": _graph(_python),
    "restores": _graph(_restores),
    "matches": _graph(_matches),
    "harmless": _graph(_harmless),
    "saved_reads": _saved("read"),
    "saved_python": _saved("python"),
    "saved_writes": _saved("write"),
    "saved_plain": _saved("plain"),
    "saved_table": _saved("table"),
    "saved_initialiser": _saved_initialiser,
}
