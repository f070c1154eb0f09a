"""Recurrent layers over whole sequences. Their state starts from zero in every run.

TFLite keeps the state in variable tensors, which start from zero and live on until they are reset; a
sequence given whole needs them only inside. ONNX: W [directions, gates · H, D], time first.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from pipeline.sources.tflite_model import Operator
from pipeline.sources.tflite_ops.build import Build

_TANH, _RELU, _SIGMOID = 4, 1, 6  # ActivationFunctionType in schema.fbs and builtin_ops.h
_ACTIVATIONS = {_TANH: "Tanh", _RELU: "Relu", _SIGMOID: "Sigmoid"}


def unidirectional_lstm(build: Build, operator: Operator) -> None:
    """UNIDIRECTIONAL_SEQUENCE_LSTM in floats or with 8-bit weights.

    Operands (tensorflow/lite/kernels/lstm_shared.h): x; weights of input, forget, cell, output gate [H, D];
    recurrent weights [H, H]; peepholes [H]; biases [H]; projection; states; layer normalisation. Without an
    input gate that gate is 1 - forget gate, and 1 - σ(z) = σ(-z).
    """
    _refuse_integers(build, operator)
    if operator.operand(16) is not None:
        build.refuse("a projection of its output is not carried over")
    if any(operator.operand(position) is not None for position in range(20, 24)):
        build.refuse("layer normalisation inside the cell is not carried over")
    if float(operator.option("cellClip", 0.0) or 0.0) > 0.0:
        build.refuse("clipping of the cell state is not carried over")
    gates = {"i": 0, "f": 1, "c": 2, "o": 3}
    order = "iofc"  # https://onnx.ai/onnx/operators/onnx__LSTM.html
    units = _units(build, build.input(operator, 6))
    weight = [_gate(build, operator, 1, gates[gate]) for gate in order]
    recurrent = [_gate(build, operator, 5, gates[gate]) for gate in order]
    bias = [_gate_bias(build, operator, 12, gates[gate], units) for gate in order]
    inputs = [
        _time_first(build, operator),
        _stacked(build, weight),
        _stacked(build, recurrent),
        _with_zeros(build, bias, units * 4),
    ]
    peepholes = _peepholes(build, operator, units)
    value = build.op(
        "LSTM",
        [*inputs, None, None, None, peepholes] if peepholes is not None else inputs,
        hidden_size=units,
        activations=["Sigmoid", _activation(build, operator), _activation(build, operator)],
    )
    _finish(build, operator, value)


def unidirectional_rnn(build: Build, operator: Operator) -> None:
    """UNIDIRECTIONAL_SEQUENCE_RNN(x, weights [H, D], recurrent weights [H, H], bias [H], state)."""
    _refuse_integers(build, operator)
    units = _units(build, build.input(operator, 2))
    bias = [build.get(build.input(operator, 3))]
    inputs = [
        _time_first(build, operator),
        _stacked(build, [build.get(build.input(operator, 1))]),
        _stacked(build, [build.get(build.input(operator, 2))]),
        _with_zeros(build, bias, units),
    ]
    value = build.op("RNN", inputs, hidden_size=units, activations=[_activation(build, operator)])
    _finish(build, operator, value)


def _refuse_integers(build: Build, operator: Operator) -> None:
    if build.is_quantized(build.input(operator, 0)):
        build.refuse("its data are integers; convert the model again with float data (dynamic range)")


def _activation(build: Build, operator: Operator) -> str:
    code = int(operator.option("fusedActivationFunction", _TANH))
    if code not in _ACTIVATIONS:
        build.refuse(f"its activation number {code} is not carried over")
    return _ACTIVATIONS[code]


def _units(build: Build, index: int) -> int:
    units = build.tensor(index).dims[0]
    if units is None:
        build.refuse("the size of its state is not known")
    return units


def _gate(build: Build, operator: Operator, first: int, gate: int) -> ir.Value:
    """Weights of one gate; the input gate's are the forget gate's negated where it is coupled."""
    index = operator.operand(first + gate)
    if index is not None:
        return build.get(index)
    if gate != 0:
        build.refuse(f"operand {first + gate} is missing")
    value: ir.Value = build.op("Neg", [build.get(build.input(operator, first + 1))])
    return value


def _gate_bias(build: Build, operator: Operator, first: int, gate: int, units: int) -> ir.Value:
    if operator.operand(first + gate) is None and operator.operand(first + 1) is None:
        return build.constant(np.zeros(units, np.float32), "bias")
    return _gate(build, operator, first, gate)


def _peepholes(build: Build, operator: Operator, units: int) -> ir.Value | None:
    """[1, 3 · H] in the order input, output, forget."""
    if operator.operand(10) is None:
        return None
    if operator.operand(9) is None:
        build.refuse("peepholes with coupled gates are not carried over")
    parts = [build.get(build.input(operator, position)) for position in (9, 11, 10)]
    flat = build.op("Concat", parts, axis=0)
    value: ir.Value = build.op("Reshape", [flat, build.integers([1, 3 * units])])
    return value


def _stacked(build: Build, parts: list[ir.Value]) -> ir.Value:
    """[gates · H, …] with the axis of directions in front."""
    whole = build.op("Concat", parts, axis=0) if len(parts) > 1 else parts[0]
    value: ir.Value = build.op("Unsqueeze", [whole, build.integers([0])])
    return value


def _with_zeros(build: Build, parts: list[ir.Value], count: int) -> ir.Value:
    """ONNX has a bias of the input and one of the recurrence: [1, 2 · count]."""
    return _stacked(build, [*parts, build.constant(np.zeros(count, np.float32), "no_bias")])


def _time_first(build: Build, operator: Operator) -> ir.Value:
    value = build.get(build.input(operator, 0))
    if operator.option("timeMajor", False):
        return value
    turned: ir.Value = build.op("Transpose", [value], perm=(1, 0, 2))
    return turned


def _finish(build: Build, operator: Operator, value: ir.Value) -> None:
    """[T, 1, B, H] → [B, T, H], or [T, B, H] where time comes first."""
    value = build.op("Squeeze", [value, build.integers([1])])
    if not operator.option("timeMajor", False):
        value = build.op("Transpose", [value], perm=(1, 0, 2))
    build.put(operator.outputs[0], value)
