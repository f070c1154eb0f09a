"""Small words for handlers: constants, nodes, and the last node, which keeps the source op's name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Emit:
    """Adds nodes to tf2onnx's graph in place of ``node``.

    Args:
        ctx: tf2onnx's graph.
        node: the TensorFlow op that is being replaced.
    """

    def __init__(self, ctx: Any, node: Any) -> None:
        self._ctx, self._node = ctx, node

    def const(self, value: Any, dtype: Any = np.int64) -> str:
        """A constant; its tensor name."""
        from tf2onnx import utils

        array = np.asarray(value, dtype)
        return str(self._ctx.make_const(utils.make_name(self._node.name), array).output[0])

    def like(self, value: Any, tensor: str) -> str:
        """A constant of the dtype of ``tensor``."""
        from tf2onnx import utils

        return self.const(value, utils.map_onnx_to_numpy_type(self._ctx.get_dtype(tensor)))

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output; that output's name."""
        return str(self._ctx.make_node(op, list(inputs), attr=attributes).output[0])

    def finish(self, op: str, *inputs: str, **attributes: Any) -> None:
        """The last node: it takes over the source op's name, outputs, shapes and dtypes."""
        ctx, node = self._ctx, self._node
        shapes, dtypes, outputs = node.output_shapes, node.output_dtypes, node.output
        ctx.remove_node(node.name)
        ctx.make_node(
            op, list(inputs), name=node.name, outputs=outputs, shapes=shapes, dtypes=dtypes, attr=attributes
        )

    def replace(self, results: Sequence[str | None]) -> None:
        """Readers of the source op's outputs read ``results`` instead; None: nothing reads that output."""
        ctx, node = self._ctx, self._node
        shapes, dtypes, outputs = node.output_shapes, node.output_dtypes, list(node.output)
        ctx.remove_node(node.name)
        for index, (output, result) in enumerate(zip(outputs, results, strict=True)):
            if result is not None:
                name = node.name if index == 0 else f"{node.name}_output{index}"
                ctx.make_node(
                    "Identity",
                    [result],
                    name=name,
                    outputs=[output],
                    shapes=[shapes[index]],
                    dtypes=[dtypes[index]],
                )
