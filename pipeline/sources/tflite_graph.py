"""A TFLite subgraph as an ONNX model: edges under their own names, operators one by one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from optim.errors import UnsupportedModelError, UserError
from pipeline.sources.contract import SourceLayer
from pipeline.sources.tflite_model import Operator, Subgraph, Tensor, TfliteModel
from pipeline.sources.tflite_ops.build import OPSET, Build, Held
from pipeline.sources.tflite_ops.catalog import CUSTOM_HANDLERS, HANDLERS

_IR_VERSION = 8
RANDOM = frozenset({"MULTINOMIAL", "RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM", "STABLEHLO_RNG_BIT_GENERATOR"})


def convert_entry(
    source: TfliteModel, shapes: Mapping[str, tuple[int, ...] | None]
) -> tuple[ir.Model, tuple[SourceLayer, ...]]:
    """The entry graph of ``source`` at opset 13, and what each of its operators became.

    ``shapes`` gives input shapes by tensor name, -1 for a free dimension.

    Raises:
        UserError: ``shapes`` names no input, or has another rank.
        UnsupportedModelError: an operator cannot be carried over; names it.
    """
    subgraph = _with_shapes(source.main, shapes)
    subgraphs = (subgraph, *source.subgraphs[1:])
    build = Build(subgraph, subgraphs=subgraphs, handlers={**HANDLERS, **CUSTOM_HANDLERS}, active=(0,))
    for number in source.reachable():
        _refuse_unknown(Build(subgraphs[number]))
    build.names |= {subgraph.tensors[i].name for i in (*subgraph.inputs, *subgraph.outputs)}
    inputs = [_input(build, index) for index in subgraph.inputs]
    build.run()
    outputs = [_output(build, index) for index in subgraph.outputs]
    graph = ir.Graph(
        inputs,
        outputs,
        nodes=build.nodes,
        initializers=list(build.initializers.values()),
        opset_imports={"": OPSET},
        name=subgraph.name or "main",
    )
    layers = tuple(_layer(build, operator) for operator in subgraph.operators)
    return ir.Model(graph, ir_version=_IR_VERSION, producer_name="fairlead"), layers


def _with_shapes(subgraph: Subgraph, shapes: Mapping[str, tuple[int, ...] | None]) -> Subgraph:
    tensors = list(subgraph.tensors)
    by_name = {tensors[index].name: index for index in subgraph.inputs}
    for name, shape in shapes.items():
        if name not in by_name:
            raise UserError(f"the model has no input {name!r}", where="inputs", expected=", ".join(by_name))
        if shape is None:
            continue
        tensor = tensors[by_name[name]]
        if len(shape) != tensor.rank:
            raise UserError(f"the shape given has rank {len(shape)}, the input has {tensor.rank}", where=name)
        dims = tuple(None if size < 0 else size for size in shape)
        for size, own in zip(dims, tensor.dims, strict=True):
            if own is not None and size != own:
                raise UserError(
                    f"shape {shape} was given, but the model was built for {list(tensor.dims)}",
                    where=name,
                    hint="leave the shape out; a TFLite file fixes its shapes when it is made",
                )
        tensors[by_name[name]] = Tensor(
            tensor.index, tensor.name, dims, tensor.dtype, tensor.data, tensor.quantization, tensor.variable
        )
    return Subgraph(subgraph.name, tuple(tensors), subgraph.inputs, subgraph.outputs, subgraph.operators)


def _refuse_unknown(build: Build) -> None:
    for operator in build.subgraph.operators:
        if operator.name in (CUSTOM_HANDLERS if operator.custom else HANDLERS):
            continue
        place = build.place(operator)
        kind = "custom operator" if operator.custom else "operator"
        random = operator.name in RANDOM
        raise UnsupportedModelError(
            f"TFLite {kind} {operator.name} "
            + ("draws random numbers: two runs would differ" if random else "has no counterpart here"),
            where=place,
            hint=_hint(operator),
            op=operator.name,
            node=place,
            layer=place,
        )


def _hint(operator: Operator) -> str:
    if operator.custom and operator.name.startswith("Flex"):
        return (
            "it is a TensorFlow operator that TFLite hands back to TensorFlow (SELECT_TF_OPS): convert the "
            "SavedModel or Keras model that the .tflite file was made from"
        )
    return "convert the framework's own model instead of the .tflite file"


def _input(build: Build, index: int) -> ir.Value:
    """A graph input under the tensor's own name and type; integers become reals behind it."""
    tensor = build.tensor(index)
    value = ir.Value(
        name=tensor.name,
        shape=ir.Shape([_dimension(tensor, axis) for axis in range(tensor.rank)]),
        type=ir.TensorType(ir.DataType.from_numpy(tensor.dtype)),
    )
    reals = value
    if tensor.dtype == np.float16:
        reals = build.op("Cast", [value], to=int(ir.DataType.FLOAT))
    if tensor.quantization is not None and build.is_quantized(index):
        if tensor.dtype == np.int16:
            scale = build.real(float(tensor.quantization.scales[0]), "scale")
            reals = build.op("Mul", [build.op("Cast", [value], to=int(ir.DataType.FLOAT)), scale])
        else:
            reals = build.dequantize(value, tensor.dtype, tensor.quantization)
    build.held[index] = Held(source=reals)
    return value


def _dimension(tensor: Tensor, axis: int) -> int | str:
    size = tensor.dims[axis]
    if size is not None:
        return size
    return "batch" if axis == 0 else f"{tensor.name}_dim{axis}"


def _output(build: Build, index: int) -> ir.Value:
    """The graph output under the tensor's own name and type."""
    tensor = build.tensor(index)
    build.current = None
    value = build.get(index)
    if tensor.quantization is not None and build.is_quantized(index):
        if tensor.dtype == np.int16:
            scale = build.real(float(tensor.quantization.scales[0]), "scale")
            steps = build.op("Round", [build.op("Div", [value, scale])])
            value = build.op("Cast", [steps], to=int(ir.DataType.INT16))
        else:
            value = _stored(value) or build.quantize(value, tensor.dtype, tensor.quantization)
    if tensor.dtype == np.float16:
        value = build.op("Cast", [value], to=int(ir.DataType.FLOAT16))
    node = value.producer()
    if node is None or value.name in _edge_names(build) or value.name == tensor.name:
        value = build.op("Identity", [value])
    value.name = tensor.name
    value.type = ir.TensorType(ir.DataType.from_numpy(tensor.dtype))
    value.shape = ir.Shape([_dimension(tensor, axis) for axis in range(tensor.rank)])
    return value


def _stored(value: ir.Value) -> ir.Value | None:
    """The integers that ``value`` was just made from, where a DequantizeLinear of them made it."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    stored = node.inputs[0]
    return stored if stored.producer() is not None else None


def _edge_names(build: Build) -> set[str]:
    graph = build.subgraph
    return {graph.tensors[i].name for i in (*graph.inputs, *graph.outputs)}


def _layer(build: Build, operator: Operator) -> SourceLayer:
    graph = build.subgraph
    output = graph.tensors[operator.outputs[0]] if operator.outputs else None
    weights = [graph.tensors[i] for i in operator.inputs if i >= 0 and graph.tensors[i].data is not None]
    producers = {index: op for op in graph.operators for index in op.outputs}
    held = build.held.get(operator.outputs[0]) if operator.outputs else None
    value = None if held is None else held.source or held.channels_first
    return SourceLayer(
        name=output.name if output is not None else f"operator_{operator.index}",
        op=operator.name,
        outputs=() if value is None or value.name is None else (value.name,),
        output_shape=() if output is None else output.dims,
        parameters=sum(
            w.data.size for w in weights if w.data is not None and (w.dtype.kind == "f" or w.quantization)
        ),
        weights=tuple((w.name, tuple(d or 0 for d in w.dims)) for w in weights),
        padding={0: "same", 1: "valid"}.get(operator.option("padding", -1), ""),
        inbound=tuple(graph.tensors[producers[i].outputs[0]].name for i in operator.inputs if i in producers),
    )
