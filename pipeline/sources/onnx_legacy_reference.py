# ruff: noqa: ARG002  (attributes of an operator arrive as arguments, used or not)
"""ONNX's reference evaluator, taught the opset 1-6 operators whose broadcasting it does not know.

Definitions from https://github.com/onnx/onnx/blob/main/docs/Changelog.md.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from optim.contract import Array

_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": operator.add,
    "And": np.logical_and,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "Less": operator.lt,
    "Mul": operator.mul,
    "Or": np.logical_or,
    "Pow": np.power,
    "Sub": operator.sub,
    "Xor": np.logical_xor,
}


def evaluator(model: Any) -> Callable[[Mapping[str, Array]], list[Array]]:
    """A function from feeds to the outputs of ``model`` (ModelProto), in order, in NumPy."""
    from onnx.reference import ReferenceEvaluator

    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    session = ReferenceEvaluator(model, new_ops=_legacy_operators() if opset < 7 else None)
    return lambda feeds: list(session.run(None, dict(feeds)))


def aligned(a: Array, b: Array, broadcast: int, axis: int | None) -> Array:
    """``b`` with trailing dimensions of size 1, so that NumPy broadcasts it as opset 1-6 did."""
    if not broadcast or axis is None:
        return b
    start = axis + a.ndim if axis < 0 else axis
    return b.reshape(b.shape + (1,) * max(a.ndim - start - b.ndim, 0))


def average_pool(x: Array, auto_pad: str, kernel: Sequence[int], pads: Any, strides: Any) -> Array:
    """AveragePool-1 of [N, C, …]: the mean over what lies inside; onnx.reference counts pads."""
    rank = len(kernel)
    steps = list(strides) if strides else [1] * rank
    begin, end = _padding(x.shape[2:], auto_pad, kernel, list(pads) if pads else [0] * (2 * rank), steps)
    margins = [(0, 0), (0, 0), *zip(begin, end, strict=True)]
    axes = tuple(range(2, 2 + rank))

    def sums(a: Array) -> Array:
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(a, margins), tuple(kernel), axis=axes)
        kept = windows[(slice(None), slice(None), *(slice(None, None, step) for step in steps))]
        total: Array = kept.sum(axis=tuple(range(-rank, 0)))
        return total

    mean: Array = (sums(x) / sums(np.ones_like(x))).astype(x.dtype)
    return mean


def _padding(
    sizes: Sequence[int], auto_pad: str, kernel: Sequence[int], pads: list[int], strides: list[int]
) -> tuple[list[int], list[int]]:
    if not auto_pad.startswith("SAME"):
        explicit = pads if auto_pad == "NOTSET" else [0] * len(pads)
        return explicit[: len(kernel)], explicit[len(kernel) :]
    begin, end = [], []
    for size, width, step in zip(sizes, kernel, strides, strict=True):
        total = max((-(-size // step) - 1) * step + width - size, 0)
        odd_first = auto_pad == "SAME_LOWER"
        begin.append(total - total // 2 if odd_first else total // 2)
        end.append(total - begin[-1])
    return begin, end


def _legacy_operators() -> list[type]:
    return [*_arithmetic(), *_layers()]


def _arithmetic() -> list[type]:
    from onnx.reference.op_run import OpRun

    def binary(name: str, function: Callable[[Array, Array], Array]) -> type:
        def run(_self: Any, a: Array, b: Array, axis: Any = None, broadcast: Any = 0) -> tuple[Array]:
            return (function(a, aligned(a, b, broadcast or 0, axis)),)

        return type(name, (OpRun,), {"_run": run, "op_domain": ""})

    class Div(OpRun):
        op_domain = ""

        def _run(self, a: Array, b: Array, axis: Any = None, broadcast: Any = 0) -> tuple[Array]:
            b = aligned(a, b, broadcast or 0, axis)
            whole = np.issubdtype(a.dtype, np.integer)
            return (((a / b) if not whole else np.trunc(a / b)).astype(a.dtype),)

    class Gemm(OpRun):
        op_domain = ""

        def _run(
            self,
            a: Array,
            b: Array,
            c: Array,
            alpha: Any = 1.0,
            beta: Any = 1.0,
            transA: Any = 0,  # noqa: N803  the specification's spelling
            transB: Any = 0,  # noqa: N803
            broadcast: Any = 0,
        ) -> tuple[Array]:
            product = (a.T if transA else a) @ (b.T if transB else b)
            alpha, beta = (1.0 if value is None else value for value in (alpha, beta))
            return ((alpha * product + beta * c).astype(a.dtype),)

    class PRelu(OpRun):
        op_domain = ""

        def _run(self, x: Array, slope: Array) -> tuple[Array]:
            if slope.ndim == 1 and slope.size > 1 and x.ndim > 2:
                slope = slope.reshape(-1, *(1,) * (x.ndim - 2))
            return (np.where(x > 0, x, x * slope).astype(x.dtype),)

    return [*(binary(name, function) for name, function in _BINARY.items()), Div, Gemm, PRelu]


def _layers() -> list[type]:
    from onnx.reference.op_run import OpRun

    class BatchNormalization(OpRun):
        op_domain = ""

        def _run(
            self,
            x: Array,
            scale: Array,
            bias: Array,
            mean: Array,
            var: Array,
            epsilon: Any = 1e-5,
            is_test: Any = 0,
            momentum: Any = 0.9,
            spatial: Any = 1,
            consumed_inputs: Any = None,
            training_mode: Any = None,
        ) -> tuple[Array]:
            epsilon = 1e-5 if epsilon is None else epsilon
            if spatial is None or spatial:
                scale, bias, mean, var = (
                    v.reshape(-1, *(1,) * (x.ndim - 2)) for v in (scale, bias, mean, var)
                )
            return (((x - mean) / np.sqrt(var + np.float32(epsilon)) * scale + bias).astype(x.dtype),)

    class Dropout(OpRun):
        op_domain = ""

        def _run(
            self, x: Array, is_test: Any = 0, ratio: Any = 0.5, consumed_inputs: Any = None
        ) -> tuple[Array, ...]:
            return (x, np.ones_like(x))[: len(self.onnx_node.output)]

    class AveragePool(OpRun):
        op_domain = ""

        def _run(
            self,
            x: Array,
            auto_pad: Any = None,
            ceil_mode: Any = None,
            count_include_pad: Any = None,
            dilations: Any = None,
            kernel_shape: Any = None,
            pads: Any = None,
            strides: Any = None,
        ) -> tuple[Array]:
            return (average_pool(x, auto_pad or "NOTSET", kernel_shape, pads, strides),)

    return [AveragePool, BatchNormalization, Dropout]
