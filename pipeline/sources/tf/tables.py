"""Look-up tables whose contents the model holds, as tensors: a place in the table's keys, then its value.

Whole-number keys are looked up with plain operators; text keys with ONNX-ML's LabelEncoder
(``handlers/lookup_table.py``). The reference keeps TensorFlow's own tables and fills them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optim.contract import Array
from optim.errors import UnsupportedModelError, UserError
from pipeline.sources.tf.graph import (
    GraphDef,
    NodeDef,
    by_name,
    constant,
    data_inputs,
    make_constant,
    node_of,
)
from pipeline.sources.tf.lower import splice, trace

KEYS = "_keys"
"""Attribute of a look-up of text keys: the keys, in the order of the places that it gives."""

_TABLES = frozenset({"HashTable", "HashTableV2"})
_FINDS = frozenset({"LookupTableFind", "LookupTableFindV2"})
_SIZES = frozenset({"LookupTableSize", "LookupTableSizeV2"})
_FROM_TENSORS = frozenset({"InitializeTable", "InitializeTableV2", "LookupTableImportV2"})
_FROM_FILES = frozenset({"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"})
_WHOLE_LINE, _LINE_NUMBER = -2, -1
_MOST_KEYS = 1 << 24
_MOST_COMPARED = 1 << 14  # keys that each look-up is compared with; more would take too much memory


@dataclass(frozen=True)
class Table:
    """Keys and values, one-dimensional and of one length."""

    keys: Array
    values: Array

    @property
    def has_text_keys(self) -> bool:
        return self.keys.dtype.kind == "O"


def find_tables(graph_def: GraphDef, assets: Mapping[str, Path] | None = None) -> dict[str, Table]:
    """Contents of the tables that the graph's own initialisers fill from constants or assets, by node name.

    Args:
        graph_def: the whole stored graph, initialisers included.
        assets: files of the model, by the name of the tensor that holds their path.

    Raises:
        UserError: an asset is missing or damaged.
    """
    nodes = by_name(graph_def)
    found: dict[str, Table] = {}
    for node in graph_def.node:
        if node.op in _FROM_TENSORS:
            table, keys, values = data_inputs(node)[:3]
            known = [_constant(tensor, nodes) for tensor in (keys, values)]
            if known[0] is not None and known[1] is not None:
                found[_table_of(table, nodes)] = Table(known[0].reshape(-1), known[1].reshape(-1))
        elif node.op in _FROM_FILES:
            table, path = data_inputs(node)[:2]
            file = (assets or {}).get(path)
            if file is not None:
                found[_table_of(table, nodes)] = _read_lines(file, node, nodes[_table_of(table, nodes)])
    return found


def _constant(tensor: str, nodes: Mapping[str, NodeDef]) -> Array | None:
    import tensorflow as tf

    node = nodes[node_of(tensor)]
    while node.op == "Identity":
        node = nodes[node_of(data_inputs(node)[0])]
    if node.op == "Const":
        return constant(node)
    if node.op == "Cast":
        inner = _constant(data_inputs(node)[0], nodes)
        wanted = tf.as_dtype(node.attr["DstT"].type).as_numpy_dtype
        return None if inner is None else inner.astype(wanted)
    if node.op == "Range":
        return _range([_constant(one, nodes) for one in data_inputs(node)])
    return None


def _range(ends: Sequence[Array | None]) -> Array | None:
    """start, start + step, … below stop, where all three are known and there are not too many."""
    start, stop, step = (None if one is None else one.reshape(()).item() for one in ends)
    if start is None or stop is None or not step or not 0 <= (stop - start) / step <= _MOST_KEYS:
        return None
    assert ends[0] is not None
    return np.arange(start, stop, step, dtype=ends[0].dtype)


def _table_of(tensor: str, nodes: Mapping[str, NodeDef]) -> str:
    name = node_of(tensor)
    while nodes[name].op == "Identity":
        name = node_of(data_inputs(nodes[name])[0])
    return name


def _read_lines(file: Path, node: NodeDef, table: NodeDef) -> Table:
    """https://www.tensorflow.org/api_docs/python/tf/raw_ops/InitializeTableFromTextFileV2"""
    import tensorflow as tf

    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"a file of the model cannot be read: {error.strerror}", where=str(file)) from error
    lines = [line.removesuffix(b"\r") for line in (lines[:-1] if lines[-1] == b"" else lines)]
    size = node.attr["vocab_size"].i
    lines = lines[:size] if size > 0 else lines
    delimiter = node.attr["delimiter"].s or b"\t"
    columns = []
    for key, kind in (("key_index", "key_dtype"), ("value_index", "value_dtype")):
        index, dtype = node.attr[key].i, tf.as_dtype(table.attr[kind].type)
        try:
            if index == _LINE_NUMBER:
                parts: list[Any] = list(range(len(lines)))
            elif index == _WHOLE_LINE:
                parts = lines
            else:
                parts = [line.split(delimiter)[index] for line in lines]
            columns.append(_column(parts, dtype))
        except (ValueError, IndexError) as error:
            raise UserError(f"a line of the table has no such column: {error}", where=str(file)) from error
    return Table(*columns)


def _column(parts: Sequence[Any], dtype: Any) -> Array:
    if dtype.name == "string":
        array: Array = np.empty(len(parts), object)
        array[:] = parts
        return array
    return np.array([float(part) if dtype.is_floating else int(part) for part in parts], dtype.as_numpy_dtype)


def fill_tables(graph_def: GraphDef, tables: Mapping[str, Table]) -> tuple[str, ...]:
    """Add an initialiser for each table that ``graph_def`` holds, in place; the nodes to run first."""
    made = []
    for node in [one for one in graph_def.node if one.op in _TABLES and one.name in tables]:
        table, stem = tables[node.name], f"{node.name}/filled"
        for word, array in (("keys", table.keys), ("values", table.values)):
            held = graph_def.node.add()
            held.name = f"{stem}/{word}"
            make_constant(held, array, node.attr[f"{word[:-1]}_dtype"].type)
        fill = graph_def.node.add()
        fill.name, fill.op = stem, "InitializeTableV2" if node.op.endswith("V2") else "InitializeTable"
        fill.input.extend([node.name, f"{stem}/keys", f"{stem}/values"])
        fill.attr["Tkey"].type = node.attr["key_dtype"].type
        fill.attr["Tval"].type = node.attr["value_dtype"].type
        made.append(stem)
    return tuple(made)


def write_out_tables(graph_def: GraphDef, tables: Mapping[str, Table]) -> None:
    """Replace look-ups by tensors, in place.

    Raises:
        UnsupportedModelError: a table's contents are not in the model, or it is too large.
    """
    for node in [one for one in graph_def.node if one.op in _FINDS | _SIZES]:
        nodes = by_name(graph_def)
        name = _table_of(data_inputs(node)[0], nodes)
        table = tables.get(name)
        if table is None:
            raise UnsupportedModelError(
                f"the contents of the look-up table '{name}' are not in the model",
                op=node.op,
                node=node.name,
                expected="a table filled from constants of the graph or from a SavedModel's assets",
                hint="export a SavedModel with its table initialiser (main_op) instead of a frozen graph, or "
                "name outputs before the look-up (--outputs)",
            )
        if node.op in _SIZES:
            make_constant(node, np.asarray(len(table.keys), np.int64))
        else:
            _write_out(graph_def, node, table, nodes)


def _write_out(graph_def: GraphDef, node: NodeDef, table: Table, nodes: Mapping[str, NodeDef]) -> None:
    import tensorflow as tf

    _, keys, default = data_inputs(node)
    value_kind = tf.as_dtype(node.attr["Tout"].type)
    key_kind = tf.as_dtype(node.attr["Tin"].type)
    place = keys
    if table.has_text_keys:
        place = _encoder(graph_def, node, keys, table)
        nodes = by_name(graph_def)
    elif len(table.keys) > _MOST_COMPARED and not _counts(table.keys):
        raise UnsupportedModelError(
            f"a look-up table of {len(table.keys)} keys that are no plain count is too large",
            op=node.op,
            node=node.name,
            expected=f"keys 0, 1, 2, …, text keys, or at most {_MOST_COMPARED} of them",
        )

    def rule(found: Any, otherwise: Any) -> Sequence[Any]:
        if not table.has_text_keys:
            found = _place(found, table.keys)
        values = tf.concat([tf.constant(table.values, value_kind), tf.reshape(otherwise, [1])], 0)
        return [tf.gather(values, found)]

    kind = tf.int64 if table.has_text_keys else key_kind
    traced = trace(rule, [(place, kind, None), (default, value_kind, ())], nodes)
    assert traced is not None
    splice(graph_def, node, traced)


def _counts(keys: Array) -> bool:
    return bool(np.array_equal(keys, np.arange(len(keys))))


def _place(looked_up: Any, keys: Array) -> Any:
    """Where a whole number stands among the keys; their count where it does not."""
    import tensorflow as tf

    count = len(keys)
    if _counts(keys):
        looked_up = tf.cast(looked_up, tf.int64)
        inside = (looked_up >= 0) & (looked_up < count)
        return tf.where(inside, looked_up, tf.constant(count, tf.int64))
    equal = tf.equal(looked_up[..., None], tf.constant(keys, looked_up.dtype))
    places = tf.constant(np.arange(1, count + 1), tf.int64)
    first = tf.reduce_sum(tf.cast(equal, tf.int64) * places, -1)  # keys are unique
    return tf.where(first > 0, first - 1, tf.constant(count, tf.int64))


def _encoder(graph_def: GraphDef, node: NodeDef, keys: str, table: Table) -> str:
    """A look-up of text keys that gives places; the converter makes a LabelEncoder of it."""
    stem = f"{node.name}/place"
    holder = graph_def.node.add()
    holder.name, holder.op = f"{stem}/table", "HashTableV2"
    holder.attr["key_dtype"].type, holder.attr["value_dtype"].type = _STRING, _INT64
    missing = graph_def.node.add()
    missing.name = f"{stem}/missing"
    make_constant(missing, np.asarray(len(table.keys), np.int64))
    find = graph_def.node.add()
    find.name, find.op = stem, "LookupTableFindV2"
    find.input.extend([holder.name, keys, missing.name])
    find.attr["Tin"].type, find.attr["Tout"].type = _STRING, _INT64
    find.attr[KEYS].list.s.extend(table.keys.tolist())
    return f"{stem}:0"


_STRING, _INT64 = 7, 9  # tensorflow/core/framework/types.proto
