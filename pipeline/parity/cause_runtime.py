"""Name the probable cause of a runtime's error at one node: overflow, TF32, or cancellation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeGuard

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import label
from pipeline.parity.cause import TF32_FRACTION_BITS, Cause, Finding, round_fraction
from pipeline.parity.metrics import value_range


def classify_runtime(
    node: ir.Node, inputs: Sequence[Array | None], expected: Array, got: Array, run: Callable[..., Array]
) -> Finding:
    """The probable cause of a runtime's error at one node.

    Args:
        node: the node whose result is off.
        inputs: its true inputs, float64 (None: left out).
        expected: its true result; ``got``: the runtime's.
        run: evaluates the node in float64 on given inputs.
    """
    where = f"{node.op_type} {label(node)}"
    finite = np.isfinite(got)
    if not finite.all():
        top = max((float(np.abs(v).max()) for v in (*inputs, expected) if _has_floats(v)), default=0.0)
        if top > np.finfo(np.float16).max:
            return Finding(
                Cause.FP16, f"{where}: {int((~finite).sum())} values overflow; the true ones reach {top:.3g}"
            )
        return Finding(Cause.UNKNOWN, f"{where}: {int((~finite).sum())} values are not finite")
    error = float(np.abs(got - expected).max())
    rounded = [round_fraction(v, TF32_FRACTION_BITS) if _has_floats(v) else v for v in inputs]
    try:
        in_tf32 = run(rounded)
    except Exception:  # rounding an epsilon away may break the node
        in_tf32 = expected
    if error > 0 and float(np.abs(got - in_tf32).max()) < 0.1 * error:
        return Finding(
            Cause.TF32, f"{where}: the values are those of inputs rounded to {TF32_FRACTION_BITS} bits"
        )
    largest = max((float(np.abs(v).max()) for v in inputs if _has_floats(v)), default=0.0)
    span = value_range(expected)
    if largest * np.finfo(np.float32).eps * 64 > error and largest > 16 * span:
        factor = math.floor(largest / span)
        return Finding(Cause.REDUCTION, f"{where}: terms {factor} × larger than their sum cancel")
    return Finding(Cause.UNKNOWN, f"{where}: error {error:.3g} in no known pattern")


def _has_floats(value: Array | None) -> TypeGuard[Array]:
    return value is not None and value.dtype.kind == "f" and value.size > 0
