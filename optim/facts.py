"""Read-only questions that passes ask of a graph. Nothing here changes anything."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir

from optim.contract import Array

SOURCE_KEY = "fairlead.source"
"""``metadata_props`` key of a node: JSON list of the tensor names of the converted model it computes."""


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether ``node`` is one of these ops of the standard domain."""
    return node is not None and node.domain == "" and node.op_type in op_types


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes ``value`` if it is one of ``op_types`` (any, when none are named)."""
    node = None if value is None else value.producer()
    if node is None or (op_types and not is_op(node, *op_types)):
        return None
    return node


def constant_tensor_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of a value that can never change, not yet read; None where it may.

    An initializer that is also a graph input is a default the caller may override: not a constant.
    """
    if value is None:
        return None
    node = value.producer()
    if node is None:
        return None if value.is_graph_input() or not value.is_initializer() else value.const_value
    if is_op(node, "Constant") and "value" in node.attributes and not node.attributes["value"].is_ref():
        return node.attributes["value"].as_tensor()
    return None


def is_constant(value: ir.Value | None) -> bool:
    """Whether ``value`` is a constant, without reading it."""
    return constant_tensor_of(value) is not None


def constant_of(value: ir.Value | None) -> Array | None:
    """The constant behind ``value`` as an array (mapped where it lies on disk), or None."""
    tensor = constant_tensor_of(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return None
    return np.asarray(tensor.numpy())


def ints_of(value: ir.Value | None) -> tuple[int, ...] | None:
    """A small constant integer tensor as a flat tuple, or None."""
    array = constant_of(value)
    if array is None or array.dtype.kind not in "iu" or array.size > 64:
        return None
    return tuple(int(i) for i in array.reshape(-1))


def scalar_of(value: ir.Value | None) -> float | None:
    """The one number in a constant tensor of any rank that holds one element, or None."""
    tensor = constant_tensor_of(value)
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    return float(np.asarray(tensor.numpy()).reshape(()))


def uniform_of(value: ir.Value | None) -> float | None:
    """The number that every element of a (small or repeated) constant equals, or None."""
    tensor = constant_tensor_of(value)
    if tensor is None or tensor.size == 0 or tensor.dtype == ir.DataType.STRING or tensor.size > 1 << 16:
        return None
    flat = np.asarray(tensor.numpy()).reshape(-1)
    return float(flat[0]) if flat.dtype.kind in "iuf" and bool((flat == flat[0]).all()) else None


def sole_consumer(value: ir.Value | None) -> ir.Node | None:
    """The only node that reads ``value`` (once), or None: also when it is a graph output or read in a
    subgraph.
    """
    if value is None or value.is_graph_output():
        return None
    uses = value.uses()
    if len(uses) != 1:
        return None
    node = next(iter(uses)).node
    return node if node.graph is value.graph else None


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape when every dimension is a known number, else None."""
    shape = dims(value)
    if shape is None:
        return None
    known = tuple(d for d in shape if isinstance(d, int))
    return known if len(known) == len(shape) else None


def dims(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    """The shape with names or None for free dimensions; None when the rank is unknown."""
    if value is None:
        return None
    tensor = value.const_value
    if value.shape is None:
        return None if tensor is None else tuple(int(d) for d in tensor.shape if isinstance(d, int))
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def same_shape(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Whether both shapes are known to be equal; a free dimension counts only under a common name."""
    left, right = dims(a), dims(b)
    return left is not None and left == right and None not in left


def rank(value: ir.Value | None) -> int | None:
    """Number of dimensions, or None."""
    shape = dims(value)
    return None if shape is None else len(shape)


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An INT attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """A FLOAT attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def string_attribute(node: ir.Node, name: str, default: str) -> str:
    """A STRING attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def ints_attribute(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """An INTS attribute, or None when it is absent."""
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())


def opset_of(model: ir.Model) -> int:
    """Version of the standard operator set."""
    return model.graph.opset_imports.get("", 1)


def axes_of(node: ir.Node, position: int = 1) -> tuple[int, ...] | None:
    """Axes of Squeeze, Unsqueeze or Reduce*: the attribute of old opsets or the constant input of new
    ones.
    """
    attribute = ints_attribute(node, "axes")
    if attribute is not None:
        return attribute
    return ints_of(input_of(node, position))


def input_of(node: ir.Node, position: int) -> ir.Value | None:
    """An input that may be absent."""
    return node.inputs[position] if position < len(node.inputs) else None


def label(node: ir.Node) -> str:
    """How messages name a node: its name, or its op and first output."""
    if node.name:
        return node.name
    return f"{node.op_type}({node.outputs[0].name if node.outputs else ''})"


def site_of(node: ir.Node) -> str:
    """The site a node stands for: the name of its first output."""
    return next((v.name for v in node.outputs if v.name), "")


def sources_of(node: ir.Node) -> tuple[str, ...]:
    """Tensor names of the converted model that ``node`` computes on the way; its own outputs when
    untouched.
    """
    text = node.metadata_props.get(SOURCE_KEY)
    if text is None:
        return tuple(v.name for v in node.outputs if v.name)
    return tuple(str(name) for name in json.loads(text))
