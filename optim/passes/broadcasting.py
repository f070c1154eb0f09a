"""NumPy-style broadcasting as ONNX defines it. https://onnx.ai/onnx/repo-docs/Broadcasting.html"""

from __future__ import annotations

import onnx_ir as ir

from optim.contract import Array
from optim.facts import constant_of, dims, rank


def broadcasts_into(small: ir.Value | None, large: ir.Value | None) -> bool:
    """Whether an elementwise op on both surely has the shape of ``large``."""
    a, b = dims(small), dims(large)
    if a is None:
        return False
    if all(d == 1 for d in a) and b is not None and len(a) <= len(b):
        return True
    if not a:
        return True
    if b is None or len(a) > len(b):
        return False
    tail = b[len(b) - len(a) :]
    return all(d == 1 or (d is not None and d == e) for d, e in zip(a, tail, strict=True))


def per_channel(constant: ir.Value | None, data: ir.Value | None, axis: int, channels: int) -> Array | None:
    """``constant`` as one number a channel, float64 [channels], when it broadcasts over ``data`` along
    ``axis`` only.

    Args:
        constant: the other operand of an elementwise op.
        data: the operand with channels.
        axis: the channel axis of ``data``.
        channels: its size.

    Returns:
        None where it is no constant, or varies along another axis, or would widen ``data``.
    """
    array = constant_of(constant)
    data_rank = rank(data)
    if array is None or (array.dtype.kind not in "fiu" and str(array.dtype) != "bfloat16"):
        return None
    if data_rank is None or array.ndim > data_rank:
        return None
    shape = (1,) * (data_rank - array.ndim) + array.shape
    if any(d != 1 for i, d in enumerate(shape) if i != axis) or shape[axis] not in (1, channels):
        return None
    import numpy as np

    return np.broadcast_to(array.reshape(-1).astype(np.float64), (channels,)).copy()
