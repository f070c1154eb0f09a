"""The table of correspondences: source layer, ONNX tensors before and after optimisation, weights, padding.

A layer's nodes are those between its outputs and the outputs of other layers. After optimisation a layer is
found again by the tensor names that passes leave in node metadata (``optim.facts.sources_of``), or by a
tensor of the same name.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from optim.facts import constant_tensor_of, label, sources_of
from optim.reordered import reordered_tensors
from pipeline.records import LayerRecord, Record
from pipeline.sources.contract import SourceLayer
from targets.padding_text import padding_of

AnyLayer: TypeAlias = SourceLayer | LayerRecord

# How each kind of layer stores its kernel, as the permutation that leads to ONNX's own order.
# HWIO -> OIHW; HWOI -> IOHW; HWCM -> CMHW, whose first two axes ONNX writes as [C*M, 1];
# [in, out] -> [out, in].
KNOWN_PERMUTATIONS: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "Conv": ((3, 2, 0, 1), (2, 3, 0, 1), (2, 1, 0), (4, 3, 0, 1, 2)),
    "ConvTranspose": ((3, 2, 0, 1), (2, 1, 0), (4, 3, 0, 1, 2)),
    "Gemm": ((1, 0), (0, 1)),
    "MatMul": ((0, 1), (1, 0)),
}


# Rows are told apart by their first columns, and compared a block of columns at a time.
_ROW_KEYS, _ROW_BLOCK = 4, 64


class WeightMapRow(Record):
    """Where one weight went. A permutation is NumPy's: ``onnx = source.transpose(permutation)``."""

    name: str
    shape: tuple[int, ...]
    tensor_before: str = ""
    shape_before: tuple[int, ...] = ()
    permutation_before: tuple[int, ...] | None = None
    tensor_after: str = ""
    shape_after: tuple[int, ...] = ()
    permutation_after: tuple[int, ...] | None = None
    note: str = ""


class LayerMapRow(Record):
    """One source layer and where it stands in both graphs."""

    layer: str
    op: str
    parameters: int
    output_shape: tuple[int | None, ...]
    padding: str  # the framework's word
    tensor_before: str
    nodes_before: tuple[str, ...]  # "Conv conv1/Conv2D"
    padding_before: str  # in numbers
    tensor_after: str
    nodes_after: tuple[str, ...]
    padding_after: str
    weights: tuple[WeightMapRow, ...]
    note: str = ""
    tensors_after: tuple[str, ...] = ()  # all that its nodes compute after optimisation


def layer_map(
    layers: Sequence[AnyLayer], converted: ir.Model, optimized: ir.Model
) -> tuple[LayerMapRow, ...]:
    """One row a source layer, in the source's order."""
    before = {v.name: v for node in converted.graph for v in node.outputs if v.name}
    moved = {one.original: name for name, one in reordered_tensors(optimized).items()}
    ends = {name for layer in layers for name in layer.outputs}
    carriers = _carriers(optimized)
    hidden = merged_at_conversion(layers, converted)
    ends |= {v.name for node, last in hidden.values() if last for v in node.outputs if v.name}
    return tuple(_row(layer, before, ends, carriers, hidden.get(layer.name), moved) for layer in layers)


Hidden: TypeAlias = tuple[ir.Node, bool]


def merged_at_conversion(layers: Sequence[AnyLayer], converted: ir.Model) -> dict[str, Hidden]:
    """Layers without a tensor of their own: the node that reads their weights; whether its result is theirs.

    The converter has folded them into one node (a batch norm into a convolution) and named it anew, but its
    constants still carry the layers' scopes. Of the layers that share a node the last one has its result.
    """
    suffix = _scope_suffix(layers)
    by_scope: dict[str, ir.Node] = {}
    for node in converted.graph:
        for value in node.inputs:
            if value is not None and value.name and constant_tensor_of(value) is not None:
                for scope in value.name.split("/")[:-1]:
                    by_scope.setdefault(scope, node)
    found: dict[str, Hidden] = {}
    last: dict[int, str] = {}
    for layer in layers:
        holder = by_scope.get(f"{layer.name}{suffix}") if not layer.outputs and layer.weights else None
        if holder is not None:
            found[layer.name] = (holder, False)
            last[id(holder)] = layer.name
    named = {name for layer in layers for name in layer.outputs}
    for layer_name in last.values():
        node = found[layer_name][0]
        found[layer_name] = (node, not any(v.name in named for v in node.outputs))
    return found


def _scope_suffix(layers: Sequence[AnyLayer]) -> str:
    """What the framework puts behind a layer's name in its tensors' scopes: mostly nothing, or ``_1``."""
    seen = Counter(
        scope[len(layer.name) :]
        for layer in layers
        for tensor in layer.outputs[:1]
        for scope in tensor.split("/")[:-1]
        if scope.startswith(layer.name) and scope[len(layer.name) :].strip("_0123456789") == ""
    )
    return seen.most_common(1)[0][0] if seen else ""


def parameter_total(layers: Iterable[AnyLayer]) -> int:
    """Scalars of all layers, as the framework's own summary counts them."""
    return sum(layer.parameters for layer in layers)


def _carriers(model: ir.Model) -> dict[str, list[ir.Node]]:
    """Tensor name of the converted model to the nodes of the optimised one that compute it on the way."""
    found: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        names = {*sources_of(node), *(v.name for v in node.outputs if v.name)}
        for name in names:
            found.setdefault(name, []).append(node)
    return found


def _row(
    layer: AnyLayer,
    before: Mapping[str, ir.Value],
    ends: set[str],
    carriers: Mapping[str, list[ir.Node]],
    hidden: Hidden | None,
    moved: Mapping[str, str],
) -> LayerMapRow:
    present = [name for name in layer.outputs if name in before]
    if hidden is not None:
        holder, has_result = hidden
        present = [v.name for v in holder.outputs if v.name] if has_result else []
        nodes = [holder]
    else:
        nodes = _nodes_between([before[name] for name in present], ends - set(layer.outputs))
    after = _distinct(
        carrier for name in present for carrier in carriers.get(name, ()) if carrier is not None
    )
    own = _distinct(c for n in nodes for v in n.outputs for c in carriers.get(v.name or "", ()))
    after = _distinct([*own, *after])
    tensor_after = _carrying_tensor([*present, *(moved[name] for name in present if name in moved)], after)
    shapes = [tuple(shape) for _, shape in layer.weights]
    padding = _padding_in_numbers(nodes) if hidden is None or layer.padding else ""
    return LayerMapRow(
        layer=layer.name,
        op=layer.op,
        parameters=layer.parameters,
        output_shape=tuple(layer.output_shape),
        padding=layer.padding,
        tensor_before=present[0] if present else "",
        nodes_before=tuple(_shown(n) for n in nodes),
        padding_before=padding,
        tensor_after=tensor_after,
        nodes_after=tuple(_shown(n) for n in after),
        padding_after=_padding_in_numbers(after) if padding else "",  # not that of a layer merged with it
        weights=tuple(
            _weight_row(name, tuple(shape), shapes.count(tuple(shape)), nodes, after)
            for name, shape in layer.weights
        ),
        note="its channels stand in another order"
        if tensor_after in moved.values()
        else _note(layer, present, tensor_after, after, nodes),
        tensors_after=tuple(v.name for node in after for v in node.outputs if v.name),
    )


def _distinct(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    return list({id(node): node for node in nodes}.values())


def _shown(node: ir.Node) -> str:
    return f"{node.op_type} {label(node)}"


def _note(
    layer: AnyLayer, present: list[str], tensor_after: str, after: list[ir.Node], nodes: Sequence[ir.Node]
) -> str:
    if not present:
        if nodes:
            return f"merged into {_shown(nodes[-1])} at conversion"
        if layer.op in ("InputLayer", "Placeholder"):
            return "input"
        if "Padding" in layer.op:
            return "merged into the padding of the next layer at conversion"
        return "inference does nothing here" if layer.op == "Dropout" else "no tensor of its own in the graph"
    if tensor_after in present:
        return ""
    if after:
        return f"merged into {_shown(after[-1])}"
    return "not found after optimisation"


def _carrying_tensor(names: list[str], after: list[ir.Node]) -> str:
    outputs = [v.name for node in after for v in node.outputs if v.name]
    same = next((name for name in names if name in outputs), None)
    return same if same is not None else outputs[-1] if outputs else ""


def _nodes_between(outputs: Sequence[ir.Value], stops: set[str]) -> list[ir.Node]:
    """Nodes on the way back from ``outputs`` to other layers' outputs, in graph order."""
    found: dict[int, ir.Node] = {}
    waiting = list(outputs)
    while waiting:
        node = waiting.pop().producer()
        if node is None or id(node) in found:
            continue
        found[id(node)] = node
        waiting += [v for v in node.inputs if v is not None and v.name not in stops]
    if not found:
        return []
    graph = next(iter(found.values())).graph
    order = {id(n): i for i, n in enumerate(graph)} if graph is not None else {}
    return sorted(found.values(), key=lambda n: order.get(id(n), 0))


# --- weights -------------------------------------------------------------------------------------


def _weight_row(
    name: str, shape: tuple[int, ...], rivals: int, before: Sequence[ir.Node], after: Sequence[ir.Node]
) -> WeightMapRow:
    """``rivals``: how many weights of the layer share the shape; by shape alone only one is found."""
    first = _find_weight(shape, name, before, rivals)
    second = _find_weight(shape, name, after, rivals)
    note = ""
    if first is None:
        note = f"folded into {_constants(before, shape)}" if _constants(before, shape) else "not in the graph"
    elif second is None:
        note = f"folded into {_constants(after)}" if after else "not found after optimisation"
    elif not same_values(first, second):
        if len(shape) < 2:  # a vector of the right length with other values is another vector
            second, note = None, f"folded into {_constants(after)}"
        else:
            note = (
                "the same rows in another order: a change of layout was folded in"
                if same_rows(first, second)
                else "scaled: a following or preceding operator was folded in"
            )
    return WeightMapRow(
        name=name,
        shape=shape,
        tensor_before=first.name if first else "",
        shape_before=first.shape if first else (),
        permutation_before=first.permutation if first else None,
        tensor_after=second.name if second else "",
        shape_after=second.shape if second else (),
        permutation_after=second.permutation if second else None,
        note=note,
    )


@dataclass(frozen=True)
class _Held:
    """A constant of a graph that may hold a source weight."""

    name: str
    shape: tuple[int, ...]
    permutation: tuple[int, ...]
    tensor: ir.TensorProtocol


def same_values(first: _Held, second: _Held) -> bool:
    """Whether two constants hold one weight, bit for bit, each in its own axis order."""
    if first.permutation == second.permutation or len(first.permutation) < 2:
        return bool(np.array_equal(first.tensor.numpy().ravel(), second.tensor.numpy().ravel()))
    a, b = first.tensor.numpy(), second.tensor.numpy()
    if a.ndim != b.ndim:
        return False
    back = np.argsort(first.permutation)
    return bool(np.array_equal(a.transpose(back).transpose(second.permutation), b))


def same_rows(first: _Held, second: _Held) -> bool:
    """Whether two constants hold one matrix [in, out] whose rows stand in different orders."""
    if len(first.permutation) != 2:
        return False
    a, b = (held.tensor.numpy().transpose(np.argsort(held.permutation)) for held in (first, second))
    if a.shape != b.shape:
        return False
    keys = range(min(_ROW_KEYS, a.shape[1]))
    left, right = (np.lexsort([matrix[:, column] for column in keys]) for matrix in (a, b))
    blocks = (slice(start, start + _ROW_BLOCK) for start in range(0, a.shape[1], _ROW_BLOCK))
    return all(np.array_equal(a[left, block], b[right, block]) for block in blocks)


def _constants(nodes: Sequence[ir.Node], shape: tuple[int, ...] | None = None) -> str:
    """Names of the constants that the nodes read, those with as many elements as ``shape`` only."""
    names = []
    for node in nodes:
        for value in node.inputs:
            tensor = constant_tensor_of(value)
            if value is None or tensor is None or not tensor.dtype.is_floating_point():
                continue
            if shape is None or tensor.size == math.prod(shape):
                names.append(value.name or "")
    return ", ".join(dict.fromkeys(names))


def _find_weight(shape: tuple[int, ...], name: str, nodes: Sequence[ir.Node], rivals: int) -> _Held | None:
    """The constant that holds a weight: by the variable's name, else the only one of a fitting shape."""
    candidates: dict[str, _Held] = {}
    for node in nodes:
        for value in node.inputs:
            tensor = constant_tensor_of(value)
            if value is None or tensor is None or not value.name:
                continue
            held = tuple(tensor.shape.numpy())
            permutation = permutation_between(shape, held, _kind(node))
            if permutation is not None and tensor.dtype.is_floating_point():
                candidates[value.name] = _Held(value.name, held, permutation, tensor)
    stem, _, _ = name.partition(":")
    named = [c for key, c in candidates.items() if stem in key]
    if named:
        return named[0]
    return next(iter(candidates.values())) if len(candidates) == rivals == 1 else None


def _kind(node: ir.Node) -> str:
    """The operator as it holds its weight: a Gemm without ``transB`` holds [in, out], as MatMul does."""
    turned = node.attributes.get("transB")
    plain = node.op_type == "Gemm" and (turned is None or not turned.as_int())
    return "MatMul" if plain else node.op_type


def permutation_between(source: tuple[int, ...], held: tuple[int, ...], op: str) -> tuple[int, ...] | None:
    """The axis order that leads from one shape to the other; None where no order does.

    A depthwise kernel is the exception of rank: [H, W, C, M] becomes [C*M, 1, H, W]. A vector may be stored
    with axes of size 1 around it. Where several orders fit, the operator's usual one wins.
    """
    if len(source) == 1 and math.prod(held) == source[0] and source[0] in held:
        return (0,)
    if sorted(source) != sorted(held):
        depthwise = len(source) == 4 and held == (source[2] * source[3], 1, source[0], source[1])
        return (2, 3, 0, 1) if depthwise and op == "Conv" else None
    identity = tuple(range(len(source)))
    orders = itertools.chain(KNOWN_PERMUTATIONS.get(op, ()), [identity], itertools.permutations(identity))
    return next((p for p in orders if len(p) == len(source) and tuple(source[a] for a in p) == held), None)


# --- padding -------------------------------------------------------------------------------------


def _padding_in_numbers(nodes: Sequence[ir.Node]) -> str:
    return "; ".join(text for text in (padding_of(node) for node in nodes) if text)
