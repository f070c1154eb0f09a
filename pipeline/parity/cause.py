"""Name the probable cause of a difference between two short stretches of graph.

First the nodes are compared: attributes and constants that differ name the cause by themselves. Where the
two stretches are built differently (a fold, another exporter), hypotheses are tried: the first stretch is
changed in the way each cause would change it, and the one that reproduces the second's values wins. Last, the
pattern of the values themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import label, static_shape
from pipeline.parity.metrics import value_range
from targets.float64.call import to_host
from targets.float64.evaluate import GraphEvaluator
from targets.float64.windows import Pads, resolve_pads

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv"})
POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
RESIZES = frozenset({"Resize", "Upsample"})
ACTIVATIONS = frozenset(
    {
        "Relu", "LeakyRelu", "PRelu", "Elu", "Celu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish", "Swish",
        "Clip", "Tanh", "Softplus", "Softsign", "Gelu", "Mish", "ThresholdedRelu", "Erf", "Identity",
    }
)  # fmt: skip
MOVES = frozenset(
    {
        "Transpose", "Reshape", "Flatten", "Concat", "Split", "Gather", "Slice", "Squeeze", "Unsqueeze",
        "Softmax", "LogSoftmax", "DepthToSpace", "SpaceToDepth", "ArgMax", "ArgMin", "Hardmax", "Expand",
        "Tile",
    }
)  # fmt: skip
EPSILONS = (1e-3, 1e-5, 1e-4, 1e-6, 1e-7, 2e-5, 1e-8, 1e-2, 0.0)
COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
MATCH = 1e-5  # of the range: a hypothesis that comes this near has reproduced the values
TF32_FRACTION_BITS = 10


Changes: TypeAlias = Mapping[str, int | float | str | tuple[int, ...] | None]


class Cause(StrEnum):
    """What makes converted models differ."""

    PADDING = "asymmetric padding"
    RESIZE = "resize coordinate mode"
    EPSILON = "BN epsilon"
    POOL_BORDER = "pooling border"
    AXIS = "axis/permutation"
    ACTIVATION = "activation"
    FP16 = "fp16 overflow"
    TF32 = "TF32"
    REDUCTION = "reduction order"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """A cause and the words for it."""

    cause: Cause
    detail: str
    node: ir.Node | None = None  # of the first stretch, where one node by itself explains the difference


@dataclass(frozen=True)
class Evidence:
    """Both stretches, the values they start from and what each makes of them."""

    nodes_a: Sequence[ir.Node]
    nodes_b: Sequence[ir.Node]
    inputs: Mapping[str, Array]
    expected: Array
    got: Array
    evaluator: GraphEvaluator
    turned: bool = False  # a tensor within stands in another order on purpose, and its reader undoes that


def classify(evidence: Evidence) -> Finding:
    """The probable cause, ``unknown`` where nothing points to one."""
    for ask in (_by_nodes, _by_hypothesis, _by_weights, _by_structure, _by_values):
        finding = ask(evidence)
        if finding is not None:
            return finding
    return Finding(Cause.UNKNOWN, "the values differ in no known pattern")


# --- what differs between the nodes ----------------------------------------------------------------


def _by_nodes(evidence: Evidence) -> Finding | None:
    if evidence.turned:  # its weights are the first one's in another order
        return None
    if [n.op_type for n in evidence.nodes_a] != [n.op_type for n in evidence.nodes_b]:
        return None
    for a, b in zip(evidence.nodes_a, evidence.nodes_b, strict=True):
        finding = _attributes_differ(a, b, evidence) or _constants_differ(a, b)
        if finding is not None:
            return replace(finding, node=a)
    return None


def _attributes_differ(a: ir.Node, b: ir.Node, evidence: Evidence) -> Finding | None:
    names = sorted({*a.attributes, *b.attributes})
    changed = [n for n in names if _plain(a, n) != _plain(b, n)]
    padded = _pads_in_numbers(a, a, evidence)
    if padded is not None and padded == _pads_in_numbers(b, a, evidence):  # said otherwise, and the same
        changed = [n for n in changed if n not in ("pads", "auto_pad", "kernel_shape")]
    if not changed:
        return None
    told = "; ".join(f"{n} {_plain(a, n)} became {_plain(b, n)}" for n in changed)
    detail = f"{a.op_type} {label(b)}: {told}"
    op = a.op_type
    if op in CONVOLUTIONS:
        padding = {"pads", "auto_pad", "output_padding", "output_shape"} & set(changed)
        return Finding(Cause.PADDING if padding else Cause.UNKNOWN, detail)
    if op in POOLS:
        border = {"pads", "auto_pad", "ceil_mode", "count_include_pad"} & set(changed)
        return Finding(Cause.POOL_BORDER if border else Cause.UNKNOWN, detail)
    if op in RESIZES:
        return Finding(Cause.RESIZE, detail)
    if "epsilon" in changed:
        return Finding(Cause.EPSILON, detail)
    if op in ACTIVATIONS:
        return Finding(Cause.ACTIVATION, detail)
    if op in MOVES or {"axis", "axes", "perm", "transA", "transB", "keepdims"} & set(changed):
        return Finding(Cause.AXIS, detail)
    return Finding(Cause.UNKNOWN, detail)


def _plain(node: ir.Node, name: str) -> object:
    attribute = node.attributes.get(name)
    if attribute is None:
        return None
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.as_tensor().numpy().tolist()
    value = attribute.value
    return tuple(value) if isinstance(value, list | tuple) else value


def held_by(value: ir.Value | None) -> Array | None:
    """The array an input holds; of a weight that old models list among their inputs too, its default."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _constants_differ(a: ir.Node, b: ir.Node) -> Finding | None:
    for index, (x, y) in enumerate(zip(a.inputs, b.inputs, strict=False)):
        left, right = held_by(x), held_by(y)
        if left is None or right is None or (left.shape == right.shape and np.array_equal(left, right)):
            continue
        where = f"{a.op_type} {label(b)}: constant input {index}"
        if a.op_type in ACTIVATIONS:
            return Finding(Cause.ACTIVATION, f"{where} {_short(left)} became {_short(right)}")
        if a.op_type == "Pad":
            return Finding(Cause.PADDING, f"{where} {_short(left)} became {_short(right)}")
        if a.op_type in RESIZES:
            return Finding(Cause.RESIZE, f"{where} {_short(left)} became {_short(right)}")
        if a.op_type in MOVES or left.dtype.kind in "iu":
            return Finding(Cause.AXIS, f"{where} {_short(left)} became {_short(right)}")
        return _weights_differ(left, right, where, a.op_type)
    return None


def _weights_differ(left: Array, right: Array, where: str, op: str) -> Finding:
    if left.size == right.size and np.array_equal(np.sort(left, axis=None), np.sort(right, axis=None)):
        return Finding(Cause.AXIS, f"{where}: the same numbers in another order")
    if left.shape == right.shape and left.dtype.kind == "f":
        if np.array_equal(round_fraction(left, TF32_FRACTION_BITS).astype(right.dtype), right):
            return Finding(Cause.TF32, f"{where}: rounded to {TF32_FRACTION_BITS} fraction bits")
        with np.errstate(over="ignore"):
            half = left.astype(np.float16)
        if np.array_equal(half.astype(right.dtype), right) and not np.isfinite(half).all():
            return Finding(Cause.FP16, f"{where}: rounded to float16, some beyond 65504")
        factors = channel_factors(left, right) if op in CONVOLUTIONS | {"Mul", "BatchNormalization"} else None
        if factors is not None and another_epsilon(factors):
            return Finding(Cause.EPSILON, f"{where}: {_as_epsilon(factors)}")
    return Finding(Cause.UNKNOWN, f"{where}: the weights differ")


def channel_factors(left: Array, right: Array) -> Array | None:
    """What each channel of a scale or kernel was multiplied by; None where it was no scaling of channels.

    A vector of scales has one axis longer than 1; a kernel [M, C/group, *K] holds its channels first.
    """
    vector = sum(n > 1 for n in left.shape) == 1
    shape = (-1, 1) if vector else (left.shape[0], -1)
    x, y = (np.asarray(v, np.float64).reshape(shape) for v in (left, right))
    energy = (x * x).sum(1)
    alive = energy > 0
    if alive.sum() < 2:
        return None
    factors = (x * y).sum(1)[alive] / energy[alive]
    rest = np.abs(y[alive] - factors[:, None] * x[alive]).max()
    return factors if rest <= MATCH * np.abs(y).max() else None


def another_epsilon(factors: Array) -> bool:
    """Whether factors are those of gamma / sqrt(variance + epsilon) with another epsilon.

    sqrt((v + e) / (v + e')) is positive, lies on one side of 1 whatever the variance v, and differs with it.
    """
    slack = 1e-6
    one_side = bool((factors <= 1 + slack).all() or (factors >= 1 - slack).all())
    return bool((factors > 0).all()) and one_side and float(np.ptp(factors)) > slack


def _as_epsilon(factors: Array) -> str:
    low, high = float(factors.min()), float(factors.max())
    return f"each channel is scaled, by {low:.6g} to {high:.6g}, all to one side: as another epsilon does"


def round_fraction(x: Array, bits: int) -> Array:
    """``x`` rounded to nearest, ties to even, with ``bits`` fraction bits, in float64."""
    fraction, exponent = np.frexp(np.asarray(x, dtype=np.float64))
    return np.asarray(np.ldexp(np.rint(np.ldexp(fraction, bits + 1)), exponent - bits - 1))


def _short(value: Array) -> str:
    flat = np.asarray(value).ravel()
    return str(flat.tolist()) if flat.size <= 8 else f"[{flat.size} numbers]"


# --- hypotheses ----------------------------------------------------------------------------------


def _by_hypothesis(evidence: Evidence) -> Finding | None:
    """Change the first stretch in every known way; the change that gives the second's values is the cause."""
    for position, node in enumerate(evidence.nodes_a):
        for cause, replaced, words in _hypotheses(node, evidence):
            nodes = [*evidence.nodes_a[:position], replaced, *evidence.nodes_a[position + 1 :]]
            try:
                got = _last(evidence, nodes)
            except Exception:  # a hypothesis may make no sense for this node
                continue
            if _matches(got, evidence.got) and not _matches(got, evidence.expected):
                detail = f"{node.op_type} {label(node)}: the values are those of {words}"
                return Finding(cause, detail, node)
    return None


def _last(evidence: Evidence, nodes: Sequence[ir.Node]) -> Array:
    results = evidence.evaluator.run_nodes(nodes, evidence.inputs)
    return to_host(results[nodes[-1].outputs[0].name or ""])


def _matches(x: Array, y: Array) -> bool:
    return bool(x.shape == y.shape and x.size and np.abs(x - y).max() <= MATCH * value_range(y))


def _hypotheses(node: ir.Node, evidence: Evidence) -> Iterator[tuple[Cause, ir.Node, str]]:
    """The node as each cause would have changed it."""
    for cause, changes, words in _changes(node, evidence):
        yield cause, _changed(node, changes), words
    for cause, weight, words in _other_weights(node):
        yield cause, _changed(node, {}, weight), words


def _other_weights(node: ir.Node) -> Iterator[tuple[Cause, Array, str]]:
    """The kernel as a wrong permutation or a narrower format would leave it."""
    weight = held_by(node.inputs[1]) if len(node.inputs) > 1 else None
    if node.op_type not in CONVOLUTIONS | {"Gemm", "MatMul"} or weight is None:
        return
    yield (
        Cause.TF32,
        round_fraction(weight, TF32_FRACTION_BITS),
        f"weights of {TF32_FRACTION_BITS} fraction bits",
    )
    for order in itertools.permutations(range(weight.ndim)):
        turned = weight.transpose(order)
        if order != tuple(range(weight.ndim)) and turned.shape == weight.shape:
            yield Cause.AXIS, np.ascontiguousarray(turned), f"the kernel's axes in the order {list(order)}"
    for axis in range(weight.ndim):
        if weight.shape[axis] > 1:
            yield Cause.AXIS, np.flip(weight, axis).copy(), f"the kernel reversed along axis {axis}"


def _changed(node: ir.Node, changes: Changes, weight: Array | None = None) -> ir.Node:
    """A copy of a node with other attributes (None removes one) and, where given, another second input."""
    attributes = {k: v for k, v in node.attributes.items() if k not in changes}
    inputs = [None if v is None else ir.Value(name=v.name, const_value=v.const_value) for v in node.inputs]
    if weight is not None:
        inputs[1] = ir.Value(name="changed_weight", const_value=ir.tensor(weight))
    fresh = ir.node(
        node.op_type,
        inputs,
        {k: v for k, v in changes.items() if v is not None},
        domain=node.domain,
        outputs=[ir.Value(name=v.name) for v in node.outputs],
        name=node.name,
    )
    fresh.attributes.update(attributes)
    return fresh


def _changes(node: ir.Node, evidence: Evidence) -> Iterator[tuple[Cause, Changes, str]]:
    """What each cause would do to one node."""
    if node.op_type in ("BatchNormalization", "InstanceNormalization", "LayerNormalization"):
        for epsilon in EPSILONS:
            yield Cause.EPSILON, {"epsilon": epsilon}, f"epsilon {epsilon:g}"
    elif node.op_type in CONVOLUTIONS | POOLS:
        cause = Cause.PADDING if node.op_type in CONVOLUTIONS else Cause.POOL_BORDER
        for pads in _other_pads(node, evidence):
            yield cause, {"pads": pads, "auto_pad": None}, f"pads {list(pads)}"
        if node.op_type == "AveragePool":
            for include in (0, 1):
                yield cause, {"count_include_pad": include}, f"count_include_pad {include}"
    elif node.op_type == "Resize":
        for mode, rounding in itertools.product(COORDINATES, ROUNDINGS):
            changes: Changes = {"coordinate_transformation_mode": mode, "nearest_mode": rounding}
            yield Cause.RESIZE, changes, f"coordinates {mode}, rounding {rounding}"
    elif node.op_type in ("LeakyRelu", "Elu", "ThresholdedRelu"):
        for alpha in (0.0, 0.01, 0.1, 0.2, 0.3, 1.0):
            yield Cause.ACTIVATION, {"alpha": alpha}, f"alpha {alpha:g}"


def _pads_in_numbers(node: ir.Node, reader: ir.Node, evidence: Evidence) -> Pads | None:
    """(begin, end) pads of a convolution or pool on the input of ``reader``; None where they are unknown."""
    source = reader.inputs[0] if reader.inputs else None
    value = evidence.inputs.get(source.name or "") if source is not None else None
    weight = held_by(node.inputs[1]) if len(node.inputs) > 1 else None
    kernel = _integers(node, "kernel_shape") or (weight.shape[2:] if weight is not None else ())
    auto = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    known = static_shape(source) if value is None else tuple(value.shape)
    if not kernel or node.op_type not in CONVOLUTIONS | POOLS or (known is None and auto != "NOTSET"):
        return None
    spatial = (0,) * len(kernel) if known is None else known[2:]  # explicit pads depend on no size
    if node.op_type == "ConvTranspose" and auto != "NOTSET":  # its sizes follow other rules
        return None
    ones = (1,) * len(kernel)
    return resolve_pads(
        auto,
        _integers(node, "pads"),
        spatial,
        kernel,
        _integers(node, "strides") or ones,
        _integers(node, "dilations") or ones,
    )


def _other_pads(node: ir.Node, evidence: Evidence) -> Iterator[tuple[int, ...]]:
    """The same totals split otherwise: swapped, all at one end."""
    now = _pads_in_numbers(node, node, evidence)
    if now is None:
        return
    rank = len(now)
    begins, ends = [b for b, _ in now], [e for _, e in now]
    yield tuple(ends + begins)
    totals = [b + e for b, e in now]
    yield tuple(totals + [0] * rank)
    yield tuple([0] * rank + totals)
    yield tuple([t - t // 2 for t in totals] + [t // 2 for t in totals])
    yield tuple([t // 2 for t in totals] + [t - t // 2 for t in totals])
    yield (0,) * (2 * rank)


def _integers(node: ir.Node, name: str) -> tuple[int, ...]:
    return tuple(node.attributes[name].as_ints()) if name in node.attributes else ()


# --- weights of stretches that are built differently ---------------------------------------------


def weights_of(nodes: Sequence[ir.Node]) -> list[Array]:
    """Floating-point constants of two or more axes that the nodes read."""
    held = (held_by(v) for node in nodes for v in node.inputs)
    return [w for w in held if w is not None and w.dtype.kind == "f" and w.ndim > 1 and w.size > 1]


def _by_weights(evidence: Evidence) -> Finding | None:
    """The same numbers in another order, or rounded, wherever the two stretches keep them."""
    ours, theirs = weights_of(evidence.nodes_a), weights_of(evidence.nodes_b)
    alone = len(ours) == len(theirs) == 1  # of several, a pass may have reordered one to suit another
    for left in ours:
        ordered = np.sort(left, axis=None)
        rounded = np.sort(round_fraction(left, TF32_FRACTION_BITS), axis=None)
        for right in theirs:
            if right.size != left.size or any(_alike(left, right)):
                continue
            numbers = np.sort(right, axis=None)
            if np.array_equal(rounded, numbers) and not np.array_equal(rounded, ordered):
                return Finding(Cause.TF32, f"weights are rounded to {TF32_FRACTION_BITS} fraction bits")
            if np.array_equal(ordered, numbers) and alone and not evidence.turned:
                return Finding(Cause.AXIS, "a weight holds the same numbers in another order")
    return None


def _alike(left: Array, right: Array) -> Iterator[bool]:
    """Whether two weights are one, as they stand or turned round."""
    yield left.shape == right.shape and np.array_equal(left, right)
    yield left.T.shape == right.shape and np.array_equal(left.T, right)


# --- structure and values ------------------------------------------------------------------------


def _by_structure(evidence: Evidence) -> Finding | None:
    """Operators that stand on one side only."""
    ops_a, ops_b = ([n.op_type for n in nodes] for nodes in (evidence.nodes_a, evidence.nodes_b))
    extra = {op for op in {*ops_a, *ops_b} if ops_a.count(op) != ops_b.count(op)} - {"Identity"}
    told = f"{ops_a} against {ops_b}"
    if same_numbers(evidence.expected, evidence.got):
        return Finding(Cause.AXIS, f"the same numbers in another order; {told}")
    if extra & {"Transpose"} or (extra and extra <= MOVES):
        return Finding(Cause.AXIS, told)
    if "Pad" in extra:
        pools = {*ops_a, *ops_b} & POOLS
        return Finding(Cause.POOL_BORDER if pools else Cause.PADDING, told)
    if extra and extra <= ACTIVATIONS | {"Min", "Max"}:
        return Finding(Cause.ACTIVATION, told)
    return None


def same_numbers(x: Array, y: Array) -> bool:
    """Whether two arrays hold the same numbers in another order, within rounding."""
    if x.size != y.size or x.size < 2 or x.dtype.kind != "f":
        return False
    a, b = np.sort(x, axis=None), np.sort(y, axis=None)
    return bool(np.isfinite(a).all() and np.abs(a - b).max() <= MATCH * value_range(x))


def _by_values(evidence: Evidence) -> Finding | None:
    """Where and how the values differ."""
    x, y = evidence.expected, evidence.got
    if not np.isfinite(y).all() and np.isfinite(x).all():
        big = bool(np.abs(x).max() > np.finfo(np.float16).max)
        return Finding(Cause.FP16 if big else Cause.UNKNOWN, "values become infinite or NaN")
    ops = {n.op_type for n in (*evidence.nodes_a, *evidence.nodes_b)}
    if x.shape == y.shape and x.ndim >= 4 and only_at_border(x, y):
        if ops & POOLS:
            return Finding(Cause.POOL_BORDER, "only cells at the border differ")
        if ops & (CONVOLUTIONS | {"Pad"}):
            return Finding(Cause.PADDING, "only cells at the border differ")
    factors = affine_factors(x, y) if x.shape == y.shape and x.ndim >= 2 else None
    if factors is not None and another_epsilon(factors):
        return Finding(Cause.EPSILON, _as_epsilon(factors))
    if x.shape == y.shape and ops & ACTIVATIONS:
        same = np.abs(x - y) <= MATCH * value_range(x)
        if 0 < same.mean() < 1 and _split_by_value(x, same):
            return Finding(Cause.ACTIVATION, "values differ beyond a threshold and agree within it")
    return None


def affine_factors(x: Array, y: Array) -> Array | None:
    """Factors f where y = f x + g holds in every channel of [N, C, *spatial]; None where it does not."""
    a, b = (np.moveaxis(np.asarray(v, np.float64), 1, 0).reshape(x.shape[1], -1) for v in (x, y))
    if a.shape[1] < 4:
        return None
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    energy = (a * a).sum(1)
    alive = energy > (MATCH * value_range(x)) ** 2 * a.shape[1]
    if alive.sum() < 2:
        return None
    factors = (a * b).sum(1)[alive] / energy[alive]
    rest = np.abs(b[alive] - factors[:, None] * a[alive]).max()
    return factors if rest <= MATCH * value_range(y) else None


def only_at_border(x: Array, y: Array) -> bool:
    """Whether the inner cells of [N, C, *spatial] agree and some outer ones do not."""
    differs = (np.abs(x - y) > MATCH * value_range(x)).any(axis=(0, 1))
    if min(differs.shape) < 5:
        return False
    inner = tuple(slice(2, -2) for _ in differs.shape)
    return bool(differs.any() and not differs[inner].any())


def _split_by_value(x: Array, same: Array) -> bool:
    """Whether one threshold parts the values that agree from those that do not."""
    agreeing, differing = x[same], x[~same]
    return bool(agreeing.max() <= differing.min() or differing.max() <= agreeing.min())
