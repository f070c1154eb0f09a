"""``Bucketize``: the number of boundaries that are not above x."""

from __future__ import annotations

from typing import Any

from pipeline.sources.tf.handlers.emit import Emit


def convert(ctx: Any, node: Any, **_: Any) -> None:
    """tf2onnx handler."""
    from onnx import TensorProto
    from tf2onnx.graph_builder import GraphBuilder

    emit, build = Emit(ctx, node), GraphBuilder(ctx)
    boundaries = list(node.get_attr("boundaries").floats)
    x = emit.node("Cast", node.input[0], to=TensorProto.FLOAT)  # the boundaries are float32 in TensorFlow too
    column = build.make_unsqueeze({"data": x, "axes": [-1]})
    below = emit.node("Not", emit.node("Less", column, emit.like(boundaries, x)))
    counts = emit.node("Cast", below, to=TensorProto.INT32)
    emit.finish("Identity", build.make_reduce_sum({"data": counts, "axes": [-1], "keepdims": 0}))
