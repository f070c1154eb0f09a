"""The layer list of a Keras model, as ``model.summary()`` counts it, and where each layer went in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import onnx_ir as ir

from pipeline.sources.contract import SourceLayer


class LayerTrace:
    """While active, notes the symbolic tensors that each layer returns when the model is traced."""

    def __init__(self, model: Any) -> None:
        self._layers = leaves(model)
        self._originals: list[tuple[Any, Callable[..., Any] | None]] = []
        self.outputs: dict[int, tuple[str, ...]] = {}
        self.shapes: dict[int, tuple[int | None, ...]] = {}

    def __enter__(self) -> Self:
        for layer in self._layers:
            original = layer.__dict__.get("call")
            self._originals.append((layer, original))
            object.__setattr__(layer, "call", self._noting(layer, layer.call))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for layer, original in self._originals:
            if original is None:
                layer.__dict__.pop("call", None)
            else:
                object.__setattr__(layer, "call", original)

    def _noting(self, layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        import functools

        @functools.wraps(call)
        def noted(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            self._note(layer, result)
            return result

        return noted

    def _note(self, layer: Any, result: Any) -> None:
        import tensorflow as tf

        tensors = [t for t in tf.nest.flatten(result) if isinstance(t, tf.Tensor)]
        names = tuple(t.name for t in tensors if not hasattr(t, "numpy"))
        if names:
            self.outputs[id(layer)] = names
            shape = tensors[0].shape
            self.shapes[id(layer)] = tuple(shape.as_list()) if shape.rank is not None else ()


def leaves(model: Any) -> list[Any]:
    """Layers that hold no layers themselves, nested models opened up, in execution order, each once."""
    found: dict[int, Any] = {}
    for layer in getattr(model, "layers", []):
        inner = getattr(layer, "layers", None)
        for one in leaves(layer) if inner else [layer]:
            found.setdefault(id(one), one)
    return list(found.values())


def source_layers(model: Any, trace: LayerTrace, converted: ir.Model) -> tuple[SourceLayer, ...]:
    """One record a layer. Parameters add up to ``model.count_params()``; weights that no listed layer owns
    are listed under the model's own name."""
    present = {value.name for value in _values(converted)}
    by_node = {node.name: node for node in converted.graph if node.name}
    listed: list[SourceLayer] = []
    counted: set[int] = set()
    inbound = _inbound(model)
    for layer in leaves(model):
        fresh = [w for w in layer.weights if id(w) not in counted]
        counted |= {id(w) for w in layer.weights}
        outputs = _found(trace.outputs.get(id(layer), ()), present, by_node)
        listed.append(
            SourceLayer(
                name=str(layer.name),
                op=type(layer).__name__,
                outputs=outputs,
                output_shape=trace.shapes.get(id(layer), _declared_shape(layer)),
                parameters=sum(_count(w.shape) for w in fresh),
                weights=tuple((_weight_name(w), tuple(int(d) for d in w.shape)) for w in layer.weights),
                padding=str(getattr(layer, "padding", "") or "")
                if isinstance(getattr(layer, "padding", ""), str)
                else str(layer.padding),
                inbound=inbound.get(id(layer), ()),
            )
        )
    rest = [w for w in model.weights if id(w) not in counted]
    if rest:
        listed.append(
            SourceLayer(
                name=str(model.name),
                op=type(model).__name__,
                outputs=(),
                output_shape=(),
                parameters=sum(_count(w.shape) for w in rest),
                weights=tuple((_weight_name(w), tuple(int(d) for d in w.shape)) for w in rest),
            )
        )
    return tuple(listed)


def _values(model: ir.Model) -> list[ir.Value]:
    return [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]


def _found(names: tuple[str, ...], present: set[str | None], nodes: dict[str, ir.Node]) -> tuple[str, ...]:
    """The converted tensors that carry these TensorFlow tensors: of the same name, or made by the node of
    the same name (the converter may have moved the layout change behind it)."""
    found: list[str] = []
    for name in names:
        if name in present:
            found.append(name)
            continue
        node = nodes.get(name.rpartition(":")[0])
        if node is not None and node.outputs and node.outputs[0].name:
            found.append(node.outputs[0].name)
    return tuple(found)


def _inbound(model: Any) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for layer in leaves(model):
        names: list[str] = []
        for node in getattr(layer, "_inbound_nodes", [])[:1]:
            for parent in getattr(node, "parent_nodes", []):
                names.append(str(parent.operation.name))
        found[id(layer)] = tuple(dict.fromkeys(names))
    return found


def _declared_shape(layer: Any) -> tuple[int | None, ...]:
    try:
        shape = layer.output.shape
    except (AttributeError, ValueError):
        return ()
    return tuple(None if d is None else int(d) for d in shape)


def _weight_name(weight: Any) -> str:
    return str(getattr(weight, "path", weight.name))


def _count(shape: Any) -> int:
    total = 1
    for dim in shape:
        total *= int(dim)
    return total
