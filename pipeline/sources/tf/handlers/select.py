"""``Select`` and ``SelectV2`` as ONNX ``Where``. Exact.

tf2onnx multiplies both operands with the condition and adds them, so that an infinity or NaN in the operand
that is not chosen poisons the result: just what such a Select is often there to avoid.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.sources.tf.handlers.emit import Emit

_FIRST_OPSET_WITH_WHERE = 9


def convert(ctx: Any, node: Any, **options: Any) -> None:
    """tf2onnx handler."""
    if ctx.opset < _FIRST_OPSET_WITH_WHERE:
        from tf2onnx.onnx_opset.controlflow import Select

        Select.version_7(ctx, node, **options)
        return
    emit = Emit(ctx, node)
    condition, yes, no = node.input
    shapes = [ctx.get_shape(tensor) for tensor in (yes, no)]
    rank = next((len(shape) for shape in shapes if shape is not None), None)
    chooser = ctx.get_shape(condition)
    if node.type == "Select" and chooser is not None and len(chooser) == 1 and rank not in (None, 1):
        # One truth a row; tensorflow/core/kernels/cwise_op_select.cc.
        form = emit.const(np.asarray([-1] + [1] * ((rank or 1) - 1)))
        condition = emit.node("Reshape", condition, form)
    emit.finish("Where", condition, yes, no)
