"""Sequence lengths that are an input, brought into what ONNX's LSTM and GRU take: 0 to the number of steps.

TensorFlow's ``dynamic_rnn`` takes a length beyond the last step for all of them, and a negative one for none;
ONNX Runtime refuses both.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_PASSED_ON = frozenset({"Cast", "Identity"})
_LENGTHS = 4  # operand; https://onnx.ai/onnx/operators/onnx__LSTM.html
_FIRST_OPSET = 12  # in which Min and Max take whole numbers


def clamp_lengths(model: ir.Model) -> int:
    """Clamp the lengths that come from an input, in place; how many recurrent nodes there were."""
    if model.graph.opset_imports.get("", 1) < _FIRST_OPSET:
        return 0
    done = 0
    for number, node in enumerate(list(model.graph)):
        recurrent = node.op_type in _RECURRENT and len(node.inputs) > _LENGTHS
        lengths = node.inputs[_LENGTHS] if recurrent else None
        if lengths is None or not _is_given(lengths, model.graph):
            continue
        steps = _steps(model.graph, node, f"{node.name}_steps{number}")
        most = _emit(model.graph, node, "Min", [lengths, steps], f"{node.name}_most{number}")
        zero = _constant(model.graph, [0], np.int32, f"{node.name}_none{number}")
        node.replace_input_with(
            _LENGTHS, _emit(model.graph, node, "Max", [most, zero], f"{node.name}_lengths{number}")
        )
        done += 1
    return done


def _is_given(value: ir.Value | None, graph: ir.Graph) -> bool:
    while value is not None and (node := value.producer()) is not None and node.op_type in _PASSED_ON:
        value = node.inputs[0]
    return value is not None and any(value is one for one in graph.inputs)


def _steps(graph: ir.Graph, node: ir.Node, name: str) -> ir.Value:
    """int32 [1]: the first dimension of the node's sequences."""
    data = node.inputs[0]
    assert data is not None
    shape = _emit(graph, node, "Shape", [data], f"{name}_shape")
    ends = [_constant(graph, [end], np.int64, f"{name}_end{end}") for end in (0, 1)]
    first = _emit(graph, node, "Slice", [shape, *ends], f"{name}_first")
    return _emit(graph, node, "Cast", [first], name, to=int(ir.DataType.INT32))


def _emit(
    graph: ir.Graph, place: ir.Node, op: str, inputs: list[ir.Value], name: str, **attributes: int
) -> ir.Value:
    node = ir.node(op, inputs, attributes=attributes, name=name)
    node.outputs[0].name = f"{name}:0"
    graph.insert_before(place, node)
    return node.outputs[0]


def _constant(graph: ir.Graph, values: list[int], dtype: type, name: str) -> ir.Value:
    tensor = ir.tensor(np.array(values, dtype), name=name)
    kind = ir.TensorType(tensor.dtype)
    value = ir.Value(name=name, type=kind, shape=ir.Shape([len(values)]), const_value=tensor)
    graph.initializers.add(value)
    return value
