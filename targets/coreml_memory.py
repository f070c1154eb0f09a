"""What coremltools 9 does to a GraphDef that holds large weights, and need not.

It formats the whole graph as text for a log line that nobody reads (for VGG-16: a minute, and six times the
weights), and has TensorFlow evaluate every constant, weights included (seven times the weights), where it
could read them from the graph. Both are in its private parts: where these have changed, nothing is done here,
and memory alone suffers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

LARGE_BYTES: Final = 1 << 20
_PROPAGATION: Final = "coremltools.converters.mil.frontend.tensorflow.tf_graph_pass.constant_propagation"
_FORMAT: Final = "__format__"
_FIND: Final = "const_determined_nodes"  # (graph, assumed variable) → names of what constants determine
_BUILT_IN: Final = "numpy_val_to_builtin_val"  # array → (value, type) as a node holds them


@contextmanager
def weights_left_alone(graph: Any | None) -> Iterator[None]:
    """While coremltools converts ``graph``, a GraphDef; nothing is done where it is given something else."""
    if graph is None:
        yield
        return
    with _named_only(type(graph)), _known_without_evaluation():
        yield


@contextmanager
def _named_only(kind: type) -> Iterator[None]:
    """Objects of this type are formatted as the name of their type."""
    before = getattr(kind, _FORMAT)
    setattr(kind, _FORMAT, lambda self, _spec: type(self).__name__)
    try:
        yield
    finally:
        setattr(kind, _FORMAT, before)


@contextmanager
def _known_without_evaluation() -> Iterator[None]:
    """Large constants that no other constant is computed from are read, not evaluated."""
    module = importlib.import_module(_PROPAGATION)
    find, built_in = getattr(module, _FIND, None), getattr(module, _BUILT_IN, None)
    if find is None or built_in is None:
        yield
        return
    setattr(module, _FIND, lambda graph, assumed=None: _to_evaluate(graph, find(graph, assumed), built_in))
    try:
        yield
    finally:
        setattr(module, _FIND, find)


def _to_evaluate(graph: Mapping[str, Any], found: Iterable[str], built_in: Callable[..., Any]) -> list[str]:
    """Names among ``found`` that TensorFlow has to evaluate; the others are given their values here."""
    import tensorflow as tf

    constant = list(found)
    known = set(constant)
    weights = {name for name in constant if _is_large(graph[name]) and known.isdisjoint(graph[name].outputs)}
    for name in weights:
        node = graph[name]
        node.value, node.datatype = built_in(tf.make_ndarray(node.original_node.attr["value"].tensor))
    return [name for name in constant if name not in weights]


def _is_large(node: Any) -> bool:
    definition = node.original_node
    return node.op == "Const" and definition is not None and definition.ByteSize() >= LARGE_BYTES
