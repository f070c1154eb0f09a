"""TensorFlow graph → ONNX, by tf2onnx with this package's own handlers, weights attached afterwards."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
from onnx_ir import serde
from onnx_ir.passes.common import RemoveUnusedNodesPass

from optim.errors import UnsupportedModelError
from pipeline.sources.canonical_names import canonicalise
from pipeline.sources.tf.attach import attach_weights
from pipeline.sources.tf.flow.subgraph import OWN_SHAPES
from pipeline.sources.tf.fold import import_graph
from pipeline.sources.tf.graph import TfGraph
from pipeline.sources.tf.loop_outputs import stack_loop_outputs
from pipeline.sources.tf.sequence_lengths import clamp_lengths

_LOOP_OPS = frozenset({"TensorArrayV3", "Enter", "While", "StatelessWhile", "LoopCond"})
_RUNNING_NUMBER = re.compile(r"__\d+")
NEWEST_OPSET = 18
"""The last opset that tf2onnx's tables know."""


def to_onnx(graph: TfGraph, opset: int) -> ir.Model:
    """Convert ``graph``; its large weights become initializers by reference.

    Raises:
        UnsupportedModelError: an op cannot be converted; names op and node.
    """
    proto = _run_tf2onnx(graph, min(opset, NEWEST_OPSET))
    model = serde.deserialize_model(proto)
    attach_weights(model, graph.weights)
    RemoveUnusedNodesPass()(model)
    clamp_lengths(model)
    if stack_loop_outputs(model):
        RemoveUnusedNodesPass()(model)
    _use_current_resize(model)
    _name_free_dimensions(model)
    canonicalise(model)
    return model


def _run_tf2onnx(graph: TfGraph, opset: int) -> Any:
    from tf2onnx import optimizer

    _keep_batch_norms()
    _use_own_argument_shapes()
    passes = _reproducible_optimizers(optimizer)
    with _listening() as log:
        try:
            try:
                # Without its deep copy of the whole graph before each pass ...
                optimised = optimizer.optimize_graph(_process(graph, opset), False, passes)
            except Exception:
                # ... which it needs only where one of its passes fails and must be undone.
                optimised = optimizer.optimize_graph(_process(graph, opset), True, passes)
            return optimised.make_model("converted by fairlead", producer_name="fairlead")
        except UnsupportedModelError:
            raise
        except Exception as error:
            raise _failure(error, log, graph) from error


def _keep_batch_norms() -> None:
    """tf2onnx folds a batch norm into a convolution whose kernel it can read. Here that is a pass of its own,
    under a certificate, and until then the kernel is the source's."""
    from tf2onnx.optimizer import back_to_back_optimizer

    back_to_back_optimizer._func_map.pop(("Conv", "BatchNormalization"), None)


def _use_own_argument_shapes() -> None:
    """tf2onnx gives a function's arguments the shapes of the operands that it is called with: those of a
    loop's first round only, and for an If moved by one place. Ours say themselves what holds always."""
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph
    from tf2onnx import tf_loader

    def with_own_shapes(fdef: Any, input_shapes: Any = None) -> Any:
        return function_def_to_graph(fdef, None if OWN_SHAPES in fdef.attr else input_shapes)

    tf_loader.function_def_to_graph = with_own_shapes


def _reproducible_optimizers(optimizer: Any) -> dict[str, Any]:
    """tf2onnx's passes, but which of several equal nodes survives no longer depends on the order of sets."""
    from tf2onnx.optimizer.merge_duplicated_nodes_optimizer import MergeDuplicatedNodesOptimizer

    class MergeByName(MergeDuplicatedNodesOptimizer):  # type: ignore[misc]
        def _merge_nodes_that_are_duplicated(self, nodes_to_process: list[Any], graph: Any) -> None:
            nodes_to_process.sort(key=lambda node: _RUNNING_NUMBER.sub("", node.name))
            super()._merge_nodes_that_are_duplicated(nodes_to_process, graph)

    return {**optimizer._get_optimizers(), "merge_duplication": MergeByName}


def _process(graph: TfGraph, opset: int) -> Any:
    """tf2onnx's own graph of ``graph``, converted but not yet optimised."""
    import tensorflow as tf
    from tf2onnx import utils
    from tf2onnx.tfonnx import process_tf_graph

    from pipeline.sources.tf.handlers import register_handlers

    register_handlers()
    utils.INTERNAL_NAME = 1  # names of inserted nodes depend on nothing but the graph
    tf_graph = import_graph(graph.graph_def)
    with tf.compat.v1.Session(graph=tf_graph):
        return process_tf_graph(
            tf_graph,
            opset=opset,
            input_names=[*(edge.tensor for edge in graph.inputs), *(f"{name}:0" for name in graph.weights)],
            output_names=[edge.tensor for edge in graph.outputs],
            tensors_to_rename={
                e.tensor: e.name for e in (*graph.inputs, *graph.outputs) if e.tensor != e.name
            },
        )


def _failure(error: Exception, log: list[str], graph: TfGraph) -> UnsupportedModelError:
    kinds = {node.name: node.op for node in graph.graph_def.node}
    text = "\n".join(log)
    named = re.search(r"Failed to convert node '([^']+)'", text)
    name = named.group(1) if named else next((n for n in kinds if f"'{n}'" in text), "")
    if not name:  # loops are rewritten as a whole, and fail without a name
        name = next((n for n, op in kinds.items() if op in _LOOP_OPS), "")
    op = kinds.get(name, "")
    what = f"op {op} cannot be converted" if op else "the graph cannot be converted"
    return UnsupportedModelError(
        f"{what}: {type(error).__name__}: {str(error)[:400]}",
        op=op,
        node=name,
        hint="give fixed input shapes (--inputs), name outputs before it (--outputs), or try a newer --opset",
    )


@contextmanager
def _listening() -> Iterator[list[str]]:
    """What tf2onnx logs as errors, kept from the terminal."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("tf2onnx")
    handler = Keep(logging.ERROR)
    propagate, level = logger.propagate, logger.level
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate, logger.level = propagate, level


def _use_current_resize(model: ir.Model) -> None:
    """``tf_half_pixel_for_nn`` left ONNX with opset 13. floor((i + ½)·s) is what ``half_pixel`` rounded up at
    ties gives: round((i + ½)·s - ½)."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        mode = node.attributes.get("coordinate_transformation_mode") if node.op_type == "Resize" else None
        if mode is not None and mode.as_string() == "tf_half_pixel_for_nn":
            node.attributes.add(ir.AttrString("coordinate_transformation_mode", "half_pixel"))
            node.attributes.add(ir.AttrString("nearest_mode", "round_prefer_ceil"))


def _name_free_dimensions(model: ir.Model) -> None:
    """Free dimensions of inputs get telling names instead of ``unk__7``: ``batch``, ``<input>_dim2``."""
    for value in model.graph.inputs:
        if value.shape is None:
            continue
        dims: list[int | str] = []
        for axis, dim in enumerate(value.shape):
            stem = re.sub(r"\W+", "_", (value.name or "").removesuffix(":0"))
            dims.append(dim if isinstance(dim, int) else "batch" if axis == 0 else f"{stem}_dim{axis}")
        value.shape = ir.Shape(dims)
