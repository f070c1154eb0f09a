"""A TFLite flatbuffer as plain records: tensors, operators, quantisation, sparsity undone.

Schema: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from optim.contract import Array
from optim.errors import MissingRuntimeError, UnsupportedModelError, UserError
from pipeline.sources.tflite_sparse import densify

_IDENTIFIER = b"TFL3"
_DTYPES: dict[str, Any] = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "BFLOAT16": ml_dtypes.bfloat16,
    "FLOAT64": np.float64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "BOOL": np.bool_,
    "INT4": np.int8,  # unpacked when read
}


# Operator → the options that number the subgraphs it runs.
_CALLS = {
    "CALL": ("subgraph",),
    "CALL_ONCE": ("initSubgraphIndex",),
    "IF": ("thenSubgraphIndex", "elseSubgraphIndex"),
    "STABLEHLO_COMPOSITE": ("decompositionSubgraphIndex",),
    "WHILE": ("condSubgraphIndex", "bodySubgraphIndex"),
}


@dataclass(frozen=True)
class Quantization:
    """real = scale · (stored - zero_point), one pair for the tensor or one for each index along ``axis``."""

    scales: Array  # float32 [n]
    zero_points: Array  # int64 [n]
    axis: int

    @property
    def per_tensor(self) -> bool:
        """Whether one pair serves the whole tensor."""
        return self.scales.size == 1

    def reals(self, stored: Array) -> Array:
        """What the integers ``stored`` stand for, as float32."""
        shape = [1] * stored.ndim
        if not self.per_tensor:
            shape[self.axis] = -1
        scales, zero_points = self.scales.reshape(shape), self.zero_points.reshape(shape)
        if stored.ndim == 0:
            scales, zero_points = self.scales.reshape(()), self.zero_points.reshape(())
        reals: Array = ((stored.astype(np.float64) - zero_points) * scales).astype(np.float32)
        return reals

    def same_as(self, other: Quantization | None) -> bool:
        """Whether both put the same reals on the same integers."""
        return (
            other is not None
            and np.array_equal(self.scales, other.scales)
            and np.array_equal(self.zero_points, other.zero_points)
        )


@dataclass(frozen=True)
class Tensor:
    """One tensor of a subgraph. ``dims`` has None where the shape signature leaves a dimension free."""

    index: int
    name: str
    dims: tuple[int | None, ...]
    dtype: np.dtype[Any]
    data: Array | None
    quantization: Quantization | None
    variable: bool = False

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.dims)


@dataclass(frozen=True)
class Operator:
    """One operator: builtin name (or the custom op's own), operands by tensor index (-1: absent), options."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any  # the schema's options object, None where the operator has none
    custom: bool = False

    def option(self, key: str, default: Any = None) -> Any:
        """Option ``key`` (the schema's camelCase), or ``default``."""
        return default if self.options is None else getattr(self.options, key, default)

    def called(self) -> tuple[int, ...]:
        """Numbers of the subgraphs that it runs."""
        keys = _CALLS.get(self.name, ())
        return () if self.custom else tuple(int(self.option(key, -1)) for key in keys)

    def operand(self, position: int) -> int | None:
        """Tensor index of input ``position``, None where it is absent."""
        if position < len(self.inputs) and self.inputs[position] >= 0:
            return self.inputs[position]
        return None


@dataclass(frozen=True)
class Subgraph:
    """Tensors and operators in execution order."""

    name: str
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: tuple[Operator, ...]


@dataclass(frozen=True)
class TfliteModel:
    """A whole file; the first subgraph is the entry."""

    subgraphs: tuple[Subgraph, ...]
    description: str

    @property
    def main(self) -> Subgraph:
        """The entry graph."""
        return self.subgraphs[0]

    def reachable(self) -> tuple[int, ...]:
        """Numbers of the subgraphs that the entry runs, itself first: loops, branches and calls name them."""
        found = [0]
        for number in found:
            for operator in self.subgraphs[number].operators:
                found += [n for n in operator.called() if n not in found]
        return tuple(dict.fromkeys(found))


def load_tflite(path: Path) -> TfliteModel:
    """Read ``path``.

    Raises:
        UserError: no such file, not TFLite, or damaged.
        UnsupportedModelError: an element type that ONNX has no counterpart for.
        MissingRuntimeError: the flatbuffer schema is not installed.
    """
    if not path.is_file():
        raise UserError("no such file", where=str(path), expected="a .tflite file")
    return parse_tflite(path.read_bytes(), path)


def parse_tflite(content: bytes, path: Path) -> TfliteModel:
    """``load_tflite`` of bytes already read from ``path``."""
    if content[4:8] != _IDENTIFIER:
        raise UserError(
            "is no TFLite model", where=str(path), expected="a flatbuffer with the identifier TFL3"
        )
    schema = flatbuffer_schema()
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
        types = {v: k for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
        subgraphs = tuple(_subgraph(graph, model, content, names, types) for graph in model.subgraphs)
        _check_indices(subgraphs)
    except (UserError, UnsupportedModelError):
        raise
    except Exception as error:  # a damaged flatbuffer fails in any way: struct.error, IndexError, TypeError
        raise UserError(
            f"the flatbuffer is damaged ({type(error).__name__}: {error})",
            where=str(path),
            hint="copy or export the file again",
        ) from error
    if not subgraphs or not subgraphs[0].outputs:
        raise UserError("holds no graph with outputs", where=str(path))
    return TfliteModel(subgraphs, _text(model.description))


def flatbuffer_schema() -> Any:
    """The generated schema module, from LiteRT or TensorFlow."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        try:
            from tensorflow.lite.python import schema_py_generated
        except ImportError as error:
            raise MissingRuntimeError(str(error), hint="pip install 'fairlead[litert]'") from error
    return schema_py_generated


def _text(value: bytes | str | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def _numbers(values: Any, dtype: Any) -> Array:
    return np.asarray([] if values is None else values, dtype)


def _indices(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in _numbers(values, np.int64))


def _subgraph(
    graph: Any, model: Any, content: bytes, names: dict[int, str], types: dict[int, str]
) -> Subgraph:
    tensors = tuple(_tensor(i, t, model, content, types) for i, t in enumerate(graph.tensors or ()))
    operators = tuple(_operator(i, o, model, names) for i, o in enumerate(graph.operators or ()))
    return Subgraph(_text(graph.name), tensors, _indices(graph.inputs), _indices(graph.outputs), operators)


def _operator(index: int, operator: Any, model: Any, names: dict[int, str]) -> Operator:
    code = model.operatorCodes[operator.opcodeIndex]
    # Files before 2020 hold only the 8-bit code; newer ones put 127 there for larger codes.
    builtin = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
    custom = builtin == "CUSTOM"
    options = operator.builtinOptions if operator.builtinOptions is not None else operator.builtinOptions2
    return Operator(
        index=index,
        name=_text(code.customCode) if custom else builtin,
        inputs=_indices(operator.inputs),
        outputs=_indices(operator.outputs),
        options=_numbers(operator.customOptions, np.uint8).tobytes() if custom else options,
        custom=custom,
    )


def _tensor(index: int, tensor: Any, model: Any, content: bytes, types: dict[int, str]) -> Tensor:
    name = _text(tensor.name)
    kind = types[tensor.type]
    shape = _indices(tensor.shape)
    signature = _indices(tensor.shapeSignature)
    dims = tuple(None if d < 0 else d for d in (signature if len(signature) == len(shape) else shape))
    raw = _buffer(tensor.buffer, model, content)
    if kind not in _DTYPES:
        if raw is None and kind in ("RESOURCE", "VARIANT", "STRING", "COMPLEX64", "COMPLEX128"):
            return Tensor(index, name, dims, np.dtype(object), None, None)
        raise UnsupportedModelError(f"tensor {name!r} has element type {kind}", where=name)
    dtype = np.dtype(_DTYPES[kind])
    data = None
    if raw is not None:
        sparsity = tensor.sparsity
        flat = _unpack_int4(raw) if kind == "INT4" else raw.view(dtype)
        if sparsity is not None:
            data = densify(flat, sparsity, shape)
        else:
            count = int(np.prod(shape, dtype=np.int64))
            if flat.size < count:
                raise UserError(f"tensor {name!r} holds {flat.size} elements, its shape needs {count}")
            data = flat[:count].reshape(shape)
    elif any(d < 0 for d in shape):
        raise UserError(f"tensor {name!r} has a negative dimension: {shape}")
    return Tensor(index, name, dims, dtype, data, _quantization(tensor.quantization), bool(tensor.isVariable))


def _buffer(index: int, model: Any, content: bytes) -> Array | None:
    """Bytes of buffer ``index``; buffer 0 is empty by convention, large ones lie behind the flatbuffer."""
    if index == 0:
        return None
    buffer = model.buffers[index]
    if buffer.offset and buffer.offset > 1:
        end = buffer.offset + buffer.size
        if end > len(content):
            raise UserError(f"buffer {index} reaches beyond the end of the file")
        return np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
    if buffer.data is None or len(buffer.data) == 0:
        return None
    return np.ascontiguousarray(_numbers(buffer.data, np.uint8))


def _unpack_int4(raw: Array) -> Array:
    """Two elements a byte, low nibble first, as int8 (which holds every int4)."""
    low = (raw << 4).view(np.int8) >> 4
    high = raw.view(np.int8) >> 4
    return np.stack([low, high], axis=1).reshape(-1)


def _quantization(parameters: Any) -> Quantization | None:
    if parameters is None or parameters.scale is None or len(parameters.scale) == 0:
        return None
    scales = _numbers(parameters.scale, np.float32)
    zero_points = _numbers(parameters.zeroPoint, np.int64)
    if zero_points.size == 0:
        zero_points = np.zeros(scales.size, np.int64)
    if zero_points.size == 1 and scales.size > 1:
        zero_points = np.repeat(zero_points, scales.size)
    if zero_points.size != scales.size:
        raise UserError("a quantised tensor holds unequal numbers of scales and zero points")
    return Quantization(scales, zero_points, int(parameters.quantizedDimension))


def _check_indices(subgraphs: tuple[Subgraph, ...]) -> None:
    for graph in subgraphs:
        used = {*graph.inputs, *graph.outputs}
        for operator in graph.operators:
            used |= {*operator.inputs, *operator.outputs} - {-1}
        if any(not 0 <= index < len(graph.tensors) for index in used):
            raise UserError("an operator names a tensor that does not exist")
        for operator in graph.operators:
            if any(not 0 <= number < len(subgraphs) for number in operator.called()):
                raise UserError(f"operator {operator.name} names a subgraph that does not exist")
