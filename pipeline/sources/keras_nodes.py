"""Calls of layers in a stored functional model of Keras 2, in the form that Keras 3 writes.

Keras 3 reads the old form only where every argument is a tensor in first place: states of recurrent layers,
values and masks of attention, constants and operands given by name are lost or refused.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Config: TypeAlias = dict[str, Any]
_RECURRENT = frozenset({"LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D",
                        "ConvLSTM3D", "CuDNNLSTM", "CuDNNGRU"})  # fmt: skip
_FUNCTIONS = frozenset({"TFOpLambda", "SlicingOpLambda"})
_CONSTANT = "_CONSTANT_VALUE"


def rewrite_nodes(model: Config, notes: dict[str, None]) -> None:
    """Rewrite the calls of a functional model's config in place, where their form needs it."""
    names = {str(layer.get("name")) for layer in model["layers"]}
    for layer in model["layers"]:
        nodes = layer.get("inbound_nodes")
        if not isinstance(nodes, list):
            continue
        kind = str(layer.get("class_name"))
        for number, node in enumerate(nodes):
            entries = _entries(node)
            if entries is not None and _needs_it(kind, entries, names):
                nodes[number] = _new_form(kind, entries, names)
                notes["calls with states, constants or named operands rewritten"] = None


def _entries(node: Any) -> list[Any] | None:
    """The tensors of a call in the old form: [layer, node, tensor(, options)] each; None for another form."""
    if not isinstance(node, list) or not node:
        return None
    if isinstance(node[0], str):  # a single tensor that was not put into a list
        return [node]
    return node if all(isinstance(one, list) and one and isinstance(one[0], str) for one in node) else None


def _needs_it(kind: str, entries: list[Any], names: set[str]) -> bool:
    options = [one[3] for one in entries if len(one) > 3 and isinstance(one[3], dict)]
    return (
        kind in _FUNCTIONS
        or (kind in _RECURRENT and len(entries) > 1)
        or any(one[0] == _CONSTANT for one in entries)
        or any(_has_tensor(option, names) for option in options)
    )


def _has_tensor(value: Any, names: set[str]) -> bool:
    if isinstance(value, dict):
        return any(_has_tensor(one, names) for one in value.values())
    if isinstance(value, list):
        return _is_tensor(value, names) or any(_has_tensor(one, names) for one in value)
    return False


def _is_tensor(value: Any, names: set[str]) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and (value[0] in names or value[0] == _CONSTANT)
        and isinstance(value[1], int)
    )


def _new_form(kind: str, entries: list[Any], names: set[str]) -> Config:
    tensors = [_tensor(one) for one in entries]
    options: Config = {}
    for one in entries:
        if len(one) > 3 and isinstance(one[3], dict):
            options |= {key: _converted(value, names) for key, value in one[3].items()}
    if kind in _RECURRENT and len(tensors) > 1:
        return {"args": tensors[:1], "kwargs": {**options, "initial_state": tensors[1:]}}
    first = tensors if len(tensors) > 1 else tensors[0]
    return {"args": [first], "kwargs": options}


def _converted(value: Any, names: set[str]) -> Any:
    if _is_tensor(value, names):
        return _tensor(value)
    if isinstance(value, list):
        return [_converted(one, names) for one in value]
    if isinstance(value, dict):
        return {key: _converted(one, names) for key, one in value.items()}
    return value


def _tensor(entry: list[Any]) -> Any:
    """A constant as it is; else a reference, whose shape the layer it comes from knows better."""
    if entry[0] == _CONSTANT:
        return entry[2]
    history = [entry[0], int(entry[1]), int(entry[2])]
    config = {"shape": [None], "dtype": "float32", "keras_history": history}
    return {"class_name": "__keras_tensor__", "config": config}
