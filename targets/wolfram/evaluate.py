"""What ``build.wl`` computes, according to its text: an evaluator of NetGraphs in NumPy.

It reads the text and the parameters as they were written and shares nothing with the code that wrote them
but the numbers. The meaning of each layer is that of its reference page
(https://reference.wolfram.com/language/ref/), in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from optim.contract import Array
from optim.errors import InternalError
from targets.float64 import windows
from targets.wolfram.expression import Call, Symbol, Tree, parse

Layer: TypeAlias = Callable[..., Array]
Options: TypeAlias = Mapping[str, Any]


class NetGraph:
    """A net as the text of ``build.wl`` describes it.

    Args:
        text: the content of ``build.wl``.
        parameters: the association that ``Import["params.wxf"]`` gives.

    Raises:
        InternalError: the text does not follow the syntax, or says something that has no meaning here.
    """

    def __init__(self, text: str, parameters: Mapping[str, Array]) -> None:
        block = parse(text)
        if not isinstance(block, Call) or block.name != "Block" or len(block.arguments) != 2:
            raise InternalError("build.wl is no Block")
        self._parameters = parameters
        assigned: dict[str, Tree] = {}
        steps = block.arguments[1]
        assert isinstance(steps, Call)
        for step in steps.arguments[:-1]:
            if isinstance(step, Call) and step.name == "Set" and isinstance(step.arguments[0], Symbol):
                assigned[step.arguments[0].name] = step.arguments[1]
        graph = steps.arguments[-1]
        if not isinstance(graph, Call) or graph.name != "NetGraph":
            raise InternalError("build.wl does not end in a NetGraph")
        named = {str(key): value for key, value in _rules(assigned["layers"])}
        self._layers = {name: (value.name, value) for name, value in named.items() if isinstance(value, Call)}
        self._edges = [(_sources(left), _target(right)) for left, right in _rules(assigned["edges"])]
        self.dimensions = tuple(dict(_rules(graph))["Input"])

    def __call__(self, x: Array) -> Array:
        """The output for one example.

        Raises:
            InternalError: the input or some layer's does not have the dimensions that are asked for.
        """
        if x.shape != self.dimensions:
            raise InternalError(f"input of dimensions {x.shape}", expected=str(self.dimensions))
        values: dict[str, Array] = {"Input": x.astype(np.float64)}
        waiting = list(self._edges)
        while waiting:
            ready = [edge for edge in waiting if all(source in values for source in edge[0])]
            if not ready:
                raise InternalError(f"nothing leads to {waiting[0][1]}")
            for edge in ready:
                sources, target = edge
                inputs = [values[source] for source in sources]
                values[target] = inputs[0] if target == "Output" else self._compute(target, inputs)
                waiting.remove(edge)
        return values["Output"]

    def _compute(self, name: str, inputs: list[Array]) -> Array:
        head, layer = self._layers[name]
        if head not in LAYERS:
            raise InternalError(f"{head} has no meaning here", where=name)
        options = {str(k): self._value(v) for k, v in _rules(layer)}
        arguments = [a for a in layer.arguments if not (isinstance(a, Call) and a.name == "Rule")]
        try:
            return LAYERS[head](inputs, [self._value(a) for a in arguments], options)
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise InternalError(f"{head} cannot take its input: {error!r}", where=name) from error

    def _value(self, tree: Tree) -> Any:
        """A literal, a list of them, a parameter, a function or a symbol."""
        if isinstance(tree, Call) and tree.name == "params":
            return np.asarray(self._parameters[str(tree.arguments[0])], np.float64)
        if isinstance(tree, Call) and tree.name == "List":
            return [self._value(item) for item in tree.arguments]
        if isinstance(tree, Symbol):
            return None if tree.name == "None" else tree.name
        return tree


def _rules(tree: Tree) -> list[tuple[Any, Any]]:
    """(left, right) of the rules among a call's arguments; lists of numbers as Python lists."""
    assert isinstance(tree, Call)
    found = []
    for one in tree.arguments:
        if isinstance(one, Call) and one.name == "Rule":
            left, right = one.arguments
            plain = (
                isinstance(right, Call)
                and right.name == "List"
                and all(isinstance(i, int) for i in right.arguments)
            )
            found.append((left, list(right.arguments) if plain and isinstance(right, Call) else right))
    return found


def _sources(tree: Tree) -> list[str]:
    if isinstance(tree, Call) and tree.name == "List":
        return [_target(one) for one in tree.arguments]
    return [_target(tree)]


def _target(tree: Tree) -> str:
    if isinstance(tree, Call) and tree.name == "NetPort":
        return str(tree.arguments[0])
    if not isinstance(tree, str):
        raise InternalError(f"an edge from or to {tree}")
    return tree


# --- functions of elements -----------------------------------------------------------------------

_FUNCTIONS: Final[dict[str, Callable[..., Array]]] = {
    "Plus": lambda *a: sum(a[1:], a[0]),
    "Subtract": np.subtract,
    "Times": lambda *a: math.prod(a[1:], start=a[0]),
    "Divide": np.divide,
    "Power": np.power,
    "Minus": np.negative,
    "Max": lambda *a: np.maximum.reduce(np.broadcast_arrays(*a)),
    "Min": lambda *a: np.minimum.reduce(np.broadcast_arrays(*a)),
    "Ramp": lambda x: np.maximum(x, 0.0),
    "LogisticSigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "Tanh": np.tanh,
    "Exp": np.exp,
    "Log": np.log,
    "Sqrt": np.sqrt,
    "Abs": np.abs,
}


def _applied(tree: Tree, x: Array) -> Array:
    """The body of a pure function of ``#``."""
    if isinstance(tree, (int, float)):
        return np.asarray(tree, np.float64)
    if not isinstance(tree, Call):
        raise InternalError(f"{tree} in a pure function")
    if tree.name == "Slot":
        return x
    if tree.name == "Clip":
        bounds = tree.arguments[1]
        assert isinstance(bounds, Call)
        low, high = (_applied(bound, x) for bound in bounds.arguments)
        return np.asarray(np.clip(_applied(tree.arguments[0], x), low, high))
    return _FUNCTIONS[tree.name](*(_applied(argument, x) for argument in tree.arguments))


# --- layers: (inputs, arguments, options) → output ------------------------------------------------


def _elementwise(inputs: list[Array], arguments: list[Any], _options: Options) -> Array:
    function = arguments[0]
    if isinstance(function, Call) and function.name == "Function":
        return np.asarray(_applied(function.arguments[0], inputs[0]))
    return _FUNCTIONS[function](inputs[0])


def _threading(inputs: list[Array], arguments: list[Any], _options: Options) -> Array:
    if len({x.shape for x in inputs}) != 1:
        raise ValueError(f"dimensions {[x.shape for x in inputs]}")
    return _FUNCTIONS[arguments[0]](*inputs)


def _pads(options: Options) -> windows.Pads:
    return tuple((b, e) for b, e in options.get("PaddingSize", [[0, 0], [0, 0]]))


def _checked(weights: Array, outputs: int, kernel: list[int], channels: int, groups: int) -> None:
    if weights.shape != (outputs, channels // groups, *kernel):
        raise ValueError(f"weights of dimensions {weights.shape}")


def _convolution(inputs: list[Array], arguments: list[Any], options: Options) -> Array:
    (x,), (outputs, kernel), weights = inputs, arguments, options["Weights"]
    groups = options.get("ChannelGroups", 1)
    _checked(weights, outputs, kernel, x.shape[0], groups)
    strides, dilations = options.get("Stride", [1, 1]), options.get("Dilation", [1, 1])
    y = windows.conv(
        np,
        x[None],
        weights,
        options["Biases"],
        strides=strides,
        dilations=dilations,
        pads=_pads(options),
        group=groups,
    )
    return np.asarray(y[0])


def _deconvolution(inputs: list[Array], arguments: list[Any], options: Options) -> Array:
    """Each input element adds its multiple of the kernel; PaddingSize is cut off."""
    (x,), (outputs, kernel), weights = inputs, arguments, options["Weights"]
    groups, (sh, sw) = options.get("ChannelGroups", 1), options.get("Stride", [1, 1])
    channels, height, width = x.shape
    if weights.shape != (channels, outputs // groups, *kernel):
        raise ValueError(f"weights of dimensions {weights.shape}")
    full = np.zeros((outputs, (height - 1) * sh + kernel[0], (width - 1) * sw + kernel[1]))
    per = channels // groups
    for g in range(groups):
        mine, block = slice(g * per, (g + 1) * per), slice(g * outputs // groups, (g + 1) * outputs // groups)
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                spread = np.tensordot(weights[mine, :, i, j], x[mine], axes=(0, 0))
                full[block, i : i + (height - 1) * sh + 1 : sh, j : j + (width - 1) * sw + 1 : sw] += spread
    (top, bottom), (left, right) = _pads(options)
    cut = full[:, top : full.shape[1] - bottom, left : full.shape[2] - right]
    return cut if options["Biases"] is None else cut + options["Biases"][:, None, None]


def _pooling(inputs: list[Array], arguments: list[Any], options: Options) -> Array:
    """Windows of the input with zeros round it; a padded maximum is refused where zero could win."""
    (x,), (kernel,) = inputs, arguments
    pads, strides = _pads(options), options.get("Stride", [1, 1])
    if any(b or e for b, e in pads) and (options["Function"] != "Max" or (x < 0).any()):
        raise ValueError("padding whose value matters")
    padded = np.pad(x, [(0, 0), *pads])
    views = np.lib.stride_tricks.sliding_window_view(padded, tuple(kernel), axis=(1, 2))
    taken = views[:, :: strides[0], :: strides[1]]
    return np.asarray(taken.max(axis=(-2, -1)) if options["Function"] == "Max" else taken.mean(axis=(-2, -1)))


def _linear(inputs: list[Array], arguments: list[Any], options: Options) -> Array:
    if options["Weights"].shape != (arguments[0], inputs[0].size):
        raise ValueError(f"weights of dimensions {options['Weights'].shape}")
    y = options["Weights"] @ inputs[0]
    return np.asarray(y if options["Biases"] is None else y + options["Biases"])


def _levels(array: Array, rank: int) -> Array:
    return array.reshape(-1, *(1,) * (rank - 1))


def _batch_normalization(inputs: list[Array], _arguments: list[Any], options: Options) -> Array:
    x = inputs[0]
    gamma, beta, mean, variance = (
        _levels(options[key], x.ndim) for key in ("Scaling", "Biases", "MovingMean", "MovingVariance")
    )
    return np.asarray((x - mean) / np.sqrt(variance + options["Epsilon"]) * gamma + beta)


def _softmax(inputs: list[Array], arguments: list[Any], _options: Options) -> Array:
    shifted = np.exp(inputs[0] - inputs[0].max(axis=arguments[0] - 1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=arguments[0] - 1, keepdims=True))


def _transpose(inputs: list[Array], arguments: list[Any], _options: Options) -> Array:
    """Level k goes to level n_k."""
    order = np.argsort(arguments[0])
    return inputs[0].transpose(order)


def _part(inputs: list[Array], arguments: list[Any], _options: Options) -> Array:
    index = []
    for span in arguments[0]:
        if span == "All":
            index.append(slice(None))
        else:
            first, last = span.arguments
            index.append(slice(first - 1, last))
    return inputs[0][tuple(index)]


def _padding(inputs: list[Array], arguments: list[Any], options: Options) -> Array:
    if options["Padding"] == "Fixed":
        return np.pad(inputs[0], arguments[0], mode="edge")
    return np.pad(inputs[0], arguments[0], constant_values=float(options["Padding"]))


def _resize(inputs: list[Array], arguments: list[Any], options: Options) -> Array:
    if options["Resampling"] != "Nearest":
        raise ValueError(f"resampling {options['Resampling']}")
    x = inputs[0]
    for axis, size in zip((1, 2), arguments[0], strict=True):
        if size % x.shape[axis]:
            raise ValueError(f"{x.shape[axis]} to {size} is not by a whole factor")
        x = np.repeat(x, size // x.shape[axis], axis=axis)
    return x


def _constant(operation: str, key: str) -> Layer:
    def layer(inputs: list[Array], _arguments: list[Any], options: Options) -> Array:
        if options[key].shape != inputs[0].shape:
            raise ValueError(f"an array of dimensions {options[key].shape}")
        return _FUNCTIONS[operation](inputs[0], options[key])

    return layer


def _parametric_ramp(inputs: list[Array], arguments: list[Any], options: Options) -> Array:
    if arguments[0] != [1]:
        raise ValueError(f"levels {arguments[0]}")
    x = inputs[0]
    return np.asarray(np.where(x > 0, x, x * _levels(options["Slope"], x.ndim)))


LAYERS: Final[dict[str, Layer]] = {
    "BatchNormalizationLayer": _batch_normalization,
    "CatenateLayer": lambda x, a, _o: np.concatenate(x, axis=a[0] - 1),
    "ConstantPlusLayer": _constant("Plus", "Biases"),
    "ConstantTimesLayer": _constant("Times", "Scaling"),
    "ConvolutionLayer": _convolution,
    "DeconvolutionLayer": _deconvolution,
    "ElementwiseLayer": _elementwise,
    "FlattenLayer": lambda x, _a, _o: x[0].reshape(-1),
    "LinearLayer": _linear,
    "PaddingLayer": _padding,
    "ParametricRampLayer": _parametric_ramp,
    "PartLayer": _part,
    "PoolingLayer": _pooling,
    "ReshapeLayer": lambda x, a, _o: x[0].reshape(a[0]),
    "ResizeLayer": _resize,
    "SoftmaxLayer": _softmax,
    "ThreadingLayer": _threading,
    "TransposeLayer": _transpose,
}
