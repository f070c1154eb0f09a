"""``Log1p`` and ``Expm1`` without losing small numbers.

With u = 1 + x rounded, log(1 + x) = x · log(u) / (u - 1); with u = exp(x) rounded, exp(x) - 1 =
(u - 1) · x / log(u) (N. J. Higham, Accuracy and Stability of Numerical Algorithms, 1.14.1). Beyond |x| = ½
the plain formula loses nothing and has no 0/0 or ∞/∞.
"""

from __future__ import annotations

from typing import Any

from pipeline.sources.tf.handlers.emit import Emit

_PLAIN_BEYOND = 0.5


def convert(ctx: Any, node: Any, **_: Any) -> None:
    """tf2onnx handler."""
    emit = Emit(ctx, node)
    (x,) = node.input
    one = emit.like(1, x)
    far = emit.node("Greater", emit.node("Abs", x), emit.like(_PLAIN_BEYOND, x))
    if node.type == "Log1p":
        u = emit.node("Add", x, one)
        difference, plain = emit.node("Sub", u, one), emit.node("Log", u)
        product = emit.node("Mul", x, plain)
        unity = emit.node("Equal", difference, emit.like(0, x))
        quotient = emit.node("Div", product, emit.node("Where", unity, one, difference))
    else:
        u = emit.node("Exp", x)
        plain = emit.node("Sub", u, one)
        logarithm = emit.node("Log", u)
        unity = emit.node("Equal", logarithm, emit.like(0, x))
        quotient = emit.node("Div", emit.node("Mul", plain, x), emit.node("Where", unity, one, logarithm))
    near = emit.node("Where", unity, x, quotient)
    emit.finish("Where", far, plain, near)
