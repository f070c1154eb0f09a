"""Own conversion handlers for tf2onnx: ops that it lacks or converts wrongly. One module an idea."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_HANDLERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Conv2DBackpropInput", "Conv3DBackpropInputV2"), "transposed_convolution"),
    (("BlockLSTM", "BlockLSTMV2"), "block_lstm"),
    (("Erfc",), "erfc"),
    (("FloorDiv", "FloorMod", "TruncateMod", "Mod"), "integer_division"),
    (("Log1p", "Expm1"), "near_one"),
    (("Xdivy", "Xlogy"), "guarded_products"),
    (("Bucketize",), "bucketize"),
    (("ApproximateEqual",), "approximate_equal"),
    (("Select", "SelectV2"), "select"),
    (("While", "StatelessWhile"), "while_loop"),
    (("LookupTableFindV2",), "lookup_table"),
)
# The opsets at which tf2onnx may look a handler up.
_FIRST_OPSET, _LAST_OPSET = 1, 18


def register_handlers() -> None:
    """Put this package's handlers into tf2onnx's tables, over its own; a second call changes nothing."""
    from importlib import import_module

    from tf2onnx.constants import ONNX_DOMAIN
    from tf2onnx.handler import tf_op

    for names, module in _HANDLERS:
        handler: Callable[..., Any] = import_module(f"{__name__}.{module}").convert
        for opset in range(_FIRST_OPSET, _LAST_OPSET + 1):
            tf_op.register_handler(handler, opset, list(names), ONNX_DOMAIN, {})
