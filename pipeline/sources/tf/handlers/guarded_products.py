"""``Xdivy``, ``Xlogy``, ``Xlog1py``-like products that are zero where x is, whatever y is."""

from __future__ import annotations

from typing import Any

from pipeline.sources.tf.handlers.emit import Emit


def convert(ctx: Any, node: Any, **_: Any) -> None:
    """tf2onnx handler."""
    emit = Emit(ctx, node)
    x, y = node.input
    product = emit.node("Div", x, y) if node.type == "Xdivy" else emit.node("Mul", x, emit.node("Log", y))
    zero = emit.like(0, x)
    emit.finish("Where", emit.node("Equal", x, zero), zero, product)
