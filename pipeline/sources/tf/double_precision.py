"""A TensorFlow graph evaluated in float64 by TensorFlow itself: what the source means, free of its rounding.

Every floating-point type in a copy of the graph becomes float64; weights and constants are widened, which
loses nothing. Two operators whose kernels know float32 only are written out by their definitions: batch norm
in inference, https://www.tensorflow.org/api_docs/python/tf/raw_ops/FusedBatchNormV3, and local response
normalisation, https://www.tensorflow.org/api_docs/python/tf/nn/local_response_normalization. Any other
operator without a float64 kernel is refused by name: a value that passes through float32 is no truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from optim.contract import Array, Feeds, Outputs
from optim.errors import UnsupportedModelError
from pipeline.sources.tf.cpu_layout import channels_last
from pipeline.sources.tf.fold import import_graph
from pipeline.sources.tf.graph import GraphDef, NodeDef, TfGraph, consumers

MOST_WEIGHT_BYTES = 320 << 20  # of float32 weights: beyond it, a second copy of twice the size costs too much

# DT_FLOAT, DT_BFLOAT16, DT_HALF and DT_DOUBLE in tensorflow/core/framework/types.proto.
_NARROW = frozenset({1, 14, 19})
_DOUBLE = 2
# Whose float64 kernel gives other values than its float32 kernel (TensorFlow 2.21): off by the range itself.
_WRONG_IN_DOUBLE = frozenset({"FusedResizeAndPadConv2D"})
_BATCH_NORMS = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})


class DoubleGraph:
    """``graph`` in float64, ready to run.

    Raises:
        UnsupportedModelError: an operator has no float64 form, or the weights are too large to copy.
    """

    def __init__(self, graph: TfGraph) -> None:
        import tensorflow as tf

        _refuse_large(graph)
        self._inputs, self._outputs = graph.inputs, graph.outputs
        imported = import_widened(graph.graph_def)
        present = {op.name for op in imported.get_operations()}
        self._fixed = {f"{n}:0": widened(a) for n, a in graph.weights.items() if n in present}
        config = tf.compat.v1.ConfigProto()
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        self._session = tf.compat.v1.Session(graph=imported, config=config)

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs by name, in float64.

        Raises:
            UnsupportedModelError: TensorFlow has no float64 kernel for one of the operators here.
        """
        import tensorflow as tf

        bound = {edge.tensor: widened(feeds[edge.name]) for edge in self._inputs}
        try:
            values = self._session.run([edge.tensor for edge in self._outputs], {**self._fixed, **bound})
        except (tf.errors.OpError, ValueError, TypeError) as error:
            said = [line for line in str(error).splitlines() if line and "raph execution" not in line]
            lines = (line for line in said if not line.startswith(("Detected at", "Node:")))
            told = next(lines, type(error).__name__)
            raise UnsupportedModelError(f"TensorFlow cannot run it in float64: {told[:200]}") from error
        return {edge.name: np.asarray(v) for edge, v in zip(self._outputs, values, strict=True)}

    def close(self) -> None:
        """Free the session and its copy of the weights."""
        self._session.close()
        self._fixed = {}


def widened(array: Array) -> Array:
    """Floating-point numbers in float64; anything else as it is."""
    floating = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return array.astype(np.float64) if floating else array


def import_widened(graph_def: GraphDef) -> Any:
    """A float64 copy of ``graph_def`` as a ``tf.Graph``.

    Raises:
        UnsupportedModelError: an operator has no float64 form.
    """
    copy = type(graph_def)()
    copy.CopyFrom(graph_def)
    channels_last(copy)
    readers = consumers(copy)
    channels = _channels_of_norms(copy)
    for node in list(copy.node):
        if node.op in _BATCH_NORMS:
            _write_out_batch_norm(copy, node, readers)
        elif node.op == "LRN":
            _write_out_response_norm(copy, node, channels[node.name])
    for node in _every_node(copy):
        _widen(node)
    for function in copy.library.function:
        for argument in (*function.signature.input_arg, *function.signature.output_arg):
            argument.type = _DOUBLE if argument.type in _NARROW else argument.type
    try:
        return import_graph(copy)
    except (ValueError, TypeError) as error:
        raise UnsupportedModelError(f"TensorFlow rejects it in float64: {str(error)[:200]}") from error


def _refuse_large(graph: TfGraph) -> None:
    size = sum(array.nbytes for array in graph.weights.values())
    if size > MOST_WEIGHT_BYTES:
        raise UnsupportedModelError(
            f"its weights take {size >> 20} MiB, and a copy in float64 twice as much; "
            f"at most {MOST_WEIGHT_BYTES >> 20} MiB are copied"
        )


def _every_node(graph_def: GraphDef) -> Iterable[NodeDef]:
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def _widen(node: NodeDef) -> None:
    """Give a node float64 types, in place."""
    from tensorflow.python.framework import op_def_registry

    if "Random" in node.op or node.op in ("Multinomial", "TruncatedNormal"):
        raise UnsupportedModelError(f"{node.op} draws random numbers", where=node.name)
    if node.op in _WRONG_IN_DOUBLE:
        raise UnsupportedModelError(
            f"TensorFlow's {node.op} computes something else in float64", where=node.name
        )
    definition = op_def_registry.get(node.op)
    arguments = [] if definition is None else [*definition.input_arg, *definition.output_arg]
    if any(argument.type in _NARROW for argument in arguments):
        raise UnsupportedModelError(f"TensorFlow's {node.op} computes in float32 only", where=node.name)
    allowed = {} if definition is None else {a.name: set(a.allowed_values.list.type) for a in definition.attr}
    for key, attribute in node.attr.items():
        if attribute.type in _NARROW:
            if allowed.get(key) and _DOUBLE not in allowed[key]:
                raise UnsupportedModelError(f"TensorFlow's {node.op} knows no float64", where=node.name)
            attribute.type = _DOUBLE
        elif any(kind in _NARROW for kind in attribute.list.type):
            attribute.list.type[:] = [_DOUBLE if kind in _NARROW else kind for kind in attribute.list.type]
        elif attribute.HasField("tensor") and attribute.tensor.dtype in _NARROW:
            _widen_tensor(attribute.tensor)


def _widen_tensor(tensor: Any) -> None:
    import tensorflow as tf

    tensor.CopyFrom(tf.make_tensor_proto(tf.make_ndarray(tensor).astype(np.float64)))


# --- operators that know float32 only ----------------------------------------------------------------


def _write_out_batch_norm(graph_def: GraphDef, node: NodeDef, readers: Mapping[str, Any]) -> None:
    """(x - mean) · (scale / sqrt(variance + epsilon)) + offset, in place; its name keeps the result."""
    further = [f"{node.name}:{index}" for index in range(1, 6)]
    training = "is_training" not in node.attr or node.attr["is_training"].b
    if training or any(tensor in readers for tensor in further):
        raise UnsupportedModelError(f"{node.op} computes its own statistics", where=node.name)
    x, scale, offset, mean, variance = list(node.input)[:5]
    epsilon = node.attr["epsilon"].f if "epsilon" in node.attr else 1e-4
    build = _Builder(graph_def, node.name)
    steep = build.add("Mul", scale, build.add("Rsqrt", build.add("AddV2", variance, build.constant(epsilon))))
    scaled = build.add("Mul", build.add("Sub", x, mean), steep)
    _become(node, "AddV2", [scaled, offset])


def _write_out_response_norm(graph_def: GraphDef, node: NodeDef, channels: int | None) -> None:
    """x / (bias + alpha · Σ x²)^beta, the sum over the channels within ``depth_radius``, in place."""
    if channels is None:
        raise UnsupportedModelError("TensorFlow's LRN knows no float64", where=node.name)
    known = {"depth_radius": 5, "bias": 1.0, "alpha": 1.0, "beta": 0.5}
    radius = node.attr["depth_radius"].i if "depth_radius" in node.attr else known["depth_radius"]
    bias, alpha, beta = (
        node.attr[key].f if key in node.attr else known[key] for key in ("bias", "alpha", "beta")
    )
    at = np.arange(channels)
    band = (np.abs(at[:, None] - at[None, :]) <= radius).astype(np.float64)
    build, x = _Builder(graph_def, node.name), node.input[0]
    flat = build.add("Reshape", build.add("Square", x), build.constant(np.array([-1, channels], np.int32)))
    sums = build.add("MatMul", flat, build.constant(band))
    sums = build.add("Reshape", sums, build.add("Shape", x))
    base = build.add("AddV2", build.add("Mul", sums, build.constant(alpha)), build.constant(bias))
    _become(node, "RealDiv", [x, build.add("Pow", base, build.constant(beta))])


def _channels_of_norms(graph_def: GraphDef) -> dict[str, int | None]:
    """The channel count of each LRN, as far as TensorFlow infers it."""
    names = [node.name for node in graph_def.node if node.op == "LRN"]
    if not names:
        return {}
    graph = import_graph(graph_def)
    shapes = {name: graph.get_tensor_by_name(f"{name}:0").shape for name in names}
    return {name: shape[-1] if shape.rank else None for name, shape in shapes.items()}


class _Builder:
    """Adds nodes in front of one that is written out, named after it."""

    def __init__(self, graph_def: GraphDef, stem: str) -> None:
        self._graph_def = graph_def
        self._stem = stem
        self._count = 0

    def _node(self, op: str) -> NodeDef:
        self._count += 1
        node = self._graph_def.node.add()
        node.name, node.op = f"{self._stem}/float64_{self._count}", op
        return node

    def add(self, op: str, *inputs: str) -> str:
        """The tensor name of a new node's result."""
        node = self._node(op)
        node.input.extend(inputs)
        node.attr["T"].type = _DOUBLE
        if op == "Reshape":
            node.attr["Tshape"].type = 3
        if op == "Shape":
            node.attr["out_type"].type = 3
        return str(node.name)

    def constant(self, value: Array | float) -> str:
        """A constant; a number in float64."""
        import tensorflow as tf

        array = np.asarray(value, np.float64) if isinstance(value, float) else value
        node = self._node("Const")
        proto = tf.make_tensor_proto(array)
        node.attr["value"].tensor.CopyFrom(proto)
        node.attr["dtype"].type = proto.dtype
        return str(node.name)


def _become(node: NodeDef, op: str, inputs: list[str]) -> None:
    controls = [text for text in node.input if text.startswith("^")]
    node.op = op
    del node.input[:]
    node.input.extend([*inputs, *controls])
    for key in list(node.attr):
        del node.attr[key]
    node.attr["T"].type = _DOUBLE
