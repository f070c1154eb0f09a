"""``ApproximateEqual``: |x - y| < tolerance."""

from __future__ import annotations

from typing import Any

from pipeline.sources.tf.handlers.emit import Emit


def convert(ctx: Any, node: Any, **_: Any) -> None:
    """tf2onnx handler."""
    emit = Emit(ctx, node)
    x, y = node.input
    distance = emit.node("Abs", emit.node("Sub", x, y))
    emit.finish("Less", distance, emit.like(node.get_attr_value("tolerance"), x))
