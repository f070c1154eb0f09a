"""A mean over a large map → the mean of each row, then the mean of those.

Where a runtime adds float32 values one after another, the sum of n equal ones drifts by some n/2 roundings,
all to one side: over 112×112 that is a hundred times what each row's sum and the sum of rows lose.
The same in real arithmetic; in float32 nearer to the truth.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import onnx_ir as ir

from optim.facts import axes_of, dims, int_attribute

MOST_TERMS: Final = 256  # of a sum in float32, one after another
_AXES_ARE_AN_INPUT: Final = 18  # the opset from which ReduceMean takes them so


def split_long_means(model: ir.Model, opset: int) -> int:
    """Split, in place, every mean over several axes of more than 256 elements; how many there were."""
    found = [(node, axes) for node in model.graph if (axes := _long_axes(node))]
    for node, axes in found:
        *others, last = axes
        keep = 1 if node.op_type != "ReduceMean" else int_attribute(node, "keepdims", 1)
        rows, row_nodes = _mean(model, node, node.inputs[0], [last], keep, opset, "rows")
        result, nodes = _mean(model, node, rows, others, keep, opset, "mean")
        old = node.outputs[0]
        result.name, result.type, result.shape = old.name, old.type, old.shape
        model.graph.insert_before(node, [*row_nodes, *nodes])
        old.replace_all_uses_with(result, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
    return len(found)


def _long_axes(node: ir.Node) -> list[int]:
    """The axes, ascending, that a mean worth splitting is taken over; else none."""
    shape = dims(node.inputs[0]) if node.inputs else None
    if (
        shape is None
        or node.op_type not in ("ReduceMean", "GlobalAveragePool")
        or node.domain not in ("", "ai.onnx")
    ):
        return []
    given = axes_of(node) if node.op_type == "ReduceMean" else tuple(range(2, len(shape)))
    axes = sorted({a % len(shape) for a in given or ()})
    sizes = [shape[a] for a in axes]
    if len(axes) < 2 or not all(isinstance(d, int) for d in sizes):
        return []
    return axes if math.prod(d for d in sizes if isinstance(d, int)) > MOST_TERMS else []


def _mean(
    model: ir.Model, node: ir.Node, x: ir.Value | None, axes: list[int], keep: int, opset: int, part: str
) -> tuple[ir.Value, list[ir.Node]]:
    name = f"{node.name or node.outputs[0].name}_{part}"
    inputs = [x]
    attributes: dict[str, int | list[int]] = {"keepdims": keep}
    if opset >= _AXES_ARE_AN_INPUT:
        value = ir.Value(
            name=f"{name}_axes", const_value=ir.tensor(np.asarray(axes, np.int64), name=f"{name}_axes")
        )
        model.graph.register_initializer(value)
        inputs.append(value)
    else:
        attributes["axes"] = axes
    made = ir.node("ReduceMean", inputs, attributes=attributes, name=name)
    made.outputs[0].name = f"{name}_out"
    return made.outputs[0], [made]
