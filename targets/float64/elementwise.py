"""Elementwise operators in float64. Formulas: https://onnx.ai/onnx/operators/."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from targets.float64.call import Call, Kernel, NotCoveredError
from targets.float64.windows import Array, Module


def _unary(function: Callable[[Module, Array], Array]) -> Kernel:
    return lambda call: (function(call.xp, call.tensor(0)),)


def _sigmoid(xp: Module, x: Array) -> Array:
    # exp of a non-positive number only: no overflow, full precision on both sides
    e = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1.0, e) / (1.0 + e)


def _softplus(xp: Module, x: Array) -> Array:
    return xp.maximum(x, 0.0) + xp.log1p(xp.exp(-xp.abs(x)))


def _erf(xp: Module, x: Array) -> Array:
    if xp.__name__ == "numpy":
        try:
            from scipy.special import erf
        except ImportError as error:
            raise NotCoveredError("erf needs scipy") from error
    else:
        from cupyx.scipy.special import erf  # type: ignore[import-not-found]
    return erf(x)


def _gelu(call: Call) -> tuple[Array, ...]:
    xp, x = call.xp, call.tensor(0)
    if call.text("approximate", "none") == "tanh":
        return (0.5 * x * (1.0 + xp.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),)
    return (0.5 * x * (1.0 + _erf(xp, x / math.sqrt(2.0))),)


def _binary(name: str) -> Kernel:
    def kernel(call: Call) -> tuple[Array, ...]:
        a, b = call.tensor(0), call.tensor(1)
        return (getattr(call.xp, name)(a, b),)

    return kernel


def _divide(call: Call) -> tuple[Array, ...]:
    a, b = call.tensor(0), call.tensor(1)
    if a.dtype.kind in "iu":  # ONNX truncates towards zero, NumPy floors
        sign = call.xp.where((a < 0) != (b < 0), -1, 1).astype(a.dtype)
        return (sign * (abs(a) // abs(b)) if a.dtype.kind == "i" else a // b,)
    return (a / b,)


def _power(call: Call) -> tuple[Array, ...]:
    a, b = call.tensor(0), call.tensor(1)
    return (call.xp.power(a, b).astype(a.dtype, copy=False),)


def _fold(name: str) -> Kernel:
    def kernel(call: Call) -> tuple[Array, ...]:
        combine = getattr(call.xp, name)
        first, *rest = call.tensors()
        for other in rest:
            first = combine(first, other)
        return (first,)

    return kernel


def _mean(call: Call) -> tuple[Array, ...]:
    (total,) = _fold("add")(call)
    return (total / len(call.inputs),)


def _clip(call: Call) -> tuple[Array, ...]:
    xp, x = call.xp, call.tensor(0)
    if call.opset < 11:
        low: Array | None = call.attributes.get("min")
        high: Array | None = call.attributes.get("max")
    else:
        low, high = call.optional(1), call.optional(2)
    if low is not None:
        x = xp.maximum(x, xp.asarray(low, dtype=x.dtype))
    if high is not None:
        x = xp.minimum(x, xp.asarray(high, dtype=x.dtype))
    return (x,)


def _leaky_relu(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    return (call.xp.where(x >= 0, x, x * call.number("alpha", 0.01)),)


def _prelu(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    return (call.xp.where(x >= 0, x, x * call.tensor(1)),)


def _elu(call: Call) -> tuple[Array, ...]:
    xp, x = call.xp, call.tensor(0)
    return (xp.where(x >= 0, x, call.number("alpha", 1.0) * xp.expm1(xp.minimum(x, 0.0))),)


def _celu(call: Call) -> tuple[Array, ...]:
    xp, x = call.xp, call.tensor(0)
    alpha = call.number("alpha", 1.0)
    return (xp.maximum(x, 0.0) + xp.minimum(alpha * xp.expm1(xp.minimum(x, 0.0) / alpha), 0.0),)


def _selu(call: Call) -> tuple[Array, ...]:
    xp, x = call.xp, call.tensor(0)
    alpha = call.number("alpha", 1.6732632423543772)
    gamma = call.number("gamma", 1.0507009873554805)
    return (gamma * xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0.0))),)


def _hard_sigmoid(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    return (call.xp.clip(call.number("alpha", 0.2) * x + call.number("beta", 0.5), 0.0, 1.0),)


def _hard_swish(xp: Module, x: Array) -> Array:
    return x * xp.clip(x / 6.0 + 0.5, 0.0, 1.0)


def _swish(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    return (x * _sigmoid(call.xp, call.number("alpha", 1.0) * x),)


def _thresholded_relu(call: Call) -> tuple[Array, ...]:
    x = call.tensor(0)
    return (call.xp.where(x > call.number("alpha", 1.0), x, 0.0),)


def _where(call: Call) -> tuple[Array, ...]:
    return (call.xp.where(call.tensor(0), call.tensor(1), call.tensor(2)),)


def _identity(call: Call) -> tuple[Array, ...]:
    return (call.optional(0),)


def _dropout(call: Call) -> tuple[Array, ...]:
    training = call.host(2)
    if call.output_count > 1 or (training is not None and bool(training)):
        raise NotCoveredError("Dropout with a mask or in training mode")
    return (call.tensor(0),)


ELEMENTWISE: Mapping[str, Kernel] = {
    "Abs": _unary(lambda xp, x: xp.abs(x)),
    "Add": _binary("add"),
    "And": _binary("logical_and"),
    "Ceil": _unary(lambda xp, x: xp.ceil(x)),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": _unary(lambda xp, x: xp.cos(x)),
    "Div": _divide,
    "Dropout": _dropout,
    "Elu": _elu,
    "Equal": _binary("equal"),
    "Erf": _unary(_erf),
    "Exp": _unary(lambda xp, x: xp.exp(x)),
    "Floor": _unary(lambda xp, x: xp.floor(x)),
    "Gelu": _gelu,
    "Greater": _binary("greater"),
    "GreaterOrEqual": _binary("greater_equal"),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(_hard_swish),
    "Identity": _identity,
    "LeakyRelu": _leaky_relu,
    "Less": _binary("less"),
    "LessOrEqual": _binary("less_equal"),
    "Log": _unary(lambda xp, x: xp.log(x)),
    "Max": _fold("maximum"),
    "Mean": _mean,
    "Min": _fold("minimum"),
    "Mish": _unary(lambda xp, x: x * xp.tanh(_softplus(xp, x))),
    "Mul": _binary("multiply"),
    "Neg": _unary(lambda xp, x: xp.negative(x)),
    "Not": _unary(lambda xp, x: xp.logical_not(x)),
    "Or": _binary("logical_or"),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _unary(lambda xp, x: xp.divide(1.0, x)),
    "Relu": _unary(lambda xp, x: xp.maximum(x, 0).astype(x.dtype, copy=False)),
    "Round": _unary(lambda xp, x: xp.rint(x)),
    "Selu": _selu,
    "Sigmoid": _unary(_sigmoid),
    "Sign": _unary(lambda xp, x: xp.sign(x)),
    "Sin": _unary(lambda xp, x: xp.sin(x)),
    "Softplus": _unary(_softplus),
    "Softsign": _unary(lambda xp, x: x / (1.0 + xp.abs(x))),
    "Sqrt": _unary(lambda xp, x: xp.sqrt(x)),
    "Sub": _binary("subtract"),
    "Sum": _fold("add"),
    "Swish": _swish,
    "Tanh": _unary(lambda xp, x: xp.tanh(x)),
    "ThresholdedRelu": _thresholded_relu,
    "Where": _where,
}
