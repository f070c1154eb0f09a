"""A concrete function as a GraphDef: calls inlined, variables read, large ones detached by reference.

TensorFlow's own freezing does the work; only how it reads a variable is replaced, so that large weights
never enter a proto and are never copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from optim.contract import Array
from optim.errors import InternalError
from pipeline.sources.tf.clean import clean
from pipeline.sources.tf.detach import LARGE_BYTES, may_detach
from pipeline.sources.tf.graph import GraphDef, by_name, consumers, make_placeholder
from pipeline.sources.tf.inline import inline_calls


@dataclass(frozen=True)
class FunctionGraph:
    """GraphDef of a function, its tensors, and its detached weights by placeholder name."""

    graph_def: GraphDef
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: dict[str, Array]


def graph_of_function(function: Any) -> FunctionGraph:
    """Freeze a ``ConcreteFunction``; its non-captured inputs stay inputs."""
    captured = {id(inner) for _, inner in function.graph.captures}
    inputs = tuple(tensor.name for tensor in function.inputs if id(tensor) not in captured)
    outputs = tuple(tensor.name for tensor in function.outputs)
    weights: dict[str, Array] = {}
    graph_def = _freeze(function, weights)
    clean(graph_def)
    nodes = by_name(graph_def)
    for name, array in weights.items():
        if name not in nodes:
            continue
        make_placeholder(nodes[name], nodes[name].attr["dtype"].type, array.shape)
    inline_calls(graph_def)
    return FunctionGraph(graph_def, inputs, outputs, weights)


def read_variable(variable: Any) -> Array:
    """A variable's value without copying it."""
    value = variable.read_value() if hasattr(variable, "read_value") else variable
    try:
        array: Array = np.from_dlpack(value)
    except (TypeError, ValueError, RuntimeError, BufferError):  # bool, string, bfloat16
        array = np.asarray(value.numpy())
    return array


def _freeze(function: Any, weights: dict[str, Array]) -> GraphDef:
    try:
        from tensorflow.python.framework import convert_to_constants as freezing
    except ImportError as error:  # pragma: no cover - another TensorFlow
        raise InternalError(f"this TensorFlow cannot freeze functions: {error}") from error

    class Detaching(freezing._FunctionConverterData):  # type: ignore[misc]
        """Reads captures itself: large weights by reference, leaving a stand-in of one element."""

        def _build_tensor_data(self) -> None:
            variables = {id(v.handle): v for v in self._func.graph.variables}
            readers = consumers(self.graph_def)
            for index, (outer, inner) in enumerate(self._func.graph.captures):
                name = inner.name.split(":")[0]
                if id(outer) in variables:
                    data = read_variable(variables[id(outer)])
                elif outer.dtype.name in ("resource", "variant"):
                    continue
                else:
                    data = np.asarray(outer.numpy())
                if data.nbytes >= LARGE_BYTES and may_detach(name, readers):
                    weights[name] = data
                    data = np.zeros((), data.dtype)
                self._tensor_data[name] = freezing._TensorData(
                    numpy=data, dtype=inner_type(outer, data), index=index
                )

    def inner_type(outer: Any, data: Array) -> int:
        import tensorflow as tf

        del outer
        kind: int = tf.as_dtype(data.dtype).as_datatype_enum
        return kind

    data = Detaching(func=function, lower_control_flow=False, aggressive_inlining=True)
    graph_def, _ = freezing._replace_variables_by_constants(converter_data=data)
    return graph_def
