"""TFLite files of one operator, written with the flatbuffer schema and sized by the interpreter itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {
    "float32": 0,
    "float16": 1,
    "int32": 2,
    "uint8": 3,
    "int64": 4,
    "bool": 6,
    "int16": 7,
    "int8": 9,
}


@dataclass
class Operand:
    """A tensor: constant where ``data`` is set; quantised where ``scales`` are."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    data: np.ndarray | None = None
    scales: Sequence[float] = ()
    zero_points: Sequence[int] = ()
    axis: int = 0
    signature: tuple[int, ...] | None = None
    variable: bool = False
    sparse: bool = False  # stored as compressed rows


@dataclass
class OneOp:
    """One operator with its operands in order; None stands for an absent one."""

    op: str
    operands: Sequence[Operand | None]
    outputs: Sequence[Operand]
    options: str = ""  # the schema's name without "Options"
    values: Mapping[str, Any] = field(default_factory=dict)
    custom: str = ""
    custom_options: bytes = b""


def write(case: OneOp, path: Path) -> Path:
    """Write ``case``; output shapes are what the interpreter makes them."""
    path.write_bytes(_pack(case))
    interpreter = _interpreter(path)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], np.ones(detail["shape"], detail["dtype"]))
    interpreter.invoke()
    for output, detail in zip(case.outputs, interpreter.get_output_details(), strict=True):
        output.shape = tuple(int(d) for d in interpreter.get_tensor(detail["index"]).shape)
    path.write_bytes(_pack(case))
    return path


def write_unchecked(case: OneOp, path: Path) -> Path:
    """Write ``case`` as it stands."""
    path.write_bytes(_pack(case))
    return path


def _interpreter(path: Path) -> Any:
    from ai_edge_litert import interpreter

    kernels = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return interpreter.Interpreter(str(path), experimental_op_resolver_type=kernels)


def _pack(case: OneOp) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version = 3
    model.description = "one operator"
    empty = schema.BufferT()
    model.buffers = [empty]
    graph = schema.SubGraphT()
    graph.name, graph.tensors = "main", []
    given = [operand for operand in case.operands if operand is not None]
    index: dict[int, int] = {}
    for operand in [*given, *case.outputs]:
        if id(operand) not in index:
            index[id(operand)] = len(graph.tensors)
            graph.tensors.append(_tensor(schema, model, operand))
    operator = schema.OperatorT()
    operator.opcodeIndex = 0
    operator.inputs = [-1 if operand is None else index[id(operand)] for operand in case.operands]
    operator.outputs = [index[id(operand)] for operand in case.outputs]
    if case.custom_options:
        operator.customOptions = np.frombuffer(case.custom_options, np.uint8)
    if case.options:
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, f"{case.options}Options")
        operator.builtinOptions = getattr(schema, f"{case.options}OptionsT")()
        for key, value in case.values.items():
            if key == "_version":
                continue
            setattr(operator.builtinOptions, key, value)
    code = schema.OperatorCodeT()
    number = getattr(schema.BuiltinOperator, case.op)
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), _version(case)
    if case.custom:
        code.customCode = case.custom
    model.operatorCodes = [code]
    graph.operators = [operator]
    graph.inputs = [
        index[id(o)] for o in dict.fromkeys(map(id, given)) for o in [_by_id(given, o)] if _fed(o)
    ]
    graph.outputs = list(operator.outputs)
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _by_id(operands: Sequence[Operand], key: int) -> Operand:
    return next(operand for operand in operands if id(operand) == key)


def _fed(operand: Operand) -> bool:
    return operand.data is None and not operand.variable


def _version(case: OneOp) -> int:
    return int(case.values.get("_version", 1))


def _tensor(schema: Any, model: Any, operand: Operand) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type = operand.name, list(operand.shape), TYPES[operand.dtype]
    tensor.buffer, tensor.isVariable = 0, operand.variable
    if operand.signature is not None:
        tensor.shapeSignature = list(operand.signature)
    if operand.data is not None:
        buffer = schema.BufferT()
        stored = np.ascontiguousarray(operand.data.astype(operand.dtype))
        if operand.sparse:
            tensor.sparsity = _compressed_rows(schema, stored)
            stored = stored[stored != 0]
        buffer.data = np.frombuffer(stored.tobytes(), np.uint8)
        tensor.buffer = len(model.buffers)
        model.buffers.append(buffer)
    if len(operand.scales):
        quantization = schema.QuantizationParametersT()
        quantization.scale = [float(s) for s in operand.scales]
        zero_points = operand.zero_points or [0] * len(operand.scales)
        quantization.zeroPoint = [int(z) for z in zero_points]
        quantization.quantizedDimension = operand.axis
        tensor.quantization = quantization
    return tensor


def _compressed_rows(schema: Any, matrix: np.ndarray) -> Any:
    """The format of a sparse [rows, columns] matrix: rows dense, columns compressed."""
    kept = matrix != 0
    rows, columns = schema.DimensionMetadataT(), schema.DimensionMetadataT()
    rows.format, rows.denseSize = 0, matrix.shape[0]
    columns.format = 1
    columns.arraySegmentsType = columns.arrayIndicesType = schema.SparseIndexVector.Int32Vector
    columns.arraySegments, columns.arrayIndices = schema.Int32VectorT(), schema.Int32VectorT()
    columns.arraySegments.values = [0, *np.cumsum(kept.sum(axis=1)).tolist()]
    columns.arrayIndices.values = np.nonzero(kept)[1].tolist()
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder, sparsity.dimMetadata = [0, 1], [rows, columns]
    return sparsity
