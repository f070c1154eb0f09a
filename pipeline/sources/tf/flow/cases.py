"""Switches of many outputs → chains of Switch and Merge, in place.

A ``_SwitchN``, which ``flatten`` makes of a Case, sends its value to the output that an index names, and to
the last where the index names none.
"""

from __future__ import annotations

import numpy as np

from pipeline.sources.tf.flow.shapes import loop_merges
from pipeline.sources.tf.graph import (
    GraphDef,
    data_inputs,
    input_name,
    make_constant,
    make_identity,
    rename_inputs,
)

_INT32 = 3  # DT_INT32, tensorflow/core/framework/types.proto


def chain_switches(graph_def: GraphDef) -> None:
    """Write out every switch of many outputs and every Merge of more than two operands."""
    tests: dict[tuple[str, int], str] = {}
    renamed: dict[str, str] = {}
    for node in [one for one in graph_def.node if one.op == "_SwitchN"]:
        value, index = data_inputs(node)
        kind, count, name = node.attr["T"].type, node.attr["num_outs"].i, node.name
        for way in range(count - 1):
            made = graph_def.node.add()
            made.name, made.op = f"{name}/way{way}", "Switch"
            made.input.extend([input_name(value), _test(graph_def, index, way, tests)])
            made.attr["T"].type = kind
            renamed[f"{name}:{way}"] = f"{made.name}:1"
            value = f"{made.name}:0"
        renamed[f"{name}:{count - 1}"] = value
        make_identity(node, value, kind)
    loops = loop_merges(graph_def)
    for node in [one for one in graph_def.node if one.op == "Merge" and one.name not in loops]:
        operands, kind = data_inputs(node), node.attr["T"].type
        if len(operands) <= 2:
            continue
        last = operands[-1]
        for way in range(len(operands) - 2, 0, -1):
            made = graph_def.node.add()
            made.name, made.op = f"{node.name}/from{way}", "Merge"
            made.input.extend([input_name(last), input_name(operands[way])])
            made.attr["T"].type, made.attr["N"].i = kind, 2
            last = f"{made.name}:0"
        node.input[:] = [input_name(last), input_name(operands[0])]
        node.attr["N"].i = 2
    rename_inputs(graph_def, renamed)
    _rename_controls(graph_def, {name.rpartition(":")[0] for name in renamed})


def _test(graph_def: GraphDef, index: str, way: int, tests: dict[tuple[str, int], str]) -> str:
    """A node that says whether ``index`` is ``way``."""
    if (index, way) not in tests:
        stem = f"{index.replace(':', '_')}/is{way}"
        number = graph_def.node.add()
        number.name = f"{stem}/way"
        make_constant(number, np.asarray(way, np.int32), _INT32)
        made = graph_def.node.add()
        made.name, made.op = stem, "Equal"
        made.input.extend([input_name(index), number.name])
        made.attr["T"].type = _INT32
        tests[index, way] = stem
    return tests[index, way]


def _rename_controls(graph_def: GraphDef, switches: set[str]) -> None:
    """No control edge hangs on a switch itself, which has become the last branch's value."""
    for node in graph_def.node:
        node.input[:] = [
            text for text in node.input if text.removeprefix("^") not in switches or text[0] != "^"
        ]
