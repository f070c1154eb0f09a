"""What a request changes about an ONNX graph's edges: weights lifted, shapes fixed, cut, frozen."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from optim.errors import UserError
from pipeline.sources.contract import ConvertRequest, Frozen
from pipeline.sources.onnx_upgrade.shapes import infer_shapes
from pipeline.sources.onnx_upgrade.upgrade import opset_of


def lift_weights(model: ir.Model, keep: frozenset[str]) -> tuple[str, ...]:
    """Take weights off the input list, where ONNX before IR version 4 had to name them; say so.

    An input with a default value is such a weight too; it stays an input where ``keep`` names it.
    """
    weights = [value for value in model.graph.inputs if value.is_initializer() and value.name not in keep]
    for value in weights:
        model.graph.inputs.remove(value)
    if not weights:
        return ()
    if len(weights) > 4 or model.ir_version < 4:
        return (f"{len(weights)} weights were listed as inputs and are initializers only now",)
    names = ", ".join(value.name or "?" for value in weights)
    return (f"inputs with a default value became constants: {names}",)


def apply_request(model: ir.Model, request: ConvertRequest) -> tuple[Frozen, ...]:
    """Cut at the asked inputs and outputs, fix input shapes, and put constants in frozen inputs' places.

    Raises:
        UserError: a name that the graph does not hold, or a shape of another rank.
    """
    edges = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    if {*request.inputs, *request.outputs} - edges:
        infer_shapes(model, opset_of(model))  # the new edges need types
    values = ir.convenience.create_value_mapping(model.graph)
    _cut_outputs(model, request.outputs, values)
    for name, shape in request.inputs.items():
        value = _find(values, name, "input")
        if not value.is_graph_input():
            value = _cut_input(model, value)
        if shape is not None:
            _fix_shape(value, shape)
    frozen = tuple(
        _freeze(model, _find(values, name, "input"), number) for name, number in request.freeze.items()
    )
    if request.outputs:
        needed = _reachable_inputs(model)
        for value in [v for v in model.graph.inputs if v not in needed and v.name not in request.inputs]:
            model.graph.inputs.remove(value)
    return frozen


def _find(values: dict[str, ir.Value], name: str, what: str) -> ir.Value:
    if name not in values:
        raise UserError(
            f"the graph holds no tensor {name!r}", where=what, expected="a tensor name of the model"
        )
    return values[name]


def _cut_outputs(model: ir.Model, outputs: tuple[str, ...], values: dict[str, ir.Value]) -> None:
    if outputs:
        wanted = [_find(values, name, "output") for name in outputs]
        model.graph.outputs.clear()
        model.graph.outputs.extend(wanted)


def _cut_input(model: ir.Model, inner: ir.Value) -> ir.Value:
    """A graph input in the place of a computed tensor, under its name."""
    entry = ir.Value(name=inner.name, shape=inner.shape, type=inner.type)
    inner.name = f"{inner.name}/before_cut"
    inner.replace_all_uses_with(entry, replace_graph_outputs=True)
    model.graph.inputs.append(entry)
    return entry


def _fix_shape(value: ir.Value, shape: tuple[int, ...]) -> None:
    stated = value.shape
    if stated is not None and len(stated) == 0:
        stated = None  # some exporters declare no dimensions where they know none
    if stated is not None and len(stated) != len(shape):
        raise UserError(
            f"the shape given has rank {len(shape)}, the model's input has rank {len(stated)}",
            where=value.name or "input",
            expected=str([d if isinstance(d, int) else str(d) for d in stated]),
        )
    old = list(stated) if stated is not None else [None] * len(shape)
    value.shape = ir.Shape([new if new >= 0 else keep for new, keep in zip(shape, old, strict=True)])


def _freeze(model: ir.Model, value: ir.Value, number: float | int | bool) -> Frozen:
    """Make a graph input the constant ``number``, filled to its static shape."""
    if not value.is_graph_input():
        raise UserError("only an input can be frozen", where=value.name or "freeze")
    dims = [d if isinstance(d, int) else 1 for d in value.shape or ()]
    dtype = np.float32 if value.dtype is None else value.dtype.numpy()
    model.graph.inputs.remove(value)
    value.const_value = ir.tensor(np.full(dims, number, dtype), name=value.name)
    value.shape = ir.Shape(dims)
    if not value.is_initializer():
        model.graph.register_initializer(value)
    return Frozen(name=value.name or "", value=str(number), why="asked for with --freeze")


def _reachable_inputs(model: ir.Model) -> set[ir.Value]:
    """Graph inputs that some output depends on, by dataflow."""
    pending, seen = list(model.graph.outputs), set[ir.Value]()
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if node is None:
            continue
        pending += [v for v in node.inputs if v is not None]
        for attribute in node.attributes.values():
            for graph in _graphs(attribute):
                for inner in ir.traversal.RecursiveGraphIterator(graph):
                    pending += [v for v in inner.inputs if v is not None]
                pending += list(graph.outputs)
    return {value for value in seen if value.is_graph_input()}


def _graphs(attribute: ir.Attr) -> tuple[ir.Graph, ...]:
    if attribute.type == ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    if attribute.type == ir.AttributeType.GRAPHS:
        return tuple(attribute.as_graphs())
    return ()
