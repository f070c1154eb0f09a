"""Quotients and remainders that round down or towards zero, for integers and floats.

``FloorDiv``, ``FloorMod`` round down, ``TruncateMod`` and its old name ``Mod`` towards zero. ONNX's ``Div``
of integers rounds towards zero; ``Mod`` with fmod=0 has the divisor's sign, with fmod=1 the dividend's
(https://onnx.ai/onnx/operators/onnx__Mod.html). For integers (a - a mod b) is a multiple of b, so that its
``Div`` is exact. tf2onnx divides negative integers towards zero and lacks ``TruncateMod``.
"""

from __future__ import annotations

from typing import Any

from pipeline.sources.tf.handlers.emit import Emit


def convert(ctx: Any, node: Any, **_: Any) -> None:
    """tf2onnx handler."""
    emit = Emit(ctx, node)
    a, b = node.input
    if node.type in ("TruncateMod", "Mod"):
        emit.finish("Mod", a, b, fmod=1)
    elif _is_float(ctx, a):
        whole = emit.node("Floor", emit.node("Div", a, b))
        if node.type == "FloorDiv":
            emit.finish("Identity", whole)
        else:
            emit.finish("Sub", a, emit.node("Mul", whole, b))
    elif node.type == "FloorMod":
        emit.finish("Mod", a, b, fmod=0)
    else:
        emit.finish("Div", emit.node("Sub", a, emit.node("Mod", a, b, fmod=0)), b)


def _is_float(ctx: Any, tensor: str) -> bool:
    from onnx import TensorProto

    floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return ctx.get_dtype(tensor) in floats
