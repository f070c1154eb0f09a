"""The ONNX graph under construction, and what each TFLite tensor has become in it.

A tensor of rank 4 is held in TFLite's layout (N, H, W, C), in ONNX's (N, C, H, W), or in both: an operator
asks for the one it works in, and a Transpose is made only where the other one is all there is. A quantised
tensor is held as the reals it stands for, after QuantizeLinear and DequantizeLinear, and half precision
as float32.

Nodes are written in forms of opset 13 (``OPSET``); :mod:`pipeline.sources.onnx_upgrade` takes them further.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.errors import UnsupportedModelError
from pipeline.sources.tflite_model import Operator, Quantization, Subgraph, Tensor

OPSET = 13
TO_NCHW, TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
_QUANTIZED = (np.dtype(np.int8), np.dtype(np.uint8))


@dataclass
class Held:
    """What stands for one TFLite tensor; at least one of the two layouts is set."""

    source: ir.Value | None = None  # in TFLite's layout
    channels_first: ir.Value | None = None  # [N, C, H, W]
    imaginary: ir.Value | None = None  # of a complex tensor, whose real part is ``source``


Handler: TypeAlias = "Callable[[Build, Operator], None]"


@dataclass
class Build:
    """One subgraph on its way to ONNX.

    Control flow builds other subgraphs of the file: ``inside`` makes a child that writes nodes of its own,
    or the parent's, and shares names and constants with it. Constants always live in the entry graph.
    """

    subgraph: Subgraph
    subgraphs: tuple[Subgraph, ...] = ()
    handlers: Mapping[str, Handler] = field(default_factory=dict)
    active: tuple[int, ...] = ()  # subgraphs that are being built around this one
    nodes: list[ir.Node] = field(default_factory=list)
    initializers: dict[str, ir.Value] = field(default_factory=dict)
    held: dict[int, Held] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    current: Operator | None = None
    _claimed: set[ir.Value] = field(default_factory=set)
    _constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = field(default_factory=dict)

    # --- subgraphs ---------------------------------------------------------------------------

    def inside(self, number: int, *, in_place: bool = False) -> Build:
        """A build of subgraph ``number``; ``in_place``: its nodes join this one's."""
        if number in self.active or not 0 <= number < len(self.subgraphs):
            self.refuse(f"subgraph {number} does not exist or calls itself")
        return Build(
            self.subgraphs[number],
            subgraphs=self.subgraphs,
            handlers=self.handlers,
            active=(*self.active, number),
            nodes=self.nodes if in_place else [],
            initializers=self.initializers,
            names=self.names,
            notes=self.notes,
            _constants=self._constants,
        )

    def run(self) -> None:
        """Write every operator of the subgraph."""
        for operator in self.subgraph.operators:
            self.current = operator
            self.handlers[operator.name](self, operator)

    # --- questions ---------------------------------------------------------------------------

    def tensor(self, index: int) -> Tensor:
        """Tensor ``index`` of the subgraph."""
        return self.subgraph.tensors[index]

    def input(self, operator: Operator, position: int) -> int:
        """Tensor index of a required operand."""
        index = operator.operand(position)
        if index is None:
            self.refuse(f"operand {position} is missing")
        return index

    def constant_of(self, index: int | None) -> Array | None:
        """The stored array of a constant tensor, as it is in the file."""
        if index is None:
            return None
        data = self._stored(index)
        if data is not None:
            return data
        held = self.held.get(index)
        if held is not None and held.source is not None and held.source.const_value is not None:
            return held.source.const_value.numpy()
        return None

    def integers_of(self, index: int | None) -> tuple[int, ...] | None:
        """A constant tensor as a flat tuple of integers."""
        data = self.constant_of(index)
        return None if data is None else tuple(int(value) for value in data.reshape(-1))

    def is_constant(self, index: int) -> bool:
        """Whether the tensor is known at conversion."""
        return self.constant_of(index) is not None

    def is_quantized(self, index: int) -> bool:
        """Whether the tensor holds small integers that stand for reals."""
        tensor = self.tensor(index)
        return tensor.quantization is not None and tensor.dtype.kind in "iu" and tensor.dtype.itemsize <= 2

    def static(self, index: int) -> tuple[int, ...] | None:
        """Dimensions where all are known."""
        dims = self.tensor(index).dims
        return None if any(d is None for d in dims) else tuple(d for d in dims if d is not None)

    def prefers_channels_first(self, index: int) -> bool:
        """Whether the tensor came out of an ONNX operator in N, C, H, W."""
        held = self.held.get(index)
        return held is not None and held.channels_first is not None

    def place(self, operator: Operator) -> str:
        """How messages name an operator: its first output, as TFLite's operators have no names."""
        name = self.tensor(operator.outputs[0]).name if operator.outputs else ""
        return name or f"operator {operator.index}"

    def refuse(self, reason: str) -> NoReturn:
        """Stop at the operator in hand."""
        operator = self.current
        name = "" if operator is None else operator.name
        place = "" if operator is None else self.place(operator)
        raise UnsupportedModelError(
            f"TFLite operator {name}: {reason}", where=place, op=name, node=place, layer=place
        )

    # --- values ------------------------------------------------------------------------------

    def get(self, index: int) -> ir.Value:
        """The tensor in TFLite's layout; reals where it is quantised."""
        held = self._held(index)
        if held.source is None:
            assert held.channels_first is not None
            held.source = self.op("Transpose", [held.channels_first], perm=TO_NHWC)
            self._name_after(held.source, index)
        return held.source

    def get_channels_first(self, index: int) -> ir.Value:
        """A rank-4 tensor as [N, C, H, W]."""
        held = self._held(index)
        if held.channels_first is None:
            data = self.tensor(index).data
            if data is not None and not self.is_quantized(index):
                held.channels_first = self.constant(np.transpose(data, TO_NCHW))
            else:
                held.channels_first = self.op("Transpose", [self.get(index)], perm=TO_NCHW)
        return held.channels_first

    def put(self, index: int, value: ir.Value, *, on_grid_of: int | None = None) -> None:
        """``value`` is tensor ``index`` in TFLite's layout; rounds it where the tensor is quantised.

        ``on_grid_of`` names an operand whose elements are passed on unchanged: with equal quantisation there
        is nothing to round.
        """
        value = self._rounded(index, value, on_grid_of)
        self.held[index] = Held(source=value)
        self._name_after(value, index)

    def put_channels_first(self, index: int, value: ir.Value, *, on_grid_of: int | None = None) -> None:
        """``value`` is tensor ``index`` as [N, C, H, W]."""
        self.held[index] = Held(channels_first=self._rounded(index, value, on_grid_of))

    def put_held(self, index: int, value: ir.Value) -> None:
        """``value`` is tensor ``index`` in TFLite's layout, on its grid already."""
        self.held[index] = Held(source=value)
        self._name_after(value, index)

    def held_type(self, index: int) -> ir.TensorType:
        """The ONNX type in which tensor ``index`` is held: reals for quantised and half-precision ones."""
        dtype = self.tensor(index).dtype
        real = self.is_quantized(index) or dtype == np.float16
        return ir.TensorType(ir.DataType.FLOAT if real else ir.DataType.from_numpy(dtype))

    def constant(self, array: Array, what: str = "const") -> ir.Value:
        """An initializer holding ``array``; equal small ones are shared."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 64 else None
        if key is not None and key in self._constants:
            return self._constants[key]
        name = self.unique(f"{self.base}/{what}")
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
        value.const_value = tensor
        self.initializers[name] = value
        if key is not None:
            self._constants[key] = value
        return value

    def integers(self, values: Sequence[int], what: str = "ints") -> ir.Value:
        """An int64 vector initializer."""
        return self.constant(np.asarray(values, np.int64).reshape(-1), what)

    def real(self, number: float, what: str = "real") -> ir.Value:
        """A float32 scalar initializer."""
        return self.constant(np.asarray(number, np.float32), what)

    def int64(self, index: int) -> ir.Value:
        """An integer tensor as int64, as ONNX wants shapes and indices."""
        data = self.constant_of(index)
        if data is not None:
            return self.constant(data.astype(np.int64), "int64")
        value = self.get(index)
        if self.tensor(index).dtype == np.int64:
            return value
        return self.op("Cast", [value], to=int(ir.DataType.INT64))

    def op(self, op_type: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """A new node with one output; attributes that are None are left out."""
        return self.ops(op_type, inputs, 1, **attributes)[0]

    def ops(
        self, op_type: str, inputs: Sequence[ir.Value | None], count: int, **attributes: Any
    ) -> tuple[ir.Value, ...]:
        """A new node with ``count`` outputs."""
        given = {key: value for key, value in attributes.items() if value is not None}
        node = ir.node(op_type, inputs, given, num_outputs=count)
        node.name = self.unique(f"{self.base}/{op_type}")
        for output in node.outputs:
            output.name = self.unique(f"{node.name}:0")
        self.nodes.append(node)
        return tuple(node.outputs)

    def elementwise(
        self,
        operands: Sequence[int],
        output: int,
        emit: Callable[[list[ir.Value]], ir.Value],
    ) -> None:
        """An operator that works element by element: done in whichever layout its operands are held."""
        free = [index for index in operands if not self.is_constant(index)]
        alike = all(self.tensor(index).rank == 4 for index in free)
        rank = self.tensor(output).rank
        first = rank == 4 and alike and any(self.prefers_channels_first(index) for index in free)
        if not first:
            self.put(output, emit([self.get(index) for index in operands]))
            return
        self.put_channels_first(output, emit([self._aligned(index) for index in operands]))

    def unique(self, base: str) -> str:
        """``base``, or with a counter where it is taken; reserved from now on."""
        name, count = base, 1
        while name in self.names:
            name, count = f"{base}_{count}", count + 1
        self.names.add(name)
        return name

    # --- inside ------------------------------------------------------------------------------

    def _stored(self, index: int) -> Array | None:
        """A constant's array; one without elements has no buffer in the file, like what operators make."""
        tensor = self.tensor(index)
        if tensor.data is not None or 0 not in tensor.dims or index in self.held or tensor.variable:
            return tensor.data
        made = {i for operator in self.subgraph.operators for i in operator.outputs}
        if index in made or index in self.subgraph.inputs or None in tensor.dims:
            return None
        return np.zeros([size or 0 for size in tensor.dims], tensor.dtype)

    def _held(self, index: int) -> Held:
        if index in self.held:
            return self.held[index]
        tensor = self.tensor(index)
        stored = self._stored(index)
        if stored is None:
            if tensor.variable:
                self.refuse(f"it keeps state in the variable tensor {tensor.name!r}")
            self.refuse(f"its operand {tensor.name!r} has no value yet")
        value = (
            self.dequantized_constant(index) if self.is_quantized(index) else self.constant(_plain(stored))
        )
        self.held[index] = Held(source=value)
        return self.held[index]

    def dequantized_constant(
        self,
        index: int,
        transform: Callable[[Array], Array] = lambda a: a,
        axis: int | None = None,
        gain: Array | None = None,
    ) -> ir.Value:
        """A quantised constant as DequantizeLinear of its integers, after ``transform`` moved its axes.

        ``axis`` is where ``transform`` moved the quantised dimension; None: it stays where it is. ``gain``
        multiplies the scales [1 or as many as there are].
        """
        tensor = self.tensor(index)
        quantization = tensor.quantization
        assert quantization is not None and tensor.data is not None
        if gain is not None:
            scales = (quantization.scales * gain).astype(np.float32)
            zero_points = np.broadcast_to(quantization.zero_points, scales.shape)
            quantization = Quantization(scales, zero_points, quantization.axis)
        stored = transform(_plain(tensor.data))
        if stored.dtype not in _QUANTIZED or np.any(quantization.scales <= 0):
            scales, zero_points = self._spread(quantization, stored.ndim, axis)
            return self.constant(((stored.astype(np.float64) - zero_points) * scales).astype(np.float32))
        return self.dequantize(self.constant(stored, "stored"), stored.dtype, quantization, axis)

    def dequantize(
        self, value: ir.Value, dtype: np.dtype[Any], quantization: Quantization, axis: int | None = None
    ) -> ir.Value:
        """DequantizeLinear; ``dtype`` is the element type of ``value`` (int8, uint8 or int32)."""
        scale, zero_point = self._parameters(dtype, quantization)
        inputs = [value, scale] if dtype == np.int32 else [value, scale, zero_point]
        along = None if quantization.per_tensor else quantization.axis if axis is None else axis
        return self.op("DequantizeLinear", inputs, axis=along)

    def quantize(self, value: ir.Value, dtype: np.dtype[Any], quantization: Quantization) -> ir.Value:
        """QuantizeLinear to int8 or uint8."""
        scale, zero_point = self._parameters(dtype, quantization)
        return self.op("QuantizeLinear", [value, scale, zero_point])

    def round_to_grid(self, value: ir.Value, dtype: np.dtype[Any], quantization: Quantization) -> ir.Value:
        """int16 has no QuantizeLinear before opset 21: scale · clip(round(x / scale)), zero point 0."""
        if not quantization.per_tensor or np.any(quantization.zero_points != 0):
            self.refuse("a 16-bit tensor has a zero point or a scale for each channel")
        bounds = np.iinfo(dtype)
        scale = self.real(float(quantization.scales[0]), "scale")
        steps = self.op("Round", [self.op("Div", [value, scale])])
        lowest, highest = self.real(bounds.min), self.real(bounds.max)
        return self.op("Mul", [self.op("Clip", [steps, lowest, highest]), scale])

    def _rounded(self, index: int, value: ir.Value, on_grid_of: int | None) -> ir.Value:
        tensor = self.tensor(index)
        quantization = tensor.quantization
        if quantization is None or not self.is_quantized(index):
            return value
        if on_grid_of is not None:
            origin = self.tensor(on_grid_of)
            if origin.dtype == tensor.dtype and quantization.same_as(origin.quantization):
                return value
        if tensor.dtype not in _QUANTIZED:
            return self.round_to_grid(value, tensor.dtype, quantization)
        return self.dequantize(self.quantize(value, tensor.dtype, quantization), tensor.dtype, quantization)

    def _parameters(self, dtype: np.dtype[Any], quantization: Quantization) -> tuple[ir.Value, ir.Value]:
        scales, zero_points = quantization.scales, quantization.zero_points.astype(dtype)
        if quantization.per_tensor:
            scales, zero_points = scales.reshape(()), zero_points.reshape(())
        return self.constant(scales, "scale"), self.constant(zero_points, "zero_point")

    @staticmethod
    def _spread(quantization: Quantization, rank: int, axis: int | None) -> tuple[Array, Array]:
        if quantization.per_tensor:
            return quantization.scales.astype(np.float64), quantization.zero_points
        shape = [1] * rank
        shape[quantization.axis if axis is None else axis] = -1
        return quantization.scales.astype(np.float64).reshape(shape), quantization.zero_points.reshape(shape)

    def _aligned(self, index: int) -> ir.Value:
        """An operand of a channels-first operator; a constant's channels move to axis 1."""
        tensor = self.tensor(index)
        if tensor.rank == 4:
            return self.get_channels_first(index)
        if tensor.rank == 0 or all(d == 1 for d in tensor.dims):
            return self.get(index)
        data = self.constant_of(index)
        assert data is not None
        wide = (1,) * (4 - data.ndim) + data.shape
        if self.is_quantized(index):
            shaped = self.op("Reshape", [self.get(index), self.integers(wide)])
            return self.op("Transpose", [shaped], perm=TO_NCHW)
        return self.constant(np.transpose(data.reshape(wide), TO_NCHW))

    def _name_after(self, value: ir.Value, index: int) -> None:
        """Give a freshly made value the TFLite tensor's own name, where it is free."""
        name = self.tensor(index).name
        node = value.producer()
        if not name or name in self.names or node is None or value in self._claimed:
            return
        self.names.add(name)
        self._claimed.add(value)
        value.name = name

    @property
    def base(self) -> str:
        """The start of names of what the operator in hand makes."""
        operator = self.current
        if operator is None or not operator.outputs:
            return "tflite"
        return self.tensor(operator.outputs[0]).name or f"{operator.name}_{operator.index}"


def _plain(array: Array) -> Array:
    """Half-precision weights as float32: what TFLite's own Dequantize makes of them."""
    half = array.dtype.itemsize == 2 and array.dtype.kind not in "iu"
    return array.astype(np.float32) if half else array
