"""Complementary error function: ``Erfc(x)`` → ``1 - Erf(x)``.

Near x = 4 the subtraction loses relative precision; exact GELU, where this op comes from, adds the result to
numbers of order one.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def convert(ctx: Any, node: Any, **_: Any) -> None:
    """tf2onnx handler."""
    from tf2onnx import utils

    dtype = utils.map_onnx_to_numpy_type(ctx.get_dtype(node.input[0]))
    one = ctx.make_const(utils.make_name(node.name), np.array(1, dtype))
    erf = ctx.make_node("Erf", [node.input[0]], shapes=node.output_shapes, dtypes=node.output_dtypes)
    shapes, dtypes, outputs = node.output_shapes, node.output_dtypes, node.output
    ctx.remove_node(node.name)
    ctx.make_node(
        "Sub",
        [one.output[0], erf.output[0]],
        name=node.name,
        outputs=outputs,
        shapes=shapes,
        dtypes=dtypes,
        op_name_scope=None,
    )
