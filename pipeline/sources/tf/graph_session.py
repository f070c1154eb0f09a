"""A prepared graph as a session in TensorFlow itself."""

from __future__ import annotations

import re
from collections.abc import Collection
from types import TracebackType
from typing import Any, Self

import numpy as np

from optim.contract import Array, Feeds, Outputs, TensorSpec
from optim.errors import UnsupportedModelError, UserError
from pipeline.sources.contract import AnyLayer
from pipeline.sources.layer_values import graph_layer_tensors
from pipeline.sources.tf.cpu_layout import channels_last
from pipeline.sources.tf.double_precision import DoubleGraph
from pipeline.sources.tf.fold import import_graph
from pipeline.sources.tf.graph import Edge
from pipeline.sources.tf.prepare import Prepared, rejected
from pipeline.sources.tf.text import as_text

_NO_KERNEL = re.compile(r"no OpKernel|only supports|do(es)? not (yet )?support")


class GraphSession:
    """Runs the reference graph of ``prepared``: frozen placeholders and detached weights are fed.

    Raises:
        UnsupportedModelError: TensorFlow rejects the graph.
    """

    def __init__(self, prepared: Prepared) -> None:
        import tensorflow as tf

        self._prepared = prepared
        self._double: DoubleGraph | None = None
        graph_def = type(prepared.reference.graph_def)()
        graph_def.CopyFrom(prepared.reference.graph_def)
        channels_last(graph_def)
        try:
            graph = import_graph(graph_def)
        except (ValueError, TypeError) as error:
            raise rejected(error) from error
        self._session = tf.compat.v1.Session(graph=graph)
        self._session.run(list(prepared.first))
        self._inputs = tuple(_spec(graph, edge) for edge in prepared.graph.inputs)
        self._outputs = tuple(_spec(graph, edge) for edge in prepared.graph.outputs)
        present = {op.name for op in graph.get_operations()}
        self._fixed: dict[str, Any] = dict(prepared.reference_feeds)
        self._fixed |= {f"{n}:0": a for n, a in prepared.reference.weights.items() if n in present}

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs by name.

        Raises:
            UserError: an input is missing or has a wrong shape.
            UnsupportedModelError: TensorFlow has no kernel for one of the ops here.
        """
        import tensorflow as tf

        edges = self._prepared.graph.inputs
        missing = [edge.name for edge in edges if edge.name not in feeds]
        if missing:
            raise UserError(f"no array for input {missing[0]}", expected=f"{[e.name for e in edges]}")
        bound = {edge.tensor: feeds[edge.name] for edge in edges}
        tensors = [edge.tensor for edge in self._prepared.graph.outputs]
        try:
            values = self._session.run(tensors, {**self._fixed, **bound})
        except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
            if _NO_KERNEL.search(str(error)):
                raise rejected(error) from error
            raise UserError(f"TensorFlow rejects the inputs: {str(error)[:400]}") from error
        except tf.errors.OpError as error:
            raise UnsupportedModelError(
                f"TensorFlow cannot run the graph: {str(error)[:400]}",
                hint="name outputs before the node at fault (--outputs)",
            ) from error
        names = [edge.name for edge in self._prepared.graph.outputs]
        return dict(zip(names, map(as_text, map(np.asarray, values)), strict=True))

    def layer_values(self, feeds: Feeds, layers: Collection[AnyLayer]) -> dict[str, Array]:
        """What the layers' tensors hold, by layer name."""
        present = {op.name for op in self._session.graph.get_operations()}
        tensors = graph_layer_tensors(present, layers)
        bound = {edge.tensor: feeds[edge.name] for edge in self._prepared.graph.inputs}
        values: dict[str, Array] = self._session.run(tensors, {**self._fixed, **bound})
        return values

    def run_float64(self, feeds: Feeds) -> Outputs:
        """Outputs in float64; raises UnsupportedModelError where TensorFlow cannot.

        Of the graph whose switches are set: the training branches beside it draw random numbers.
        """
        if self._double is None:
            self._double = DoubleGraph(self._prepared.graph)
        return self._double.run(feeds)

    def close(self) -> None:
        if self._double is not None:
            self._double.close()
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def _spec(graph: Any, edge: Edge) -> TensorSpec:
    tensor = graph.get_tensor_by_name(edge.tensor)
    rank = tensor.shape.rank
    dtype = "str" if tensor.dtype.name == "string" else tensor.dtype.name
    return TensorSpec(edge.name, dtype, tuple(tensor.shape.as_list()) if rank is not None else ())
