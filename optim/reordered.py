"""Tensors that a pass left with their channels in another order: which ones, and the way back.

Kept in the model's metadata by tensor name: a name that a pass gives to a reordered tensor keeps that meaning
through all later passes (see ``optim/rewrite.py``). Orders are those of a channel shuffle, [g·n] seen as
[g, n] and turned, so two numbers say them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Array

REORDERED_KEY = "fairlead.reordered"
"""``metadata_props`` key of a model: JSON object, tensor name → [original name, groups, size]."""


@dataclass(frozen=True)
class Reordered:
    """The tensor ``original`` is this one with the channels (axis 1) taken in ``order``."""

    original: str
    order: Array  # int64


def shuffle_order(groups: int, size: int) -> Array:
    """Channel ``order[j]`` of the plain tensor stands in place j of the shuffled one."""
    return np.arange(groups * size).reshape(groups, size).T.reshape(-1)


def note_reordered(model: ir.Model, name: str, original: str, groups: int, size: int) -> None:
    """Remember that ``original`` is the tensor ``name`` shuffled with ``groups`` and ``size``."""
    table = _table(model)
    table[name] = [original, groups, size]
    model.metadata_props[REORDERED_KEY] = json.dumps(table, ensure_ascii=False)


def reordered_tensors(model: ir.Model) -> Mapping[str, Reordered]:
    """Every reordered tensor that the main graph still computes, by its name there.

    A tensor that was reordered twice leads to the name it had first.
    """
    table = _table(model)
    found: dict[str, Reordered] = {}
    for node in model.graph:
        for value in node.outputs:
            if value.name in table:
                found[value.name] = _followed(value.name, table)
    return found


def _followed(name: str, table: Mapping[str, list[str | int]]) -> Reordered:
    original, groups, size = table[name]
    order = shuffle_order(int(groups), int(size))
    seen = {name}
    while str(original) in table and str(original) not in seen:
        seen.add(str(original))
        original, groups, size = table[str(original)]
        order = order[shuffle_order(int(groups), int(size))]
    return Reordered(str(original), order)


def _table(model: ir.Model) -> dict[str, list[str | int]]:
    text = model.metadata_props.get(REORDERED_KEY)
    table: dict[str, list[str | int]] = {} if text is None else json.loads(text)
    return table
