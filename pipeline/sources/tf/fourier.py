"""Fourier transforms and the complex numbers between them, written out in real ones.

A complex tensor is held as its real and its imaginary part. A transform of fixed length is a matrix product
with cosines and sines: as exact as float32 allows, at every opset, on every target.
https://www.tensorflow.org/api_docs/python/tf/signal
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from optim.contract import Array
from optim.errors import UnsupportedModelError
from pipeline.sources.tf.flow.shapes import Types, flow_types
from pipeline.sources.tf.graph import (
    GraphDef,
    NodeDef,
    by_name,
    data_inputs,
    node_of,
)
from pipeline.sources.tf.lower import Traced, splice, trace, write_beside

_COMPLEX64, _COMPLEX128 = 8, 18  # tensorflow/core/framework/types.proto
_LONGEST = 4096  # points; beyond, the matrices outgrow the model
Parts = tuple[Any, Any]


def write_out_complex(graph_def: GraphDef) -> int:
    """Replace everything complex by real tensors, in place; how many nodes there were.

    Raises:
        UnsupportedModelError: an operator of complex numbers is not known, or a transform's length is free.
    """
    if not any(node.op in _FIRST for node in graph_def.node):
        return 0
    types = flow_types(graph_def)
    done: dict[str, tuple[str, str]] = {}
    count = 0
    for node in _in_order(graph_def):
        operands = data_inputs(node)
        outputs = [f"{node.name}:{index}" for index in range(8) if f"{node.name}:{index}" in types]
        made = any(_is_complex(tensor, types) for tensor in outputs)
        if node.op == "Const" or not (made or any(tensor in done for tensor in operands)):
            continue
        rule = _RULES.get(node.op)
        if rule is None or len(outputs) != 1:
            raise _refused(node, "has no real form here")
        traced = _traced(graph_def, node, rule, operands, types, done)
        count += 1
        if made:
            real, imaginary = write_beside(graph_def, node.name, traced)
            done[outputs[0]] = (real, imaginary)
        else:
            splice(graph_def, node, traced)
    gone = {node_of(tensor) for tensor in done} | _complex_constants(graph_def)
    kept = [node for node in graph_def.node if node.name not in gone]
    del graph_def.node[:]
    graph_def.node.extend(kept)
    return count


def _complex_constants(graph_def: GraphDef) -> set[str]:
    return {
        node.name for node in graph_def.node if node.op == "Const" and node.attr["dtype"].type == _COMPLEX64
    }


def _is_complex(tensor: str, types: Types) -> bool:
    return types[tensor][0] in (_COMPLEX64, _COMPLEX128)


def _refused(node: NodeDef, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"op {node.op} {why}",
        op=node.op,
        node=node.name,
        hint="name outputs before it (--outputs), or give fixed input shapes (--inputs)",
    )


def _in_order(graph_def: GraphDef) -> list[NodeDef]:
    """Nodes after what they read; loops hold no complex numbers."""
    nodes = by_name(graph_def)
    done: dict[str, None] = {}
    for start in nodes:
        stack = [start]
        entered: set[str] = set()
        while stack:
            name = stack[-1]
            waiting = [node_of(t) for t in data_inputs(nodes[name]) if node_of(t) not in done]
            if name in done or not waiting or name in entered:
                done[name] = None
                stack.pop()
            else:
                entered.add(name)
                stack += waiting
    return [nodes[name] for name in done]


def _traced(
    graph_def: GraphDef,
    node: NodeDef,
    rule: Callable[..., Sequence[Any]],
    operands: Sequence[str],
    types: Types,
    done: dict[str, tuple[str, str]],
) -> Traced:
    """The rule's graph: an operand that is complex comes as the pair of its parts."""
    import tensorflow as tf

    nodes = by_name(graph_def)
    flat: list[tuple[str, Any, Any]] = []
    pairs: list[bool] = []
    for tensor in operands:
        if tensor in done:
            flat += [(part, tf.float32, types[tensor][1]) for part in done[tensor]]
        elif _is_complex(tensor, types) and nodes[node_of(tensor)].op != "Const":
            raise _refused(nodes[node_of(tensor)], "gives complex numbers that do not come from real ones")
        else:
            kind, shape = types[tensor]
            flat.append((tensor, tf.as_dtype(kind), shape))
        pairs.append(tensor in done)

    def apply(*arguments: Any) -> Sequence[Any]:
        rest = iter(arguments)
        given = [(next(rest), next(rest)) if pair else _known_parts(next(rest)) for pair in pairs]
        return rule(node, *given)

    traced = trace(apply, flat, nodes)
    assert traced is not None
    return traced


def _known_parts(operand: Any) -> Any:
    """The parts of a complex constant; anything else as it is."""
    import tensorflow as tf

    if not operand.dtype.is_complex:
        return operand
    value = np.asarray(tf.get_static_value(operand))
    return tf.constant(value.real.astype(np.float32)), tf.constant(value.imag.astype(np.float32))


# --- the transforms ------------------------------------------------------------------------------


def _waves(length: int, samples: int, bins: int) -> tuple[Array, Array]:
    """cos and sin of 2π · sample · bin / length, float32 [samples, bins]; angles reduced exactly first."""
    turns = np.outer(np.arange(samples), np.arange(bins)) % length
    angles = 2.0 * np.pi * turns / length
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _fixed(node: NodeDef, length: Any) -> int:
    import tensorflow as tf

    value = tf.get_static_value(length) if not isinstance(length, int) else length
    if value is None:
        raise _refused(node, "has a length that is known only at run time")
    points = int(np.asarray(value).reshape(()))
    if points > _LONGEST:
        raise _refused(node, f"has {points} points, more than the {_LONGEST} that are written as products")
    return points


def _last(node: NodeDef, x: Any) -> int:
    size = x.shape[-1] if x.shape.rank else None
    if size is None:
        raise _refused(node, "works on an axis whose length is known only at run time")
    return int(size)


def _rfft(node: NodeDef, x: Any, lengths: Any) -> Sequence[Any]:
    """x [..., n], cut or filled up with zeros to the transform's length L → [..., L // 2 + 1]."""
    length = _fixed(node, lengths)
    samples = min(_last(node, x), length)
    cosine, sine = _waves(length, samples, length // 2 + 1)
    x = x[..., :samples]
    return [_product(x, cosine), _product(x, -sine)]


def _irfft(node: NodeDef, z: Parts, lengths: Any) -> Sequence[Any]:
    """Bins [..., m], cut or filled up to L // 2 + 1 → [..., L]; beyond the middle they mirror each other."""
    length = _fixed(node, lengths)
    bins = min(_last(node, z[0]), length // 2 + 1)
    cosine, sine = _waves(length, length, bins)
    weight = np.full(bins, 2.0 / length, np.float32)
    weight[0] = 1.0 / length
    if length % 2 == 0 and bins == length // 2 + 1:
        weight[-1] = 1.0 / length
    real, imaginary = (part[..., :bins] * weight for part in z)
    return [_product(real, cosine.T) - _product(imaginary, sine.T)]


def _fft(node: NodeDef, z: Parts, *, sign: float) -> Sequence[Any]:
    """Σ z · exp(sign · 2πi · sample · bin / n); the inverse is divided by n."""
    length = _fixed(node, _last(node, z[0]))
    cosine, sine = _waves(length, length, length)
    if sign > 0:
        cosine, sine = cosine / length, sine / length
    real = _product(z[0], cosine) - sign * _product(z[1], sine)
    return [real, _product(z[1], cosine) + sign * _product(z[0], sine)]


def _product(x: Any, matrix: Array) -> Any:
    """[..., n] · [n, m]"""
    import tensorflow as tf

    if x.shape.rank == 1:
        return tf.matmul(x[None], matrix)[0]
    return tf.matmul(x, matrix)


# --- arithmetic ----------------------------------------------------------------------------------


def _both(op: Callable[..., Any]) -> Callable[..., Sequence[Any]]:
    """An operator done to both parts of its complex operands."""

    def rule(node: NodeDef, *operands: Any) -> Sequence[Any]:
        results = []
        for part in (0, 1):
            given = [one[part] if isinstance(one, tuple) else one for one in operands]
            results.append(op(node, *given))
        return results

    return rule


def _same_op(node: NodeDef, *operands: Any) -> Any:
    """The node's own operator on real operands."""
    import tensorflow as tf

    attributes = {key: type(value).FromString(value.SerializeToString()) for key, value in node.attr.items()}
    for value in attributes.values():
        if value.type == _COMPLEX64:
            value.type = tf.float32.as_datatype_enum
    graph = tf.compat.v1.get_default_graph()
    return graph.create_op(node.op, list(operands), [tf.float32], attrs=attributes).outputs[0]


def _abs(_: NodeDef, z: Parts) -> Sequence[Any]:
    import tensorflow as tf

    return [tf.sqrt(z[0] * z[0] + z[1] * z[1])]


def _angle(_: NodeDef, z: Parts) -> Sequence[Any]:
    import tensorflow as tf

    return [tf.math.atan2(z[1], z[0])]


def _mul(_: NodeDef, a: Any, b: Any) -> Sequence[Any]:
    (ar, ai), (br, bi) = a, b
    return [ar * br - ai * bi, ar * bi + ai * br]


def _div(_: NodeDef, a: Any, b: Any) -> Sequence[Any]:
    (ar, ai), (br, bi) = a, b
    size = br * br + bi * bi
    return [(ar * br + ai * bi) / size, (ai * br - ar * bi) / size]


def _cast(node: NodeDef, x: Any) -> Sequence[Any]:
    import tensorflow as tf

    if isinstance(x, tuple):
        wanted = tf.as_dtype(node.attr["DstT"].type)
        return list(x) if wanted.is_complex else [tf.cast(x[0], wanted)]
    return [tf.cast(x, tf.float32), tf.zeros_like(x, tf.float32)]


_RULES: dict[str, Callable[..., Sequence[Any]]] = {
    "RFFT": _rfft,
    "IRFFT": _irfft,
    "FFT": lambda node, z: _fft(node, z, sign=-1.0),
    "IFFT": lambda node, z: _fft(node, z, sign=1.0),
    "Complex": lambda _, real, imaginary: [real, imaginary],
    "Cast": _cast,
    "Real": lambda _, z: [z[0]],
    "Imag": lambda _, z: [z[1]],
    "ComplexAbs": _abs,
    "Angle": _angle,
    "Conj": lambda _, z: [z[0], -z[1]],
    "Mul": _mul,
    "RealDiv": _div,
    "Div": _div,
    **{
        op: _both(_same_op)
        for op in ("Identity", "Reshape", "Transpose", "ExpandDims", "Squeeze", "StridedSlice", "Slice",
                   "GatherV2", "Pad", "ReverseV2", "Sum", "Mean", "Neg", "Add", "AddV2", "Sub", "Tile")
    },
}  # fmt: skip
_FIRST = frozenset({"RFFT", "FFT", "IRFFT", "IFFT", "Complex"})
