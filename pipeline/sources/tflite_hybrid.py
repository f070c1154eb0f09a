"""Hybrid operators: float data, integer weights. TFLite rounds their data to 8 bits at run time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.sources.tflite_model import Operator, Subgraph, flatbuffer_schema, parse_tflite

_HYBRID = ("CONV_2D", "CONV_3D_TRANSPOSE", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL",
           "TRANSPOSE_CONV", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN")  # fmt: skip


def hybrid_operators(subgraph: Subgraph) -> tuple[Operator, ...]:
    """Operators of ``subgraph`` with float data and quantised constant weights."""
    found = []
    for operator in subgraph.operators:
        if operator.name not in _HYBRID:
            continue
        operands = [subgraph.tensors[index] for index in operator.inputs if index >= 0]
        floats = any(t.data is None and t.dtype.kind == "f" for t in operands)
        integers = any(
            t.data is not None and t.quantization is not None and t.dtype.itemsize == 1 for t in operands
        )
        if floats and integers:
            found.append(operator)
    return tuple(found)


def with_float_weights(content: bytes) -> bytes:
    """The flatbuffer with the weights of its hybrid operators as the reals they stand for.

    It computes what the model says, without the rounding of data that TFLite adds at run time: the reference
    for the converted model, which does the same. Without hybrid operators ``content`` comes back as it is.
    """
    graphs = parse_tflite(content, Path("model.tflite")).subgraphs
    hybrid = [hybrid_operators(graph) for graph in graphs]
    if not any(hybrid):
        return content
    import flatbuffers

    schema = flatbuffer_schema()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for graph, operators, stored_graph in zip(graphs, hybrid, model.subgraphs, strict=True):
        for index in sorted({index for operator in operators for index in operator.inputs if index >= 0}):
            tensor = graph.tensors[index]
            if tensor.data is None or tensor.quantization is None or tensor.dtype.itemsize != 1:
                continue
            reals = tensor.quantization.reals(tensor.data)
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(reals.tobytes(), np.uint8)
            stored = stored_graph.tensors[index]
            stored.type, stored.quantization, stored.sparsity = schema.TensorType.FLOAT32, None, None
            stored.buffer = len(model.buffers)
            model.buffers.append(buffer)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
