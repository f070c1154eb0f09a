"""What TensorFlow's array operators do, on dense tensors: places along the first axis.

An array of n elements is a tensor [n, *element]. Elements that were never written are zeros, as TensorFlow
gives them where it gives any. Where a dimension of the elements is known only once the graph runs, it is 1
until the first element is written.
https://www.tensorflow.org/api_docs/python/tf/raw_ops/TensorArrayV3 and TensorListReserve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pipeline.sources.tf.graph import Dims, NodeDef

Rule: TypeAlias = Callable[..., Sequence[Any]]


@dataclass(frozen=True)
class Element:
    """What an array holds."""

    kind: int  # DataType
    dims: Dims
    grows: bool = False  # a write behind the last element makes room for itself


@dataclass(frozen=True)
class ArrayOp:
    """Where an operator takes an array in and hands it on, and what it does.

    ``rule`` gets the node, the element, and the operands in the node's order; what stands for a handle or for
    an unused operand is None.
    """

    rule: Rule
    array_in: int | None = None
    array_out: int | None = None
    handle_in: int | None = None
    value: int | None = None  # operand that has an element's shape
    values: int | None = None  # operand that has a stack of elements' shape
    shape: int | None = None  # operand that gives the elements' shape


def _zeros(size: Any, element: Element) -> Any:
    import tensorflow as tf

    dims = [1 if dim is None else dim for dim in element.dims]
    shape = tf.concat([tf.reshape(tf.cast(size, tf.int32), [1]), tf.constant(dims, tf.int32)], 0)
    return tf.zeros(shape, tf.as_dtype(element.kind))


def _wide(array: Any, shape: Any, element: Element) -> Any:
    """The array, its elements brought to ``shape`` where they have not got one yet."""
    import tensorflow as tf

    if None not in element.dims:
        return array
    return tf.broadcast_to(array, tf.concat([tf.shape(array)[:1], shape], 0))


def _long(array: Any, size: Any) -> Any:
    """The array with zeros behind it, so that it has at least ``size`` elements."""
    import tensorflow as tf

    shape = tf.shape(array)
    more = tf.maximum(tf.cast(size, tf.int32) - shape[0], 0)
    return tf.concat([array, tf.zeros(tf.concat([[more], shape[1:]], 0), array.dtype)], 0)


def _written(array: Any, index: Any, value: Any, element: Element) -> Any:
    import tensorflow as tf

    index = tf.cast(index, tf.int32)
    array = _wide(array, tf.shape(value), element)
    if element.grows:
        array = _long(array, index + 1)
    return tf.tensor_scatter_nd_update(array, tf.reshape(index, [1, 1]), tf.expand_dims(value, 0))


def _scattered(array: Any, indices: Any, values: Any, element: Element) -> Any:
    import tensorflow as tf

    array = _wide(array, tf.shape(values)[1:], element)
    if element.grows:
        array = _long(array, tf.reduce_max(tf.concat([tf.cast(indices, tf.int32), [-1]], 0)) + 1)
    return tf.tensor_scatter_nd_update(array, tf.expand_dims(tf.cast(indices, tf.int32), 1), values)


def _read(array: Any, index: Any) -> Any:
    import tensorflow as tf

    return tf.gather(array, index)


def _joined(array: Any) -> Sequence[Any]:
    """The elements one behind the other, and how long each is."""
    import tensorflow as tf

    shape = tf.shape(array)
    whole = tf.reshape(array, tf.concat([[shape[0] * shape[1]], shape[2:]], 0))
    return [whole, tf.fill(shape[:1], tf.cast(shape[1], tf.int64))]


def _resized(array: Any, size: Any) -> Any:
    return _long(array[:size], size)


def _size(array: Any) -> Any:
    import tensorflow as tf

    return tf.shape(array)[0]


def _made(_: NodeDef, element: Element, size: Any) -> Sequence[Any]:
    array = _zeros(size, element)
    return [array, array]


def _handed_on(_: NodeDef, _element: Element, _handle: Any, array: Any) -> Sequence[Any]:
    return [array]


ARRAY_OPS: Mapping[str, ArrayOp] = {
    # TensorFlow 1: a handle says which array, a flow what was done to it before.
    "TensorArrayV3": ArrayOp(_made, array_out=1),
    "TensorArrayWriteV3": ArrayOp(
        lambda _node, e, _, index, value, array: [_written(array, index, value, e)],
        array_in=3, array_out=0, handle_in=0, value=2,
    ),
    "TensorArrayReadV3": ArrayOp(
        lambda _node, _e, _, index, array: [_read(array, index)], array_in=2, handle_in=0
    ),
    "TensorArrayGatherV3": ArrayOp(
        lambda _node, _e, _, indices, array: [_read(array, indices)], array_in=2, handle_in=0
    ),
    "TensorArrayScatterV3": ArrayOp(
        lambda _node, e, _, indices, values, array: [_scattered(array, indices, values, e)],
        array_in=3, array_out=0, handle_in=0, values=2,
    ),
    "TensorArraySizeV3": ArrayOp(lambda _node, _e, _, array: [_size(array)], array_in=1, handle_in=0),
    "TensorArrayConcatV3": ArrayOp(lambda _node, _e, _, array: _joined(array), array_in=1, handle_in=0),
    # TensorFlow 2: a list is a value.
    "TensorListReserve": ArrayOp(lambda _node, e, _, size: [_zeros(size, e)], array_out=0, shape=0),
    "EmptyTensorList": ArrayOp(lambda _node, e, _, _most: [_zeros(0, e)], array_out=0, shape=0),
    "TensorListFromTensor": ArrayOp(
        lambda _node, _e, values, _: [values], array_out=0, values=0, shape=1
    ),
    "TensorListSetItem": ArrayOp(
        lambda _node, e, array, index, value: [_written(array, index, value, e)],
        array_in=0, array_out=0, value=2,
    ),
    "TensorListGetItem": ArrayOp(
        lambda _node, _e, array, index, _: [_read(array, index)], array_in=0, shape=2
    ),
    "TensorListStack": ArrayOp(lambda _node, _e, array, _: [array], array_in=0, shape=1),
    "TensorListGather": ArrayOp(
        lambda _node, _e, array, indices, _: [_read(array, indices)], array_in=0, shape=2
    ),
    "TensorListScatterIntoExistingList": ArrayOp(
        lambda _node, e, array, values, indices: [_scattered(array, indices, values, e)],
        array_in=0, array_out=0, values=1,
    ),
    "TensorListScatterV2": ArrayOp(
        lambda _node, e, values, indices, _, size: [_scattered(_sized(size, indices, e), indices, values, e)],
        array_out=0, values=0, shape=2,
    ),
    "TensorListConcatV2": ArrayOp(lambda _node, _e, array, _, _lead: _joined(array), array_in=0),
    "TensorListLength": ArrayOp(lambda _node, _e, array: [_size(array)], array_in=0),
    "TensorListResize": ArrayOp(
        lambda _node, _e, array, size: [_resized(array, size)], array_in=0, array_out=0
    ),
    "TensorListPushBack": ArrayOp(
        lambda _node, e, array, value: [_pushed(array, value, e)], array_in=0, array_out=0, value=1
    ),
    "TensorListPopBack": ArrayOp(
        lambda _node, _e, array, _: [array[:-1], array[-1]], array_in=0, array_out=0, shape=1
    ),
}  # fmt: skip


def _sized(size: Any, indices: Any, element: Element) -> Any:
    """An empty array; -1 stands for as many elements as are scattered."""
    import tensorflow as tf

    most = tf.reduce_max(tf.concat([tf.cast(indices, tf.int32), [-1]], 0)) + 1
    return _zeros(tf.maximum(tf.cast(size, tf.int32), most), element)


def _pushed(array: Any, value: Any, element: Element) -> Any:
    import tensorflow as tf

    return tf.concat([_wide(array, tf.shape(value), element), tf.expand_dims(value, 0)], 0)


RAGGED = frozenset({"TensorArrayConcatV3", "TensorListConcatV2"})
"""Operators for which elements may differ in their first dimension."""
